"""From scores and a budget to a plan: plain data, the channels that stay.

Looking at a plan and applying it are separate; ``prune`` does both.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Unpack

import torch

from ganc.devices import resolve_device
from ganc.errors import ScoresError, UsageError
from ganc.groups import ChannelGroup
from ganc.models.model import Model
from ganc.options import options_of
from ganc.progress import Progress, Warn, ignore, silent
from ganc.pruning.budget import ALLOCATIONS, cost_of, level_within
from ganc.pruning.options import BUDGET_FLAGS, THRESHOLD, UNIFORM, PruneOptions, PruneSettings
from ganc.pruning.refit.refit import composed, kept_since, refit
from ganc.pruning.slicing import PrunePlan, Widths, apply_plan
from ganc.scores import Scores, top_channels


def prune(
    model: Model,
    scores: Scores,
    *,
    teacher: Model | None = None,
    device: str | torch.device = "auto",
    progress: Progress = silent,
    warn: Warn = ignore,
    **settings: Unpack[PruneSettings],
) -> Model:
    """Return a smaller model that keeps the channels with the highest scores.

    The source model is untouched.

    Args:
        model: The model that was scored.
        scores: From any method.
        teacher: With ``refit``: what the layers are fitted to, a model that ``model`` was pruned
            from; None is ``model`` itself.
        device: With ``refit``: where the layers are fitted. With ``latency``: where PyTorch is
            timed; other runtimes are on the CPU.
        progress, warn: Told how far a fit or a measurement is, and what its images, the scores or
            the cache lack.
        settings: See ``PruneOptions``; one budget is given.
    Raises:
        UsageError: No or several budgets, a value out of range, a budget that cannot be met,
            thresholds asked of scores that have none.
        ScoresError: The scores belong to another model.
        InputError, ComputationError: The runtime of ``latency`` is missing, lacks the precision,
            or cannot express the generator.
        TypeError: A setting is not known.
    """
    options = options_of(PruneOptions, settings)
    check_fit(options, teacher)
    plan = choose(model, scores, options, device=device, progress=progress, warn=warn)
    return sliced(
        model, plan, options, teacher=teacher, device=device, progress=progress, warn=warn
    )


def check_fit(options: PruneOptions, teacher: object | None) -> None:
    """Refuse a teacher that nothing is fitted to.

    Raises:
        UsageError: It is given without ``refit``.
    """
    if teacher is not None and not options.refit:
        raise UsageError("--teacher is what a fit goes by, which nothing asks for", "add --refit")


def sliced(
    model: Model,
    plan: PrunePlan,
    options: PruneOptions,
    *,
    teacher: Model | None,
    device: str | torch.device,
    progress: Progress,
    warn: Warn,
) -> Model:
    """Return a model after a plan, fitted where the options say so. Errors: see ``prune``."""
    keep = plan.keep
    if teacher is not None:  # found before the slow part
        keep = composed(kept_since(model, teacher), plan.keep)
    student = apply_plan(model, plan)
    if not options.refit:
        return student
    own = resolve_device(device)
    return refit(student, teacher or model, keep, options, device=own, progress=progress, warn=warn)


def make_plan(model: Model, scores: Scores, **settings: Unpack[PruneSettings]) -> PrunePlan:
    """Choose the channels that stay. Arguments and errors are those of ``prune``."""
    return choose(model, scores, options_of(PruneOptions, settings))


def choose(
    model: Model,
    scores: Scores,
    options: PruneOptions,
    *,
    device: str | torch.device = "auto",
    progress: Progress = silent,
    warn: Warn = ignore,
    is_trial: bool = False,
) -> PrunePlan:
    """Choose the channels that stay.

    Args:
        is_trial: Whether a plan is chosen by predictions alone where it would be measured.
        device, progress, warn: As for ``prune``, as are errors.
    """
    if scores.content_hash is None:
        warn(
            "the scores do not say of which checkpoint they are: only names and widths are checked"
        )
    min_width = options.min_width
    allocation = options.allocation or (THRESHOLD if scores.thresholds else UNIFORM)
    _check_thresholds(scores, options.budget, allocation)
    groups = _scored_groups(model, scores)
    family = ALLOCATIONS[allocation](groups, scores, min_width)

    @cache
    def widths_at(level: float) -> Widths:
        widths = family.widths(level)
        return {g.name: _round(widths[g.name], g.width, options) for g in groups}

    def kept(widths: Widths) -> dict[str, tuple[int, ...]]:
        return {g.name: top_channels(scores.values[g.name], widths[g.name]) for g in groups}

    def student(widths: Widths) -> Model:
        return apply_plan(model, PrunePlan(kept(widths)))

    _check_counted(model, groups, options.budget)
    level, findings = family.own, {}
    if options.prune_ratio is not None:
        level = options.prune_ratio
    elif options.budget:
        cost = cost_of(
            model, options, None if is_trial else student, device=device, progress=progress,
            warn=warn,
        )  # fmt: skip
        level = level_within(family, widths_at, cost)
        findings = cost.findings(widths_at(level))
    settings = {
        **options.budget, "prune_ratio": level, "allocation": allocation,
        "round_to": options.round_to, "min_width": min_width, "method": scores.method,
        "scores": dict(scores.settings), **findings,
    }  # fmt: skip
    return PrunePlan(kept(widths_at(level)), settings)


def removes_nothing(model: Model, plan: PrunePlan) -> bool:
    """Whether a plan keeps every channel."""
    widths = model.widths
    return all(len(channels) == widths[name] for name, channels in plan.keep.items())


def _check_thresholds(scores: Scores, budget: Mapping[str, float], allocation: str) -> None:
    if allocation == THRESHOLD and not scores.thresholds:
        raise UsageError(
            f"--allocation threshold shifts the thresholds that scores carry, these of"
            f" {scores.method} have none",
            "pass --allocation uniform or global",
        )
    if not budget and not scores.thresholds:
        raise UsageError(
            f"exactly one of {BUDGET_FLAGS} must be given, got none",
            f"only scores that were learned for a budget carry one, those of {scores.method} not",
        )
    if not budget and allocation != THRESHOLD:
        raise UsageError(
            f"--allocation {allocation} needs a budget: the scores' own is in their thresholds",
            f"add one of {BUDGET_FLAGS}, or leave --allocation out",
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


def _round(kept: int, width: int, options: PruneOptions) -> int:
    kept = max(kept, options.min_width)
    return min(width, -(-kept // options.round_to) * options.round_to)
