"""Pixels as the mask networks want them, and masks as large as the images."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganc.data.images import to_uint8
from ganc.perceptual.channels import as_colour


def to_rgb_uint8(images: Tensor) -> Tensor:
    """Return generated images as a file would show them in colour.

    Args:
        images: [N, C, H, W], nominal range [-1, 1]; grey is repeated, RGBA composited onto white.
    Returns:
        [N, 3, H, W], uint8, same device.
    """
    if images.shape[1] == 4:
        colour, alpha = images[:, :3], ((images[:, 3:] + 1) / 2).clamp(0, 1)
        images = colour * alpha + (1 - alpha)
    return as_colour(to_uint8(images))


def fit_masks(masks: Tensor, height: int, width: int) -> Tensor:
    """Bring masks to an image's size as the published code does: Pillow's nearest pixel.

    Args:
        masks: [N, h, w], bool.
    Returns:
        [N, height, width], bool, on the CPU.
    """
    masks = masks.cpu()
    if masks.shape[1:] == (height, width):
        return masks
    pictures = [
        Image.fromarray(mask.numpy()).resize((width, height), Image.Resampling.NEAREST)
        for mask in masks
    ]
    return torch.from_numpy(np.stack([np.array(picture) for picture in pictures]))
