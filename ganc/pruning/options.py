"""What ``prune`` is asked for. Imports no torch: the command line is made of it."""

import math
from dataclasses import dataclass
from typing import TypedDict

from ganc.errors import UsageError, unknown_name
from ganc.options import flag_of, option, parse_count

UNIFORM, GLOBAL, THRESHOLD = ALLOCATION_NAMES = ("uniform", "global", "threshold")

BUDGETS = ("prune_ratio", "macs", "speedup", "params")
BUDGET_FLAGS = ", ".join(map(flag_of, BUDGETS))


class PruneSettings(TypedDict, total=False):
    """``PruneOptions`` as the keywords of a function."""

    prune_ratio: float | None
    macs: float | None
    speedup: float | None
    params: float | None
    allocation: str | None
    round_to: int
    min_width: int


@dataclass(frozen=True)
class PruneOptions:
    """One budget, how it is spread over the groups, and which widths may come out.

    A budget on a count gives the largest plan that does not exceed it. Scores with thresholds carry
    a budget of their own, which holds where none is given.

    Attributes:
        prune_ratio: Fraction removed of every group's n channels: n − int(ratio · n) stay; [0, 1).
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
        UsageError: Several budgets, or a value out of range.
    """

    prune_ratio: float | None = option(None, "Fraction removed of every group.")
    macs: float | None = option(
        None, "MACs at most, e.g. 4.1G.", parser=parse_count, metavar="COUNT"
    )
    speedup: float | None = option(None, "Fewer MACs by this factor at least.")
    params: float | None = option(None, "Parameters at most.", parser=parse_count, metavar="COUNT")
    allocation: str | None = option(
        None,
        f"{UNIFORM}, {GLOBAL} or {THRESHOLD}; default: {THRESHOLD} for scores that carry some, such"
        f" as density's, which then need no budget either, else {UNIFORM}.",
    )
    round_to: int = option(1, "Round widths up to a multiple.")
    min_width: int = option(1, "Channels that every group keeps at least.")

    def __post_init__(self) -> None:
        given = self.budget
        if len(given) > 1:
            found = " and ".join(map(flag_of, given))
            raise UsageError(f"exactly one of {BUDGET_FLAGS} must be given, got {found}")
        for name, value in given.items():
            _check_budget(name, value)
        if self.allocation is not None and self.allocation not in ALLOCATION_NAMES:
            raise unknown_name("allocation", self.allocation, ALLOCATION_NAMES)
        for flag, width in (("--round-to", self.round_to), ("--min-width", self.min_width)):
            if width < 1:
                raise UsageError(f"{flag} {width} is below 1")

    @property
    def budget(self) -> dict[str, float]:
        """The one budget that is given, under its name, or nothing."""
        values = {name: getattr(self, name) for name in BUDGETS}
        return {name: value for name, value in values.items() if value is not None}


def _check_budget(name: str, value: float) -> None:
    if name == "prune_ratio" and not 0 <= value < 1:
        raise UsageError(
            f"--prune-ratio {value:g} is outside [0, 1)",
            "it is the fraction removed; to keep 20 % pass --prune-ratio 0.8",
        )
    if name != "prune_ratio" and not (value > 0 and math.isfinite(value)):
        raise UsageError(f"--{name} {value:g} must be a positive number")
