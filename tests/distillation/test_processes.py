"""``ganc distill`` as several processes: the losses of one, one writer, one end for all."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from PIL import Image

from ganc.checkpoints.store import load, save
from ganc.distillation import run_folder
from ganc.distillation.trainers import losses
from ganc.models.model import Model
from tests import forked
from tests.conftest import Outcome, make_model
from tests.distillation.conftest import pruned
from tests.families import make_stylegan3

pytestmark = pytest.mark.slow

SETTINGS = (
    "--device", "cpu", "--quiet", "--json", "--perceptual", "none", "--r1-interval", "3",
    "--pl-interval", "2", "--save-every", "100", "--sample-every", "100",
)  # fmt: skip
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def write_images(path: Path, count: int, *, labels: bool = False) -> Path:
    random = torch.Generator().manual_seed(0)
    table = []
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            pixels = torch.randint(0, 256, (16, 16, 3), generator=random, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(file := path.parent / "one.png")
            archive.write(file, f"{i:04}.png")
            table.append([f"{i:04}.png", i % 2])
        if labels:
            archive.writestr("dataset.json", json.dumps({"labels": table}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds a teacher and its student, and runs to be."""
    write_models(tmp_path, make_model())
    return tmp_path


def write_models(folder: Path, teacher: Model) -> None:
    save(teacher, folder / "teacher.safetensors", force=True)
    save(pruned(teacher), folder / "student.safetensors", force=True)


def arguments(run: str, *options: object) -> tuple[str, ...]:
    words = (
        "distill", "student.safetensors", "--teacher", "teacher.safetensors", "-o", run,
        *SETTINGS, *options,
    )  # fmt: skip
    return tuple(map(str, words))


def together(world: int, folder: Path, *words: object) -> list[Outcome]:
    """Run a command as several processes, which must succeed."""
    return successful(forked.ganc_group(world, folder, *words))


def successful(group: forked.Group) -> list[Outcome]:
    outcomes = group.wait()
    for outcome in outcomes:
        assert outcome.code == 0, outcome.err
    return outcomes


