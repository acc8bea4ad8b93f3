"""From scores and a budget to a plan, and from a plan to a smaller model.

A plan is plain data: the channels that stay. Looking at it and applying it are separate.
"""

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ganc.checkpoints.header import network_configs
from ganc.checkpoints.native import build_model
from ganc.errors import ScoresError, UsageError, unknown_name
from ganc.groups import (
    ChannelGroup,
    check_groups,
    count_macs,
    count_params,
    slice_tensors,
    sliced_shapes,
    widths_of,
)
from ganc.models.model import Model
from ganc.scores import Scores, top_channels

Widths = dict[str, int]

_BUDGET_FLAGS = "--prune-ratio, --macs, --speedup, --params"


@dataclass(frozen=True)
class PrunePlan:
    """Which channels stay.

    Attributes:
        keep: Group name → sorted indices of the kept channels. Absent groups stay whole.
        settings: How the plan came about (method, budget, allocation, …). JSON data.
    """

    keep: Mapping[str, Sequence[int]]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def widths(self) -> Widths:
        """Return group name → channels that stay, for the groups the plan speaks of."""
        return {name: len(channels) for name, channels in self.keep.items()}

    def to_json(self) -> str:
        """Return the plan as a JSON document."""
        keep = {name: list(channels) for name, channels in self.keep.items()}
        return json.dumps({"keep": keep, "settings": dict(self.settings)})

    @classmethod
    def from_json(cls, text: str) -> "PrunePlan":
        """Read what ``to_json`` wrote."""
        document = json.loads(text)
        return cls(document["keep"], document["settings"])


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


def prune(
    model: Model,
    scores: Scores,
    *,
    prune_ratio: float | None = None,
    macs: float | None = None,
    speedup: float | None = None,
    params: float | None = None,
    allocation: str | None = None,
    round_to: int = 1,
    min_width: int = 1,
) -> Model:
    """Return a smaller model that keeps the channels with the highest scores.

    One budget is given; a budget on the count gives the largest plan that does not exceed it.
    Scores with thresholds carry a budget of their own, which holds where none is given. The source
    model is untouched.

    Args:
        model: The model that was scored.
        scores: From any method.
        prune_ratio: Fraction removed of every group's n channels: n − int(ratio · n) stay.
        macs: Multiply-accumulates per image at most.
        speedup: MACs before / MACs after at least.
        params: Generator parameters at most.
        allocation: "uniform" removes the same fraction of each group; "global" removes the lowest
            scores, relative to their group's mean, wherever they are; "threshold" shifts the
            thresholds of scores that have them, on the scale of logits. None takes "threshold"
            where the scores have thresholds, else "uniform".
        round_to: Widths are rounded up to a multiple (never above the group's width).
        min_width: Channels that every group keeps at least.
    Raises:
        UsageError: No or several budgets, a value out of range, a budget that cannot be met,
            thresholds asked of scores that have none.
        ScoresError: The scores belong to another model.
    """
    plan = make_plan(
        model, scores, prune_ratio=prune_ratio, macs=macs, speedup=speedup, params=params,
        allocation=allocation, round_to=round_to, min_width=min_width,
    )  # fmt: skip
    return apply_plan(model, plan)


def make_plan(
    model: Model,
    scores: Scores,
    *,
    prune_ratio: float | None = None,
    macs: float | None = None,
    speedup: float | None = None,
    params: float | None = None,
    allocation: str | None = None,
    round_to: int = 1,
    min_width: int = 1,
) -> PrunePlan:
    """Choose the channels that stay. Arguments and errors are those of ``prune``."""
    budget = resolve_budget(
        prune_ratio=prune_ratio, macs=macs, speedup=speedup, params=params,
        allocation=allocation, round_to=round_to, min_width=min_width,
    )  # fmt: skip
    allocation = allocation or (THRESHOLD if scores.thresholds else UNIFORM)
    _check_thresholds(scores, budget, allocation)
    groups = _scored_groups(model, scores)
    family = ALLOCATIONS[allocation](groups, scores, min_width)

    def widths_at(level: float) -> Widths:
        widths = family.widths(level)
        return {g.name: _round(widths[g.name], g.width, min_width, round_to) for g in groups}

    _check_counted(model, groups, budget)
    level = _level_within(model, family, widths_at, budget)
    widths = widths_at(level)
    keep = {g.name: top_channels(scores.values[g.name], widths[g.name]) for g in groups}
    settings = {
        **budget, "prune_ratio": level, "allocation": allocation, "round_to": round_to,
        "min_width": min_width, "method": scores.method, "scores": dict(scores.settings),
    }  # fmt: skip
    return PrunePlan(keep, settings)


def resolve_budget(
    *,
    prune_ratio: float | None = None,
    macs: float | None = None,
    speedup: float | None = None,
    params: float | None = None,
    allocation: str | None = None,
    round_to: int = 1,
    min_width: int = 1,
) -> dict[str, float]:
    """Check what ``prune`` is asked for, as far as that needs neither model nor scores.

    Returns:
        The one budget that is given, under its name, or nothing.
    Raises:
        UsageError: Several budgets, or a value out of range.
    """
    budget = _one_budget(prune_ratio=prune_ratio, macs=macs, speedup=speedup, params=params)
    if allocation is not None and allocation not in ALLOCATIONS:
        raise unknown_name("allocation", allocation, ALLOCATIONS)
    for name, value in (("--round-to", round_to), ("--min-width", min_width)):
        if value < 1:
            raise UsageError(f"{name} {value} is below 1")
    return budget


