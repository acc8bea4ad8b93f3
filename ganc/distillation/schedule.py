"""How long to train and how often to do what: nothing here changes a loss."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ganc.errors import UsageError
from ganc.options import flag_of

DEFAULT_STEPS = 10_000


@dataclass(frozen=True)
class Best:
    """Which checkpoints are worth keeping, however old.

    Attributes:
        metric: A value that the evaluation gives.
        count: How many stay.
        is_higher_better: Its direction.
    """

    metric: str
    count: int = 1
    is_higher_better: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(
                f"--keep-best {self.metric}:{self.count} keeps nothing", "drop it to keep none"
            )


@dataclass(frozen=True)
class Schedule:
    """When what is due.

    Attributes:
        steps: Total steps, including those before a resume.
        save_every: Steps between two checkpoints.
        sample_every: Steps between two sample grids.
        log_every: Steps whose losses are fetched from the device together.
        keep_last: Checkpoints that stay.
        eval_every: Steps between two evaluations; 0 for none.
        eval_settings: JSON data that the evaluation is given.
        keep_best: Checkpoints that stay beside the last ones.
    """

    steps: int = DEFAULT_STEPS
    save_every: int = 1000
    sample_every: int = 500
    log_every: int = 10
    keep_last: int = 3
    eval_every: int = 0
    eval_settings: Mapping[str, Any] = field(default_factory=dict)
    keep_best: Best | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "save_every", "sample_every", "log_every", "keep_last"):
            value = getattr(self, name)
            if value < 1:
                raise UsageError(f"{flag_of(name)} {value} is below 1")
        if self.eval_every < 0:
            raise UsageError(f"--eval-every {self.eval_every} is below 0")
        if self.keep_best and not self.eval_every:
            raise UsageError(
                f"--keep-best {self.keep_best.metric} needs evaluations", "add --eval-every 1000"
            )

    @property
    def checkpoints(self) -> int:
        """Checkpoints that may lie in the folder between two saves."""
        return self.keep_last + (self.keep_best.count if self.keep_best else 0)

    def is_evaluated(self, step: int) -> bool:
        """Whether an evaluation is due after ``step`` steps: at both ends, and in between."""
        due = step == self.steps or (self.eval_every > 0 and step % self.eval_every == 0)
        return self.eval_every > 0 and due

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as JSON data."""
        return dataclasses.asdict(self)


def resolve_schedule(given: Mapping[str, Any], saved: Mapping[str, Any]) -> Schedule:
    """Return a schedule from what was given, then what the run had, then the defaults.

    Args:
        given: Field → value, None where nothing was given. Single ``eval_settings`` are replaced.
        saved: ``Schedule.to_json`` of the run that goes on, or nothing.
    Raises:
        UsageError: A value is out of range.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    before = dict(saved)
    if before.get("keep_best"):
        before["keep_best"] = Best(**before["keep_best"])
    if chosen.get("eval_every") == 0:
        before["keep_best"] = None  # what was kept stays until the run is saved again
    settings = {**before.get("eval_settings", {}), **chosen.get("eval_settings", {})}
    return Schedule(**{**before, **chosen, "eval_settings": settings})