def series(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return lines


def assert_same(folder: Path, one: str, many: str) -> None:
    """Compare two runs: their losses, and the students they export."""
    expected, found = series(folder / one), series(folder / many)
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for line, other in zip(found, expected, strict=True):
        for name in line:
            assert line[name] == pytest.approx(other[name], rel=1e-4, abs=1e-4), (other, line)
    alone, shared = (load(folder / run / "student.safetensors") for run in (one, many))
    torch.testing.assert_close(shared.tensors(), alone.tensors(), rtol=0, atol=1e-4)
    assert shared.provenance == alone.provenance


class Case(NamedTuple):
    """A run: its teacher, its options, whether real images come from a data set."""

    teacher: Callable[[], Model]
    options: tuple[str, ...] = ()
    has_data: bool = False


CASES = {
    "stylekd": Case(make_model),
    "stylekd, labelled images": Case(
        lambda: make_model(c_dim=2), ("--mirror", "--freeze-mapping"), has_data=True
    ),
    "stylegan3, labels": Case(lambda: make_stylegan3(c_dim=2)),
    "gan, images": Case(make_model, ("--recipe", "gan"), has_data=True),
    "cagan, labels": Case(
        lambda: make_model(c_dim=2), ("--recipe", "cagan", "--content", "center")
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_losses_of_one(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    write_models(tmp_path, case.teacher())
    options: tuple[object, ...] = (*case.options, "--batch", "8", "--steps", "10")
    if case.has_data:
        options += ("--data", write_images(tmp_path / "data.zip", 30, labels="label" in name))
    alone = forked.ganc_group(1, tmp_path, *arguments("one", *options))
    first, second = together(2, tmp_path, *arguments("two", *options))
    successful(alone)
    assert_same(tmp_path, "one", "two")
    assert json.loads(first.out)["steps"] == 10
    assert (first.err, second.out, second.err) == ("", "", "")


def test_four_processes_share_the_few_samples_of_path_length(folder: Path) -> None:
    options = ("--batch", "16", "--steps", "5", "--pl-batch-shrink", "4")
    together(1, folder, *arguments("one", *options))
    together(4, folder, *arguments("four", *options))
    assert_same(folder, "one", "four")


def test_a_run_goes_on_with_another_number_of_processes(folder: Path) -> None:
    options = ("--batch", "8", "--save-every", "3")
    together(1, folder, *arguments("whole", *options, "--steps", "9"))
    together(2, folder, *arguments("parts", *options, "--steps", "3"))
    for world, steps in ((1, 5), (2, 9)):
        words = ("distill", "-o", "parts", "--resume", "latest", "--steps", steps, *SETTINGS)
        together(world, folder, *words)
    assert_same(folder, "whole", "parts")


@pytest.mark.parametrize(
    ("world", "options", "message"),
    [
        (
            2,
            ("--batch", "5"),
            "--batch 5 is not a multiple of the 2 processes\nhint: pass --batch 6",
        ),
        (2, ("--batch", "6"), "--batch 6 gives each of the 2 processes 3 samples: "),
        (3, ("--batch", "12", "--pl-batch-shrink", "3"), "--batch 12 gives each of the 3 "),
        (2, ("--recpie", "gan"), "unknown option `--recpie`"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, world: int, options: tuple[str, ...], message: str
) -> None:
    outcomes = forked.ganc_group(world, folder, *arguments("run", *options)).wait()
    assert [outcome.code for outcome in outcomes] == [2] * world
    said = "".join(outcome.err for outcome in outcomes)
    assert said.startswith(f"error: {message}")
    assert (said.count("error:"), said.count("\n")) == (1, 2)
    assert not (folder / "run").exists()


def wait_for_step(run: Path, step: int) -> None:
    """Wait until a run has logged a step."""
    deadline = time.monotonic() + forked.LIMIT_SEC
    while not (run / "metrics.jsonl").exists() or len(series_so_far(run)) < step:
        assert time.monotonic() < deadline, "the run does not get there"
        time.sleep(0.02)


def series_so_far(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


ENDLESS = ("--batch", "8", "--steps", "100000", "--log-every", "1")


def assert_stopped_and_saved(folder: Path, stopped: str) -> None:
    """Check that a run was saved at its last step, and goes on as if it had not been stopped."""
    run = folder / stopped
    (*_, last) = run_folder.steps(run)
    assert [line["step"] for line in series(run)] == list(range(1, last + 1))
    together(1, folder, *arguments("whole", "--batch", "8", "--steps", last + 3))
    words = ("distill", "-o", stopped, "--resume", "latest", "--steps", last + 3, *SETTINGS)
    together(2, folder, *words)
    assert_same(folder, "whole", stopped)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_one_process_stops_all_at_one_step(
    folder: Path, number: signal.Signals, code: int
) -> None:
    group = forked.ganc_group(2, folder, *arguments("run", *ENDLESS))
    wait_for_step(folder / "run", 3)
    pid = group.processes[1].pid
    assert pid is not None
    os.kill(pid, number)
    outcomes = group.wait()
    (*_, last) = run_folder.steps(folder / "run")
    assert [outcome.code for outcome in outcomes] == [code, code]
    assert "".join(outcome.err for outcome in outcomes) == (
        f"error: interrupted at step {last} of 100000; the state was saved\n"
        "hint: ganc distill -o run --resume latest\n"
    )
    assert_stopped_and_saved(folder, "run")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_other(folder: Path, rank: int) -> None:
    words = arguments("run", *ENDLESS, "--save-every", "2")
    group = forked.ganc_group(2, folder, *words, change=forked.hear_quickly)
    wait_for_step(folder / "run", 3)
    group.processes[rank].kill()
    began = time.monotonic()
    outcomes = group.wait()
    assert time.monotonic() - began < 30
    left = 1 - rank
    assert [outcomes[rank].code, outcomes[left].code] == [-signal.SIGKILL, 4]
    line, hint = outcomes[left].err.splitlines()
    assert line.startswith(f"error: rank {left}: the connection to another process was lost: ")
    assert hint.startswith("hint: ")
    goal = run_folder.steps(folder / "run")[-1] + 2
    words = ("distill", "-o", "run", "--resume", "latest", "--steps", goal, *SETTINGS)
    together(2, folder, *words)
    assert [line["step"] for line in series(folder / "run")] == list(range(1, goal + 1))


def torchrun(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a command with torchrun in a session of its own."""
    return subprocess.Popen(
        [*TORCHRUN, "-m", "ganc", *words], cwd=folder, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_torchrun_starts_them(folder: Path) -> None:
    options = ("--batch", "8", "--steps", "20")
    process = torchrun(folder, *arguments("two", *options))
    together(1, folder, *arguments("one", *options))
    out, err = process.communicate(timeout=forked.LIMIT_SEC)
    assert process.returncode == 0, err
    assert json.loads(out)["output"] == "two"
    assert_same(folder, "one", "two")


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def is_running(pid: int) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip()[:1] not in ("", "Z")


def test_a_signal_to_torchrun_stops_and_saves(folder: Path) -> None:
    # Ctrl-C: tests/scoring/test_processes.py.
    process = torchrun(folder, *arguments("run", *ENDLESS))
    wait_for_step(folder / "run", 3)
    workers = children(process.pid)
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=forked.LIMIT_SEC)
    assert out == ""
    assert err.count("error: interrupted at step ") == 1
    assert process.returncode == 1  # torchrun's own
    assert not any(map(is_running, workers))
    assert_stopped_and_saved(folder, "run")


def compare_features(folder: Path, rank: int, world: int) -> None:
    """Write what one process finds on its share of the batch: loss and gradient."""
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    own, teacher = features()
    share = own.detach()[:, rank::world].requires_grad_(True)
    loss = losses.latent_direction([(share[0], share[1])], [tuple(teacher[:, rank::world])])
    loss.backward()
    torch.save((loss.detach(), share.grad), folder / f"{rank}.pt")
    dist.destroy_process_group()


def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a student's and a teacher's features, [plain and moved, N, …]."""
    random = torch.Generator().manual_seed(0)
    own, teacher = (
        torch.randn(2, 8, channels, 4, 4, generator=random, dtype=torch.float64)
        for channels in (5, 3)
    )
    return own.requires_grad_(True), teacher


@pytest.mark.parametrize("world", [2, 4])
def test_the_similarity_loss_is_that_of_the_whole_batch(tmp_path: Path, world: int) -> None:
    started = [forked.start(compare_features, tmp_path, rank, world) for rank in range(world)]
    assert [forked.exit_code(process) for process in started] == [0] * world
    own, teacher = features()
    expected = losses.latent_direction([(own[0], own[1])], [tuple(teacher)])
    expected.backward()
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    mean = torch.stack([loss for loss, _ in found]).mean()
    torch.testing.assert_close(mean, expected.detach(), rtol=1e-12, atol=0)
    assert own.grad is not None
    for rank, (_, gradient) in enumerate(found):
        # Averaging over processes divides by their number, as one process's mean would.
        torch.testing.assert_close(gradient / world, own.grad[:, rank::world], rtol=1e-10, atol=0)
