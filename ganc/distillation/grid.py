"""Sample grids: teacher | student, the same latents and noise on both sides."""

import torch
from torch import Tensor

from ganc.data.grid import make_grid
from ganc.models.sampling import generate, latent_inputs
from ganc.models.stylegan2 import Generator

_COLUMNS, _ROWS = 4, 8


def sample_grid(teacher: Generator, student: Generator, seed: int) -> Tensor:
    """Return samples 0 … 31 of the seed, the teacher's left, the student's right.

    Returns:
        [C, H, W], nominal range [-1, 1], on the CPU; a white strip lies between the two.
    """
    inputs = latent_inputs(teacher, range(_ROWS * _COLUMNS), seed)
    left, right = (
        make_grid(generate(network, inputs), columns=_COLUMNS, gap=0)
        for network in (teacher, student)
    )
    strip = torch.ones(left.shape[0], left.shape[1], teacher.img_resolution // 4)
    return torch.cat([left, strip, right], dim=2)
