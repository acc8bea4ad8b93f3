"""Sample grids: teacher | student, the same latents and noise on both sides."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ganc.data.images import to_uint8
from ganc.files import atomic_write
from ganc.models.sampling import generate, latent_inputs
from ganc.models.stylegan2 import Generator

_COLUMNS, _ROWS = 4, 8


def sample_grid(teacher: Generator, student: Generator, seed: int) -> Tensor:
    """Return samples 0 … 31 of the seed, the teacher's left, the student's right.

    Returns:
        [C, 8 R, 8 R + gap], uint8, on the CPU; the gap is white.
    """
    inputs = latent_inputs(teacher, range(_ROWS * _COLUMNS), seed)
    left, right = (_tile(to_uint8(generate(net, inputs)).cpu()) for net in (teacher, student))
    gap = left.new_full((left.shape[0], left.shape[1], teacher.img_resolution // 4), 255)
    return torch.cat([left, gap, right], dim=2)


def _tile(images: Tensor) -> Tensor:
    channels, height, width = images.shape[1:]
    table = images.reshape(_ROWS, _COLUMNS, channels, height, width)
    return table.permute(2, 0, 3, 1, 4).reshape(channels, _ROWS * height, _COLUMNS * width)


def save_png(path: Path, image: Tensor) -> None:
    """Write one image, [C, H, W] uint8, atomically; an existing file is replaced."""
    array = image[0] if image.shape[0] == 1 else image.permute(1, 2, 0)
    with atomic_write(path, force=True) as temporary:
        Image.fromarray(array.numpy()).save(temporary, "PNG")
