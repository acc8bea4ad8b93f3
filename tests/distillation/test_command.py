"""``ganc distill`` as a program sees it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ganc.checkpoints.store import save
from ganc.commands._training_view import status_table
from ganc.distillation.monitor import TrainingStatus
from ganc.distillation.recipes import NUMBERS, RECIPES
from ganc.models.model import Model

Run = Callable[..., Any]
DESIGNED = {"output", "steps", "losses", "seconds"}


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
    assert set(result) == DESIGNED
    assert result["output"] == str(tmp_path / "run")
    assert result["losses"]["latent_direction"] > 0
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


def test_dry_run_shows_a_row_per_number(ganc: Run, tmp_path: Path) -> None:
    shown = ganc("distill", "no.pt", "--teacher", "no.pt", "-o", tmp_path / "run", "--dry-run",
                 "--recipe", "i2i", "--eval-every", 50, "--keep-best", "psnr:2")  # fmt: skip
    assert shown.code == 0, shown.err
    rows = {tuple(cell.strip() for cell in line.split("│")[1:-1]) for line in shown.out.split("\n")}
    expected = {"cycle_weight": "10", "pool_size": "50", "eval_every": "50", "metrics": "psnr",
                "count": "2", "is_higher_better": "yes", "save_every": "1 000"}  # fmt: skip
    assert set(expected.items()) <= rows
    assert not any(row and row[0] == "r1_gamma" for row in rows)


def test_a_run_says_where_it_is_in_plain_lines(
    ganc: Run, paths: list[object], tmp_path: Path
) -> None:
    small = ["--batch", 4, "--perceptual", "none", "--device", "cpu", "--log-every", 1]
    done = ganc("distill", *paths, "-o", tmp_path / "run", "--steps", 12, *small,
                "--eval-every", 20, "--eval-metrics", "l1, psnr", "--eval-samples", 4,
                "--keep-best", "psnr", "--profile", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert "\x1b" not in done.err
    lines = [line for line in done.err.splitlines() if line.startswith("step ")]
    assert [line.split(",")[0] for line in lines] == ["step 1/12", "step 11/12", "step 12/12"]
    assert re.search(r"it/s, 48 images, 0:00:00 left, memory \d\.\d\d GiB: d_loss ", lines[-1])
    assert "; evaluated after step 0: l1 " in lines[0]
    result = json.loads(done.out)
    assert set(result) == {*DESIGNED, "evaluation", "best", "profile"}
    assert set(result["evaluation"]) == {"step", "l1", "psnr"}
    assert result["best"][0] in {f"{tmp_path}/run/checkpoints/{step}" for step in (0, 12)}
    assert result["profile"]["g_main"]["calls"] == 12
    quiet = ganc("distill", "-o", tmp_path / "run", "--resume", "latest", "--steps", 13, "-q",
                 "--device", "cpu")  # fmt: skip
    assert (quiet.code, quiet.err) == (0, "")
    series = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in series] == [0, 12, 13]  # the plan was found again


def test_the_live_table_fits_its_terminal() -> None:
    status = TrainingStatus(1230, 10_000, 19_680, {"d_loss": 1.2345, "g_loss": 0.5, "r1": 0.02},
                            {"step": 1000, "fd": 120.4}, 0.25, 2**30, 3 * 2**30)  # fmt: skip
    for width in (80, 140):
        console = Console(width=width, force_terminal=True, color_system=None)
        with console.capture() as capture:
            console.print(status_table(status))
        text = capture.get()
        assert all(len(line) <= width for line in text.splitlines())
        words = " ".join(text.split())
        for part in ("step 1 230 of 10 000", "4.00 it/s", "19 680 images", "0:36:32 left",
                     "memory 1.00 GiB, GPU 3.00 GiB", "d_loss 1.234", "r1 0.02",
                     "evaluated after step 1000: fd 120.4"):  # fmt: skip
            assert part in words


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
        (["--keep-best", "fd"], 2, "--keep-best needs evaluations"),
        (["--eval-samples", 9], 2, "--eval-samples needs evaluations"),
        (["--keep-best", "fd:x", "--eval-every", 5], 2, "allowed: METRIC or METRIC:K"),
        (["--keep-best", "fdd", "--eval-every", 5], 2, "did you mean `fd`?"),
        (["--eval-metrics", "l", "--eval-every", 5], 2, "did you mean `l1`?"),
        (["--precision", "fp16"], 2, "fp32, tf32, bf16"),
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
