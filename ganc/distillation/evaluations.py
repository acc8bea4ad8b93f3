"""Evaluations inside a run: ``evaluations.jsonl``, and which checkpoints are the best by it."""

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganc import collectives
from ganc.distillation.metrics import Line, cut_back
from ganc.distillation.run_folder import EVALUATIONS
from ganc.distillation.schedule import Best
from ganc.errors import ComputationError, UsageError
from ganc.models.model import Model


@dataclass(frozen=True)
class EvalRequest:
    """What there is to evaluate.

    Attributes:
        student: As it would be exported now; to be left as it is.
        teacher: Or None.
        data: Folder or zip of the run's real images; None where they are the teacher's samples, or
            a translator's pairs.
        resize: Whether they are scaled to the model's size.
        settings: JSON data from the schedule: which metrics, of how many samples.
    """

    student: Model
    teacher: Model | None
    data: str | None
    resize: bool
    settings: Mapping[str, Any]


Evaluate = Callable[[EvalRequest], Mapping[str, float]]
"""Returns value by name. This module knows no metric: ``ganc.evaluate`` is one way to write it."""


def check_values(values: Mapping[str, float], step: int, keep_best: Best | None) -> None:
    """Check what an evaluation gave.

    Raises:
        ComputationError: A value is not finite.
        UsageError: The metric that checkpoints are kept by is not among them.
    """
    bad = [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise ComputationError(f"evaluation after step {step}: {', '.join(bad)} is not finite")
    if keep_best and keep_best.metric not in values:
        found = ", ".join(values)
        raise UsageError(f"--keep-best {keep_best.metric}: the evaluation gives {found}")


class EvaluationLog:
    """What was evaluated so far: one line each, ``step``, ``images``, values, ``seconds``.

    A line is on the disk before the checkpoint that it speaks of is written or another is dropped
    for it, so what counts as best is always known from the file.

    Args:
        folder: The run.
        start: Steps done before; later lines of an earlier attempt are cut off.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self._path = folder / EVALUATIONS
        self.lines: list[Line] = []
        if collectives.rank() == 0 and self._path.exists():
            self.lines = cut_back(self._path, start)

    @property
    def last(self) -> dict[str, float]:
        """The values of the last evaluation, with its ``step``; empty before the first."""
        unlisted = ("images", "seconds")
        return {k: v for k, v in self.lines[-1].items() if k not in unlisted} if self.lines else {}

    def has(self, step: int) -> bool:
        """Whether a step was evaluated."""
        return any(line["step"] == step for line in self.lines)

    def add(self, step: int, images: int, values: Mapping[str, float], seconds: float) -> None:
        """Write an evaluation down, for good."""
        line = {"step": step, "images": images, **values, "seconds": round(seconds, 4)}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)

    def best(self, wanted: Best | None, among: Collection[int]) -> list[int]:
        """Return the best steps, best first, of equal ones the earlier; none if none are wanted.

        Args:
            among: Steps that have a checkpoint, or are about to.
        """
        if wanted is None:
            return []
        sign = -1 if wanted.is_higher_better else 1
        known = [line for line in self.lines if line["step"] in among and wanted.metric in line]
        known.sort(key=lambda line: (sign * line[wanted.metric], line["step"]))
        return [int(line["step"]) for line in known[: wanted.count]]
