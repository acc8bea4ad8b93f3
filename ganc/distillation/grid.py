"""Sample grids: teacher | student, of the same latents and noise, or of the same images."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ganc.data import grid
from ganc.data.grid import make_grid
from ganc.models.labels import LabelTable
from ganc.models.network import LatentGenerator, Translator
from ganc.models.sampling import generate, latent_inputs

_COLUMNS, _ROWS = 4, 8


def sample_grid(
    teacher: LatentGenerator | None,
    student: LatentGenerator,
    seed: int,
    labels: LabelTable | None = None,
) -> Tensor:
    """Return samples 0 … 31 of the seed, the teacher's left, the student's right.

    Args:
        labels: See ``latent_inputs``.
    Returns:
        [C, H, W], nominal range [-1, 1], on the CPU; a white strip lies between the two. Without a
        teacher the student's alone.
    """
    inputs = latent_inputs(student, range(_ROWS * _COLUMNS), seed, labels=labels)
    sides = [
        make_grid(generate(network, inputs), columns=_COLUMNS, gap=0)
        for network in (teacher, student)
        if network is not None
    ]
    return side_by_side(sides, gap=student.img_resolution // 4)


@torch.no_grad()
def translation_grid(ways: Sequence[tuple[Tensor, Translator | None, Translator]]) -> Tensor:
    """Return a row for each image: itself, the teacher's translation, the student's.

    Args:
        ways: Per direction, images [N, C, H, W], the teacher if there is one, and the student, all
            on one device, the networks in eval mode.
    Returns:
        [C, H', W'], nominal range [-1, 1], on the CPU: one direction beside the other, a white
        strip between them.
    """
    pictures = []
    for images, *networks in ways:
        shown = [images, *(network(images) for network in networks if network is not None)]
        tiles = reduce(grid.side_by_side, (x.float().cpu() for x in shown))
        pictures.append(make_grid(tiles, columns=1, gap=0))
    return side_by_side(pictures, gap=ways[0][0].shape[3] // 4)


def side_by_side(pictures: list[Tensor], gap: int) -> Tensor:
    """Join pictures [C, H, W] of one height, with white strips of ``gap`` pixels between them."""
    strip = torch.ones(pictures[0].shape[0], pictures[0].shape[1], gap)
    parts = [part for picture in pictures for part in (strip, picture)]
    return torch.cat(parts[1:], dim=2)
