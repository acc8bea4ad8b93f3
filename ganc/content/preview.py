"""A picture of what masks protect."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.content.pixels import fit_masks, to_rgb_uint8
from ganc.data.grid import make_grid, zoom_for
from ganc.data.images import to_float

DIMMED = 0.3
"""Brightness that is left of what is not protected."""
OUTLINE = (1.0, 0.8, -1.0)  # yellow: rare in photographs, visible on dark and on bright
LARGEST_TILE = 256
SMALLEST_TILE = 128


def draw_masks(images: Tensor, masks: Tensor) -> Tensor:
    """Show images with what is protected bright, the rest dimmed, and the border between them.

    Args:
        images: [N, C, H, W], nominal range [-1, 1]; C is 1, 3 or 4.
        masks: [N, H, W], bool.
    Returns:
        A grid, [3, H', W'], in [-1, 1]; a tile has 128 to 256 px.
    """
    images = to_float(to_rgb_uint8(images.cpu()))
    side = min(images.shape[2] * zoom_for(images.shape[2], at_least=SMALLEST_TILE), LARGEST_TILE)
    is_smaller = side < images.shape[2]
    images = (
        F.interpolate(images, size=side, mode="bilinear", antialias=True) if is_smaller
        else F.interpolate(images, size=side, mode="nearest-exact")
    )  # fmt: skip
    masks = fit_masks(masks, side, side)[:, None]
    dimmed = (images + 1) * DIMMED - 1
    shown = torch.where(masks, images, dimmed)
    outline = torch.tensor(OUTLINE)[:, None, None]
    return make_grid(torch.where(_border(masks), outline, shown), gap=4)


def _border(masks: Tensor) -> Tensor:
    """Return the pixels outside that touch the inside, also across a corner: [N, 1, H, W]."""
    grown = F.max_pool2d(masks.float(), kernel_size=3, stride=1, padding=1) > 0
    return grown & ~masks
