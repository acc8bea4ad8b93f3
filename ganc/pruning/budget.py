"""Which widths a budget leaves: families of plans, and the first of a family that fits."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ganc.errors import UsageError
from ganc.groups import ChannelGroup, count_macs, count_params, sliced_shapes, widths_of
from ganc.models.model import Model
from ganc.pruning.options import GLOBAL, THRESHOLD, UNIFORM
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


def level_within(
    model: Model,
    family: Allocation,
    widths_at: Callable[[float], Widths],
    budget: Mapping[str, float],
) -> float:
    """Return the first level whose cost fits the budget; without one the scores' own.

    Raises:
        UsageError: Not even the last level fits.
    """
    if not budget:
        return family.own
    if "prune_ratio" in budget:
        return budget["prune_ratio"]
    levels = family.levels
    cost, target, unit = _cost(model, budget)
    if cost(widths_at(levels[-1])) > target:
        raise UsageError(
            f"no plan has at most {target:.6g} {unit}: the smallest has"
            f" {cost(widths_at(levels[-1]))}",
            "raise the budget, or lower --min-width or --round-to",
        )
    low, high = 0, len(levels) - 1
    while low < high:  # costs fall with the level: find the first that fits
        middle = (low + high) // 2
        if cost(widths_at(levels[middle])) <= target:
            high = middle
        else:
            low = middle + 1
    return levels[low]


def _cost(model: Model, budget: Mapping[str, float]) -> tuple[Callable[[Widths], int], float, str]:
    network = model.primary
    shapes, groups, positions = network.shapes(), network.groups(), network.mac_positions()
    parameters = [name for name, _ in network.named_parameters()]

    def macs(widths: Widths) -> int:
        return count_macs(sliced_shapes(shapes, groups, widths), positions)

    def params(widths: Widths) -> int:
        return count_params(sliced_shapes(shapes, groups, widths), parameters)

    if "params" in budget:
        return params, budget["params"], "parameters"
    if "macs" in budget:
        return macs, budget["macs"], "MACs"
    return macs, _macs_at_speedup(network.macs(), budget["speedup"]), "MACs"


def _macs_at_speedup(whole: int, speedup: float) -> int:
    """Return the most MACs, up to all of them, that ``whole`` is ``speedup`` times as many as.

    The quotient of the two counts decides, rounded as anybody gets it who divides them: the way
    back, ``whole / speedup``, may round below a plan that has the speedup asked for.
    """
    most = max(0, math.floor(min(whole, whole / speedup)) - 1)
    while most < whole and whole / (most + 1) >= speedup:
        most += 1
    return most
