"""The self-test of a network that was just loaded: two fixed images, two sensible answers."""

from collections.abc import Callable

import torch

from ganc import seeds
from ganc.errors import WeightsError

TOLERANCE = 1e-3
"""Relative: CPU kernels differ by 1e-5 at most; a wrong weight, padding or range by far more."""
KNOWN_FEATURES = {"effnet-lite0": 0.0561607}
"""What feature networks must give; of the others nobody has recorded a number with the published
file yet."""
KNOWN_DISTANCES = {"effnet-lite0": 1.04937, "lpips-alex": 0.110598, "lpips-vgg": 0.317705}
"""The same of perceptual distances. LPIPS' were recorded when its published values came out."""
DISTANCE_ON = {"vgg16": "lpips-vgg", "alexnet": "lpips-alex", "squeezenet1_1": "lpips-squeeze"}
"""Weights → the distance that tests them."""


def known_number(weights: str) -> float | None:
    """Return what the self-test of some weights must give, None where nobody has recorded it."""
    if weights in DISTANCE_ON:
        return KNOWN_DISTANCES.get(DISTANCE_ON[weights])
    return KNOWN_FEATURES.get(weights)


def probe_images() -> torch.Tensor:
    """Return the images of every self-test, [2, 3, 64, 64] in [-1, 1]: noise, always the same."""
    return seeds.normal(0, "perceptual self-test", range(2), (3, 64, 64)).mul(0.5).clamp(-1, 1)


@torch.no_grad()
def probe(
    name: str,
    network: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
    known: float | None = None,
) -> float:
    """Refuse weights that load but compute something else than they always did.

    Where nobody has recorded a number with the published weights yet, the answers have to be
    finite, to vary within each image's, and to differ between the images.

    Args:
        name: Of the network, for the error.
        network: Images [2, 3, 64, 64] in [-1, 1] → answers [2, *shape].
        shape: Of one image's answer.
        known: The number that it must give.
    Returns:
        The answers' mean absolute value.
    Raises:
        WeightsError: See above.
    """
    answers = network(probe_images())
    if answers.shape != (2, *shape):
        raise _failure(name, f"answers of shape {list(answers.shape)}", str([2, *shape]))
    number = float(answers.double().abs().mean())
    spread = float(answers.flatten(1).std(dim=1).min())
    difference = float((answers[0] - answers[1]).abs().max())
    if not (0 < number < float("inf") and spread > 0 and difference > 0):
        raise _failure(name, f"{number:.6g} (spread {spread:.3g}, difference {difference:.3g})",
                       "finite answers that depend on the image")  # fmt: skip
    if known is not None and abs(number / known - 1) >= TOLERANCE:
        raise _failure(name, f"{number:.6g}", f"{known}")
    return number


def _failure(name: str, found: str, expected: str) -> WeightsError:
    return WeightsError(
        f"`{name}` gives {found} for its test images, expected {expected}",
        "its weights or the package that runs them are not the published ones",
    )
