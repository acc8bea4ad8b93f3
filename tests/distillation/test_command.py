"""``ganc distill`` as a program sees it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganc.checkpoints.store import save
from ganc.distillation.recipes import NUMBERS, RECIPES
from ganc.models.model import Model

Run = Callable[..., Any]


@pytest.fixture
def paths(student: Model, teacher: Model, tmp_path: Path) -> list[object]:
    save(student, tmp_path / "s.safetensors")
    save(teacher, tmp_path / "t.safetensors")
    return [tmp_path / "s.safetensors", "--teacher", tmp_path / "t.safetensors"]


def test_json_has_the_keys_of_the_design(ganc: Run, paths: list[object], tmp_path: Path) -> None:
    small = ["--batch", 4, "--perceptual", "none", "--device", "cpu"]
    done = ganc("distill", *paths, "-o", tmp_path / "run", "--steps", 2, *small, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert set(result) == {"output", "steps", "losses", "seconds"}
    assert result["output"] == str(tmp_path / "run")
    assert result["losses"]["pixel_l1"] > 0
    on = ganc("distill", "-o", tmp_path / "run", "--resume", "latest", "--steps", 3, "--json",
              "--device", "cpu")  # fmt: skip
    assert (on.code, json.loads(on.out)["steps"]) == (0, 3)
    refused = ganc("distill", "-o", tmp_path / "run", "--resume", "latest", "--lr", 0.1)
    assert refused.code == 3
    assert "lr is 0.002 there and 0.1 here" in refused.err


def test_dry_run_resolves_every_number_and_loads_nothing(ganc: Run, tmp_path: Path) -> None:
    done = ganc("distill", "no.pt", "--teacher", "no.pt", "-o", tmp_path / "run", "--dry-run",
                "--recipe", "stylekd", "--json", "--r1-gamma", 1, "--mirror")  # fmt: skip
    assert done.code == 0, done.err
    recipe = json.loads(done.out)["settings"]["recipe"]
    assert recipe == RECIPES["stylekd"].to_json() | {"r1_gamma": 1.0, "mirror": True}
    assert not (tmp_path / "run").exists()


def test_every_recipe_number_is_a_flag(ganc: Run) -> None:
    shown = ganc("distill", "--help").out
    assert all(f"--{field.name.replace('_', '-')}" in shown for field in NUMBERS)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--r1-gama", 1], 2, "did you mean `--r1-gamma`?"),
        (["--recipe", "stylkd"], 2, "did you mean `stylekd`?"),
        (["--lr", "-1"], 2, "--lr -1.0 is out of range; allowed: 0 and more"),
        (["--steps", 0], 2, "--steps"),
        (["--offline"], 3, "--perceptual effnet-lite0|none"),
        (["--data", "nowhere", "--perceptual", "none"], 3, "nowhere"),
    ],
)
def test_errors(
    ganc: Run, paths: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: list[object], code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))
    done = ganc("distill", *paths, "-o", tmp_path / "run", *arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert not (tmp_path / "run").exists()
