"""Which widths a budget leaves: families of plans, and the first of a family that fits."""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ganc.devices import resolve_device
from ganc.groups import ChannelGroup, widths_of
from ganc.models.model import Model
from ganc.progress import Progress, Warn
from ganc.pruning.costs import Cost, Macs, Params, macs_at_speedup
from ganc.pruning.latency.latency import latency_of
from ganc.pruning.latency.measuring import Stand
from ganc.pruning.options import GLOBAL, THRESHOLD, UNIFORM, PruneOptions
from ganc.pruning.slicing import Widths
from ganc.scores import Scores


@dataclass(frozen=True)
class Allocation:
    """A family of plans from the largest to the smallest: each level removes at least as much.

    Attributes:
        levels: Settings of each level ("prune_ratio" as the user would give it).
        widths: Level → channels that stay per group.
        own: The level of the budget that the scores carry, where they do.
    """

    levels: Sequence[float]
    widths: Callable[[float], Widths]
    own: float = 0.0


def _uniform(groups: Sequence[ChannelGroup], scores: Scores, min_width: int) -> Allocation:
    def widths(ratio: float) -> Widths:
        return {group.name: group.width - int(ratio * group.width) for group in groups}

    # int(ratio · n) changes at these ratios only; the step up makes int() see k, not k − 1.
    steps = {math.nextafter(k / g.width, 1.0) for g in groups for k in range(1, g.width)}
    return Allocation(sorted({0.0, *steps}), widths)


def _global(groups: Sequence[ChannelGroup], scores: Scores, min_width: int) -> Allocation:
    def relative(group: str) -> Tensor:
        values = scores.values[group]
        return values / values.mean() if values.mean() > 0 else values

    return _ranked(groups, {group.name: relative(group.name) for group in groups}, min_width)


def _threshold(groups: Sequence[ChannelGroup], scores: Scores, min_width: int) -> Allocation:
    """Rank by the distance of a score's logit from the threshold's; 0 and more stays."""
    distances = {}
    for group in groups:
        own = _logit(scores.values[group.name])
        distances[group.name] = own - _logit(
            torch.tensor(scores.thresholds[group.name], dtype=torch.float64)
        )
    family = _ranked(groups, distances, min_width)
    kept = sum(min(len(own), max(min_width, int((own >= 0).sum()))) for own in distances.values())
    total = sum(group.width for group in groups)
    # Ratios count removed channels, and int(ratio · n) must see them all.
    return replace(family, own=math.nextafter((total - kept) / total, 1.0) if kept < total else 0.0)


def _logit(probabilities: Tensor) -> Tensor:
    tiny = torch.finfo(torch.float64).tiny
    return probabilities.clamp(min=tiny).log() - (1 - probabilities).clamp(min=tiny).log()


def _ranked(
    groups: Sequence[ChannelGroup], values: Mapping[str, Tensor], min_width: int
) -> Allocation:
    """Remove the lowest values first, wherever they are."""
    candidates = []
    for position, group in enumerate(groups):
        own = values[group.name]
        ranked = sorted(range(group.width), key=lambda c: (-float(own[c]), c))
        candidates += [(float(own[c]), -c, position) for c in ranked[min_width:]]
    order = [groups[position].name for *_, position in sorted(candidates)]
    total = sum(group.width for group in groups)

    def widths(ratio: float) -> Widths:
        remaining = widths_of(groups)
        for name in order[: int(ratio * total)]:
            remaining[name] -= 1
        return remaining

    levels = [0.0] + [math.nextafter(k / total, 1.0) for k in range(1, len(order) + 1)]
    return Allocation(levels, widths)


ALLOCATIONS: dict[str, Callable[[Sequence[ChannelGroup], Scores, int], Allocation]] = {
    UNIFORM: _uniform,
    GLOBAL: _global,
    THRESHOLD: _threshold,
}


def cost_of(
    model: Model,
    options: PruneOptions,
    student: Callable[[Widths], Model] | None,
    *,
    device: str | torch.device,
    progress: Progress,
    warn: Warn,
) -> Cost:
    """Return what the budget counts, and how much of it a plan may have.

    Args:
        options: One budget is given, and it is no ratio.
        student: Widths → the model that they leave; None measures none.
        device, progress, warn: Where and to whom a latency is measured.
    Raises:
        UsageError, InputError: See ``latency_of``.
    """
    ((name, value),) = options.budget.items()
    network = model.primary
    if name == "params":
        return Params(network, value)
    if name == "macs":
        return Macs(network, value)
    if name == "speedup":
        return macs_at_speedup(network, value)
    stand = Stand(options.runtime, options.dtype, options.batch, resolve_device(device))
    return latency_of(model, value, stand, student, progress, warn)


def level_within(family: Allocation, widths_at: Callable[[float], Widths], cost: Cost) -> float:
    """Return the first level whose cost fits.

    Raises:
        UsageError: None does.
    """
    while True:
        level = _first_within(family.levels, widths_at, cost)
        if level is None:
            level = min(reversed(family.levels), key=lambda own: cost.of(widths_at(own)))
        widths = widths_at(level)
        if cost.is_settled(widths):
            if cost.of(widths) > cost.most:
                raise cost.refusal(widths, level)
            return level


def _first_within(
    levels: Sequence[float], widths_at: Callable[[float], Widths], cost: Cost
) -> float | None:
    def fits(level: float) -> bool:
        return cost.of(widths_at(level)) <= cost.most

    if not cost.falls:
        return next(filter(fits, levels), None)
    first = bisect_left(levels, True, key=fits)
    return levels[first] if first < len(levels) else None
