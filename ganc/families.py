"""Facts of the families that more than one room needs. It loads no torch."""

ADVERSARIAL_NAMES = ("non-saturating", "hinge", "lsgan", "bce")
"""Forms of the adversarial loss; ``ganc.adversarial.FORMS`` has what they compute."""
