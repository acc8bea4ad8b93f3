"""``ganc eval`` as its users and their pipelines see it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ganc.checkpoints.store import save
from tests.conftest import Outcome, make_model

Ganc = Callable[..., Outcome]


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.safetensors"
    save(make_model(seed=5), path)
    return path


def test_json_result(ganc: Ganc, checkpoint: Path, teacher: Path) -> None:
    arguments = ("--teacher", teacher, "--metrics", "macs, l1", "--samples", 4, "--seed", 2)
    outcome = ganc("eval", checkpoint, *arguments, "--device", "cpu", "--json")
    assert outcome.code == 0
    result = json.loads(outcome.out)
    assert result["checkpoint"] == str(checkpoint)
    assert set(result["metrics"]) == {"macs", "l1"}
    assert result["metrics"]["l1"] > 0
    assert (result["settings"]["samples"], result["settings"]["seed"]) == (4, 2)
    assert result["requirements"] == []


@pytest.mark.parametrize(("bound", "code"), [("1G", 0), ("1K", 1)])
def test_require_decides_the_exit_code(ganc: Ganc, checkpoint: Path, bound: str, code: int) -> None:
    outcome = ganc("eval", checkpoint, "--require", f"macs<={bound}", "--json")
    assert outcome.code == code
    rows = json.loads(outcome.out)["requirements"]
    assert [(row["expr"], row["met"]) for row in rows] == [(f"macs<={bound}", code == 0)]


def test_table_for_a_person(ganc: Ganc, checkpoint: Path) -> None:
    outcome = ganc("eval", checkpoint, "--metrics", "params", "--require", "params<10")
    assert outcome.code == 1
    for text in ("params<10", "requirements", "settings", "seed", "no"):
        assert text in outcome.out


def test_warnings_go_to_stderr(ganc: Ganc, checkpoint: Path, teacher: Path) -> None:
    arguments = ("eval", checkpoint, "--teacher", teacher, "--metrics", "fd", "--samples", 4)
    outcome = ganc(*arguments, "--json")
    assert outcome.code == 0
    assert "warning: fd of 4 samples" in outcome.err
    assert json.loads(outcome.out)["metrics"]["fd"] > 0
    assert ganc(*arguments, "--json", "--quiet").err == ""


def test_dry_run_loads_nothing(ganc: Ganc) -> None:
    outcome = ganc("eval", "no such file", "--require", "macs<=1G", "--dry-run", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["settings"]["metrics"] == ["macs"]
    assert ganc("eval", "no such file", "--metrics", "fdi", "--dry-run").code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "findings"),
    [
        (["--metrics", "fdi"], 2, ["unknown metric `fdi`", "did you mean"]),
        (["--metrics", "l1"], 2, ["--teacher CKPT"]),
        (["--metrics", "fd"], 2, ["--data DIR|ZIP"]),
        (["--require", "fd=8"], 2, ["--require `fd=8`", "'fd<=80'"]),
        (["--samples", 1], 2, ["--samples 1"]),
        (["--metrics", "lpips-diversity"], 3, ["weights `alexnet`", "effnet-lite0"]),
        (["--metrics", "fd", "--data", "nowhere"], 3, ["nowhere: path not found"]),
    ],
)
def test_mistakes(
    ganc: Ganc, checkpoint: Path, arguments: list[object], code: int, findings: list[str]
) -> None:
    outcome = ganc("eval", checkpoint, *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith("error: ")
    assert len(outcome.err.splitlines()) <= 2
    for finding in findings:
        assert finding in outcome.err
