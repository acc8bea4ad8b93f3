"""What a layer costs at any width, from a few widths at which it was measured.

Kernels work on blocks of 8 or 16 channels, so time is a staircase with a landing at every multiple
of 16: widths in between cost about what the multiple above them does, often more. Along each axis
multiples of 16 are measured (the least, the largest, the geometric mean of the two), all
combinations of them; in between, time is linear in each width, as multiply-accumulates are. Beside
the mean, and beside five eighths of the largest, a multiple of 8 alone and a width that is neither
are measured: what these cost, relative to the multiple of 16 above them, is a factor on the widths
of their kind, between the two places on a geometric line.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ganc.pruning.latency.layers import Sizes

BLOCK = 16
LEAST_BLOCKS = 3
"""Blocks from which on an axis is measured by them; a narrower one at 1, its width, and between."""

BESIDE = {8: 8, 1: 5}
"""Kind of width, by what divides it → channels above a multiple of 16 at which it is measured."""


class Span(NamedTuple):
    """How many channels one of a layer's axes may have.

    Attributes:
        least, most: How few and how many there may be; the least is the number of groups.
    """

    least: int
    most: int

    @property
    def has_blocks(self) -> bool:
        """Whether it is wide enough to be measured by blocks."""
        return self.most >= LEAST_BLOCKS * BLOCK

    def grid(self) -> list[int]:
        """Return the widths that all combinations are measured of."""
        step = BLOCK if self.has_blocks else 1
        low, high = max(step, self.least), self.most // step * step
        middle = round(math.sqrt(low * high) / step) * step
        return sorted({low, middle, high})

    def places(self) -> tuple[int, int]:
        """Return the widths beside which others are measured: the grid's mean, and a larger one."""
        grid = self.grid()
        middle = grid[len(grid) // 2]
        larger = self.most * 5 // 8 // BLOCK * BLOCK
        return middle, max(middle, larger) if self.has_blocks else middle

    def whole_blocks(self, width: int) -> int:
        """Return the multiple of a block that holds a width, if blocks count."""
        return -(-width // BLOCK) * BLOCK if self.has_blocks else width

    def kind(self, width: int) -> int | None:
        """Return the largest of 8 and 1 that divides a width; None where blocks count nothing."""
        if not self.has_blocks or width % BLOCK == 0:
            return None
        return next(kind for kind in BESIDE if width % kind == 0)


def sampled_sizes(axes: Sequence[Span]) -> list[Sizes]:
    """Return the sizes at which a layer is measured."""
    combined = itertools.product(*(axis.grid() for axis in axes))
    beside = (_beside(axes, kind, place) for place in (0, 1) for kind in BESIDE)
    return list(dict.fromkeys([*combined, *beside]))


def _beside(axes: Sequence[Span], kind: int, place: int) -> Sizes:
    """Return sizes of a kind, at a place of every axis; where no blocks count, the place's own."""
    return tuple(axis.places()[place] + BESIDE[kind] * axis.has_blocks for axis in axes)


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs at any width, in milliseconds.

    Attributes:
        axes: Its axes.
        measured: Of all ``sampled_sizes``.
    """

    axes: Sequence[Span]
    measured: Mapping[Sizes, float]

    def at(self, sizes: Sizes) -> float:
        """Return the milliseconds at some channels along its axes."""
        cost = self._on_line(sizes)
        having = sum(axis.has_blocks for axis in self.axes)
        for axis, size in zip(self.axes, sizes, strict=True):
            kind = axis.kind(size)
            if kind is not None:
                low, high = axis.places()
                along = min(1.0, max(0.0, (size - low) / max(1, high - low)))
                excess = self._excess(kind, 0) ** (1 - along) * self._excess(kind, 1) ** along
                cost *= excess ** (1 / having)
        return cost

    def _on_line(self, sizes: Sizes) -> float:
        """Return what whole blocks cost: interpolated, linear in each width."""
        corners = [
            _corners(axis.grid(), axis.whole_blocks(size))
            for axis, size in zip(self.axes, sizes, strict=True)
        ]
        return sum(
            math.prod(share for _, share in corner)
            * self.measured[tuple(width for width, _ in corner)]
            for corner in itertools.product(*corners)
        )

    def _excess(self, kind: int, place: int) -> float:
        """Return what widths of a kind cost at a place, relative to whole blocks."""
        beside = _beside(self.axes, kind, place)
        return self.measured[beside] / self._on_line(beside)


def _corners(grid: Sequence[int], size: int) -> list[tuple[int, float]]:
    """Return the widths between which a size lies, with the share that each has in it."""
    size = max(size, grid[0])
    if len(grid) == 1:
        return [(grid[0], 1.0)]
    above = next((i for i, width in enumerate(grid) if width >= size and i), len(grid) - 1)
    low, high = grid[above - 1], grid[above]
    share = (size - low) / (high - low)
    return [(low, 1 - share), (high, share)]
