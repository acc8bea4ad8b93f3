"""A run that is evaluated while it goes on: when, what is kept, what a resume makes up for."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganc.checkpoints.store import load
from ganc.distillation import run_folder
from ganc.distillation.distill import DistillResult
from ganc.distillation.evaluations import EvalRequest
from ganc.distillation.schedule import Best
from ganc.errors import ComputationError, Interrupted, UsageError
from ganc.models.model import Model
from tests.distillation.test_loop import metrics

Train = Callable[..., DistillResult]


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """Read the evaluations without their timings."""
    path = folder / "evaluations.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") >= 0
    return lines


def by_images(values: list[float]) -> Callable[[EvalRequest], dict[str, float]]:
    """Return an evaluation that gives these values, one per evaluation at 0, 2, 4, …"""

    def evaluate(request: EvalRequest) -> dict[str, float]:
        steps = request.student.provenance[-1]["steps"]
        return {"fd": values[steps // 2]}

    return evaluate


def test_a_run_is_evaluated_at_both_ends_and_in_between(
    train: Train, tmp_path: Path, teacher: Model
) -> None:
    requests = []

    def evaluate(request: EvalRequest) -> dict[str, float]:
        requests.append(request)
        return {"fd": float(len(requests)), "l1": 0.5}

    settings = {"metrics": ["fd"], "samples": 7}
    result = train(steps=5, evaluate=evaluate, eval_every=2, eval_settings=settings)
    steps = [0, 2, 4, 5]
    assert evaluations(tmp_path / "run") == [
        {"step": step, "images": 4 * step, "fd": i + 1.0, "l1": 0.5} for i, step in enumerate(steps)
    ]
    assert result.evaluation == {"step": 5, "fd": 4.0, "l1": 0.5}
    assert [r.student.provenance[-1]["steps"] for r in requests] == steps
    assert requests[0].settings == settings
    assert (requests[0].data, requests[0].resize) == (None, False)
    assert requests[0].teacher is not None
    made = load(tmp_path / "run" / "student.safetensors")
    assert requests[-1].student.content_hash() == made.content_hash()
    train("silent", steps=5)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "silent")  # it changed no loss


def test_the_best_checkpoints_stay(train: Train, tmp_path: Path) -> None:
    values = [9.0, 3.0, 5.0, 3.0, 8.0, 7.0]
    best = Best("fd", 2)
    plan = {"evaluate": by_images(values), "eval_every": 2, "keep_best": best, "keep_last": 1}
    result = train("low", steps=10, **plan)
    assert run_folder.steps(tmp_path / "low") == [2, 6, 10]
    assert result.best == [str(tmp_path / "low" / "checkpoints" / s) for s in ("2", "6")]
    high = train("high", steps=10, **plan | {"keep_best": Best("fd", 1, is_higher_better=True)})
    assert run_folder.steps(tmp_path / "high") == [0, 10]
    assert high.best == [str(tmp_path / "high" / "checkpoints" / "0")]


def test_a_resume_goes_on_evaluating_and_keeping(train: Train, tmp_path: Path) -> None:
    values = [9.0, 3.0, 5.0, 4.0, 8.0, 7.0]
    evaluate = by_images(values)
    plan = {"eval_every": 2, "keep_best": Best("fd"), "keep_last": 1, "eval_settings": {"n": 3}}
    train("whole", steps=10, evaluate=evaluate, **plan)

    def stop(what: str, done: int, total: int) -> None:
        if done == 5:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(steps=10, evaluate=evaluate, progress=stop, **plan)
    folder = tmp_path / "run"
    assert run_folder.steps(folder) == [2, 6]  # the step in which the signal was seen
    assert [line["step"] for line in evaluations(folder)] == [0, 2, 4]
    with pytest.raises(UsageError, match="evaluated every 2 steps, but nothing says how"):
        train(steps=10, resume="latest")
    seen: list[dict[str, Any]] = []

    def look(request: EvalRequest) -> dict[str, float]:
        seen.append(dict(request.settings))
        return evaluate(request)

    train(steps=None, resume="latest", evaluate=look, eval_settings={"more": 1})
    assert seen[0] == {"n": 3, "more": 1}
    assert evaluations(folder) == evaluations(tmp_path / "whole")
    assert run_folder.steps(folder) == run_folder.steps(tmp_path / "whole") == [2, 10]
    train(steps=12, resume="latest", eval_every=0)
    assert [line["step"] for line in evaluations(folder)][-1] == 10


def test_a_killed_evaluation_is_made_up_for(train: Train, tmp_path: Path) -> None:
    def killed(request: EvalRequest) -> dict[str, float]:
        if request.student.provenance[-1]["steps"] == 4:
            raise KeyboardInterrupt
        return {"fd": 1.0}

    plan = {"eval_every": 2, "keep_best": Best("fd")}
    with pytest.raises(KeyboardInterrupt):
        train(steps=4, evaluate=killed, **plan)
    folder = tmp_path / "run"
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write('{"step": 4, "ima')
    assert run_folder.steps(folder) == [0, 2]
    train(steps=4, evaluate=lambda request: {"fd": 2.0}, resume="latest")
    assert [(line["step"], line["fd"]) for line in evaluations(folder)] == [
        (0, 1.0), (2, 1.0), (4, 2.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"fd": float("nan")}, ComputationError, "evaluation after step 0: fd nan is not finite"),
        ({"l1": 1.0}, UsageError, "--keep-best fd: the evaluation gives l1"),
    ],
)
def test_an_evaluation_that_cannot_serve_ends_the_run_at_its_start(
    train: Train, values: dict[str, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(steps=4, evaluate=lambda _: values, eval_every=2, keep_best=Best("fd"))


def test_plans_that_contradict_themselves(train: Train) -> None:
    with pytest.raises(UsageError, match="--keep-best fd needs evaluations"):
        train(keep_best=Best("fd"))
    with pytest.raises(UsageError, match="--keep-best fd:0 keeps nothing"):
        Best("fd", 0)
    with pytest.raises(UsageError, match="--eval-every -1 is below 0"):
        train(eval_every=-1)
