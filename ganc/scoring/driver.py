"""Running a scorer over its batches: in one process or several, to the end or until it is sure."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from ganc import parallel
from ganc.scores import kept_channels
from ganc.scoring.request import ScoreRequest

if TYPE_CHECKING:
    from ganc.scoring.scorer import Scorer, State

ENOUGH_OVERLAP = 0.99
"""Share of the kept channels on which the two halves of the samples must agree to stop early."""
LOOKS = 2
"""Looks in a row at which they must: one alone may agree by chance."""
GROWTH = 1.15
"""Of the sample count from one look at the halves to the next, at least."""
LOOK_UNIT = 8
"""Looks fall on multiples of so many batches: the same for one, two, four or eight processes."""


class Run(NamedTuple):
    """What a method measured of one side.

    Attributes:
        values: Group name → scores [width].
        samples: What they took.
        thresholds: Group name → the least score that stays at the method's own budget.
        facts: What else is worth keeping beside the settings; JSON data.
    """

    values: dict[str, Tensor]
    samples: int
    thresholds: Mapping[str, float] = MappingProxyType({})
    facts: Mapping[str, Any] = MappingProxyType({})


def run(scorer: "Scorer", request: ScoreRequest) -> Run:
    """Add up the batches and finish.

    Process r of n takes batches r, r + n, …, so the numbers do not depend on how many processes
    there are by more than the order of additions. With ``request.until_stable`` even and odd
    batches are added up apart, and it stops as soon as both halves keep the same channels at
    ``request.prune_ratio``.
    """
    ranges = scorer.batches()
    sums = [scorer.empty() for _ in range(2 if request.until_stable else 1)]
    processes = parallel.world_size()
    phase = "scoring" if scorer.network == "generator" else f"scoring {scorer.network}"
    next_look = agreed = 0
    for first in range(0, len(ranges), processes):
        own = first + parallel.rank()
        if own < len(ranges):
            scorer.add(sums[own % len(sums)], own, ranges[own])
        done = min(first + processes, len(ranges))
        samples = ranges[done - 1].stop
        request.progress(phase, samples, request.samples)
        is_look = done // LOOK_UNIT > first // LOOK_UNIT and samples >= next_look
        if request.until_stable and is_look:
            is_same = _agree(scorer, sums, ranges[:done], request.prune_ratio)
            agreed = agreed + 1 if is_same else 0
            if agreed == LOOKS:
                return Run(_finish(scorer, sums, samples), samples)
            next_look = int(samples * GROWTH)
    return Run(_finish(scorer, sums, request.samples), request.samples)


def _finish(scorer: "Scorer", sums: "Sequence[State]", samples: int) -> dict[str, Tensor]:
    total, *others = sums
    for other in others:
        for name, tensor in other.items():
            total[name] += tensor
    return scorer.finish(parallel.all_sum_(total), samples)


def _agree(
    scorer: "Scorer", halves: "Sequence[State]", ranges: Sequence[range], prune_ratio: float
) -> bool:
    counts = [sum(map(len, ranges[parity::2])) for parity in (0, 1)]
    sums = map(parallel.all_sum, halves)
    even, odd = (scorer.finish(s, count) for s, count in zip(sums, counts, strict=True))
    if not any(values.any() for values in even.values()):
        return False  # where nothing was measured yet, there is nothing to agree on
    return overlap(even, odd, prune_ratio) >= ENOUGH_OVERLAP


def overlap(one: Mapping[str, Tensor], other: Mapping[str, Tensor], prune_ratio: float) -> float:
    """Return the share of the kept channels, over all groups, that two scores both keep."""
    shared = kept = 0
    for name, values in one.items():
        mine, theirs = (set(kept_channels(v, prune_ratio)) for v in (values, other[name]))
        shared += len(mine & theirs)
        kept += len(mine)
    return shared / kept
