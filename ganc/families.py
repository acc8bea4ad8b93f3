"""One fact sheet per family, for code that loads no torch or knows no family.

A family that is not listed is an error, never a default. Its networks are in
``ganc.models.model.ARCHITECTURES``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ganc.errors import unknown_name

ADVERSARIAL_NAMES = ("non-saturating", "hinge", "lsgan", "bce")
"""Forms of the adversarial loss; ``ganc.adversarial.FORMS`` has what they compute."""

STYLE, SNGAN, TRANSLATION = "style", "sngan", "translation"
"""Kinds of training: what the families of one kind have in common is how a step goes."""


@dataclass(frozen=True)
class FactSheet:
    """What the published code of a family does, beside its networks.

    Attributes:
        training: Kind of training.
        adversarial: Form of the game, one of ``ADVERSARIAL_NAMES``; None where it depends on the
            task, see ``task_form``.
        sizes: Of a new generator: those that are not asked for and have no default.
        is_paired: Of translators: whether they learn from pairs where nothing else says so; None of
            others.
        alpha: Of ``diversity``: length of the step along a direction; None where there are no
            latents.
        gradient: Of ``diversity``: what the gradient goes through, "both" images or "base".
    """

    training: str
    adversarial: str | None
    sizes: Mapping[str, Any]
    is_paired: bool | None = None
    alpha: float | None = None
    gradient: str | None = None


_STYLEGAN_SIZES = {"z_dim": 512, "c_dim": 0, "w_dim": 512, "img_channels": 3}
_TRANSLATOR_SIZES = {"in_channels": 3, "img_channels": 3}

FAMILIES: dict[str, FactSheet] = {
    "stylegan2": FactSheet(STYLE, "non-saturating", _STYLEGAN_SIZES, alpha=5.0, gradient="both"),
    "stylegan3": FactSheet(STYLE, "non-saturating", _STYLEGAN_SIZES, alpha=10.0, gradient="base"),
    "sngan": FactSheet(
        SNGAN, "hinge", {"z_dim": 128, "img_channels": 3}, alpha=5.0, gradient="both"
    ),
    "unet_translator": FactSheet(TRANSLATION, None, _TRANSLATOR_SIZES, is_paired=True),
    "resnet_translator": FactSheet(TRANSLATION, None, _TRANSLATOR_SIZES, is_paired=False),
}
"""Architecture of the generator → its family."""


def family_of(architecture: str) -> FactSheet:
    """Return the fact sheet of a generator's family.

    Raises:
        UsageError: It has none.
    """
    if architecture not in FAMILIES:
        raise unknown_name("family", architecture, FAMILIES)
    return FAMILIES[architecture]


def task_form(*, is_paired: bool) -> str:
    """Return the form of a translator's game: pix2pix's for pairs, CycleGAN's without."""
    return "bce" if is_paired else "lsgan"
