"""Images resampled under affine maps, twice differentiable."""

import torch
from torch import Tensor


def affine_warp(images: Tensor, maps: Tensor) -> Tensor:
    """Resample images bilinearly; beyond the borders they are mirrored, again and again.

    Written as four gathers: torch's ``grid_sample`` is twice differentiable only in its latest
    versions, and its positions, relative to the image's size, are rounded on the way.

    Args:
        images: [N, C, H, W]; a side is 2 pixels or more.
        maps: [N, 3, 3], from a pixel of the result to the point that it shows, both (x, y, 1) in
            pixels from the image's centre, y downwards; the last row is (0, 0, 1).
    Returns:
        [N, C, H, W], of the wider of the two dtypes.
    Guarantees: twice differentiable in ``images``; a point that is a pixel's centre gives that
        pixel, bit for bit.
    """
    (left, right, x), (top, bottom, y) = _neighbours(maps, images.shape[2], images.shape[3])
    width = images.shape[3]
    flat = images.flatten(2)

    def pixels(row: Tensor, column: Tensor) -> Tensor:
        index = (row * width + column).flatten(1)[:, None].expand(-1, flat.shape[1], -1)
        return flat.gather(2, index).view(images.shape)

    above, below = (
        start + x * (pixels(row, right) - start)
        for row, start in ((top, pixels(top, left)), (bottom, pixels(bottom, left)))
    )
    return above + y * (below - above)


Neighbours = tuple[Tensor, Tensor, Tensor]
"""Along one side: indices of the pixels before and after a point, [N, H, W], and how far it is from
the first to the second, [N, 1, H, W]."""


def _neighbours(maps: Tensor, height: int, width: int) -> tuple[Neighbours, Neighbours]:
    """Return what lies around the points of the result, across and down."""
    across, down = (
        torch.arange(size, dtype=maps.dtype, device=maps.device) - (size - 1) / 2
        for size in (width, height)
    )
    # Written out: a matrix product may round to ten bits of mantissa, half a pixel at 512 px.
    points = (
        row[:, 0, None, None] * across
        + row[:, 1, None, None] * down[:, None]
        + row[:, 2, None, None]
        for row in maps[:, :2].unbind(dim=1)
    )
    x, y = (_along(p, size) for p, size in zip(points, (width, height), strict=True))
    return x, y


def _along(offset: Tensor, size: int) -> Neighbours:
    """Find the pixels around points given by their offset from the centre of a side."""
    last = size - 1
    # Mirrored at the first and the last pixel's centre: a zigzag of period 2 · last.
    position = last - ((offset + last / 2).remainder(2 * last) - last).abs()
    before = position.floor()
    first = before.long()
    return first, (first + 1).clamp(max=last), (position - before)[:, None]