def apply_plan(model: Model, plan: PrunePlan) -> Model:
    """Slice a model; any valid plan, the identity included.

    Returns:
        A new model in eval mode. Its provenance records the plan.
    Raises:
        UsageError: The plan names unknown groups or channels, or empties a group.
        ShapeError: The model declares a slice of a tensor that it does not have.
        CheckpointError: It has a tensor that depends on a width and belongs to no group.
    """
    whole = model.tensors()
    check_groups(model.groups, {name: tuple(tensor.shape) for name, tensor in whole.items()})
    tensors = slice_tensors(whole, model.groups, plan.keep)
    config = with_widths(model.config, plan.widths())
    kept = {name: list(channels) for name, channels in plan.keep.items()}
    provenance = model.with_step("prune", settings=dict(plan.settings), kept=kept)
    return build_model(model.architecture, config, tensors, provenance)


def with_widths(config: Mapping[str, Any], widths: Mapping[str, int]) -> dict[str, Any]:
    """Return a model's config at other group widths; groups that are not named keep theirs."""
    changed = copy.deepcopy(dict(config))
    configs = {"": changed} | {
        f"{name}.": changed[name]["config"] for name in network_configs(changed) if name in changed
    }
    for group, width in widths.items():
        network = next(p for p in sorted(configs, key=len, reverse=True) if group.startswith(p))
        configs[network]["widths"][group.removeprefix(network)] = width
    return changed


def removes_nothing(model: Model, plan: PrunePlan) -> bool:
    """Whether a plan keeps every channel."""
    widths = model.widths
    return all(len(channels) == widths[name] for name, channels in plan.keep.items())


def _one_budget(**budgets: float | None) -> dict[str, float]:
    given = {name: value for name, value in budgets.items() if value is not None}
    if not given:
        return {}
    if len(given) > 1:
        found = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"exactly one of {_BUDGET_FLAGS} must be given, got {found}")
    ((name, value),) = given.items()
    if name == "prune_ratio" and not 0 <= value < 1:
        raise UsageError(
            f"--prune-ratio {value:g} is outside [0, 1)",
            "it is the fraction removed; to keep 20 % pass --prune-ratio 0.8",
        )
    if name != "prune_ratio" and not (value > 0 and math.isfinite(value)):
        raise UsageError(f"--{name} {value:g} must be a positive number")
    return given


def _check_thresholds(scores: Scores, budget: Mapping[str, float], allocation: str) -> None:
    if allocation == THRESHOLD and not scores.thresholds:
        raise UsageError(
            f"--allocation threshold shifts the thresholds that scores carry, these of"
            f" {scores.method} have none",
            "pass --allocation uniform or global",
        )
    if not budget and not scores.thresholds:
        raise UsageError(
            f"exactly one of {_BUDGET_FLAGS} must be given, got none",
            f"only scores that were learned for a budget carry one, those of {scores.method} not",
        )
    if not budget and allocation != THRESHOLD:
        raise UsageError(
            f"--allocation {allocation} needs a budget: the scores' own is in their thresholds",
            f"add one of {_BUDGET_FLAGS}, or leave --allocation out",
        )


def _scored_groups(model: Model, scores: Scores) -> list[ChannelGroup]:
    """Return the groups that the scores speak of, in network order.

    Raises:
        ScoresError: They are not this model's.
    """
    by_name = {group.name: group for group in model.groups}
    for name, values in scores.values.items():
        if name not in by_name:
            raise ScoresError(f"the scores name group {name}, which the model does not have")
        if len(values) != by_name[name].width:
            raise ScoresError(
                f"the scores hold {len(values)} channels for group {name}, the model has"
                f" {by_name[name].width}",
                "score this checkpoint: ganc score CKPT",
            )
    if scores.content_hash not in (None, model.content_hash()):
        raise ScoresError(
            f"the scores are of another checkpoint ({str(scores.content_hash)[:12]}…)",
            "score this checkpoint: ganc score CKPT",
        )
    return [g for g in model.groups if g.name in scores.values and g.prunable]


def _check_counted(
    model: Model, groups: Sequence[ChannelGroup], budget: Mapping[str, float]
) -> None:
    """Refuse a budget that the groups to be pruned have no part in."""
    name, network = next(model.networks())
    prefix = "" if name == "generator" else f"{name}."
    counted = {prefix + group.name for group in network.groups()}
    if (
        budget
        and "prune_ratio" not in budget
        and not any(group.name in counted for group in groups)
    ):
        raise UsageError(
            f"--{next(iter(budget))} counts the {name}, of which the scores hold nothing",
            "pass --prune-ratio, or score the generator as well",
        )


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


UNIFORM, GLOBAL, THRESHOLD = "uniform", "global", "threshold"

ALLOCATIONS: dict[str, Callable[[Sequence[ChannelGroup], Scores, int], Allocation]] = {
    UNIFORM: _uniform,
    GLOBAL: _global,
    THRESHOLD: _threshold,
}


def _round(kept: int, width: int, min_width: int, round_to: int) -> int:
    kept = max(kept, min_width)
    return min(width, -(-kept // round_to) * round_to)


def _level_within(
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
