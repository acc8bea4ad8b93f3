"""Which layers stay in float where a network is computed in 8 bits: measured, not guessed."""

from collections.abc import Callable, Collection, Mapping

from torch import Tensor

LIMIT = 0.03
"""Root mean square by which int8 may move the images, over their standard deviation (30 dB).

Of the 32 px faces in OpenVINO, ``effnet-lite0`` distance beside it: 0.071 (0.062) with every
convolution in 8 bits, 0.051 (0.040) with 7 of 11 in float, 0.019 (0.003) with 10; bfloat16 alone
moves them by 0.018 (0.0015).
"""

CALIBRATION = [range(start, start + 4) for start in range(2_000_000, 2_000_032, 4)]
"""Samples whose activations set the ranges of int8, by batch; never those that are compared."""

JUDGED = range(3_000_000, 3_000_008)
"""Samples whose images say what a layer stands; others than those, which no range clips."""


def layers_in_float(
    macs: Mapping[str, int], images: Callable[[Collection[str]], Tensor], expected: Tensor
) -> list[str]:
    """Return the layers that have to stay in float for ``LIMIT`` to hold.

    Each layer is computed in 8 bits alone; those with the largest squared error for the work that
    they would save stay in float, as few as the limit allows.

    Args:
        macs: Layer that could be computed in 8 bits → its multiply-accumulates per image.
        images: From the layers that stay in float to the images of ``JUDGED``.
        expected: The images with every layer in float.
    """

    def error(kept: Collection[str]) -> float:
        return ((images(kept) - expected).square().mean().sqrt() / expected.std()).item()

    if error(()) <= LIMIT:
        return []
    price = {name: error(set(macs) - {name}) ** 2 / macs[name] for name in macs}
    order = sorted(macs, key=lambda name: -price[name])
    too_few, enough = 0, len(order)  # all in float is exact
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if error(order[:middle]) <= LIMIT:
            enough = middle
        else:
            too_few = middle
    return order[:enough]
