"""``ganc score`` as processes: what Ctrl-C leaves behind, and who speaks under ``torchrun``."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ganc.checkpoints.store import save
from ganc.scores import Scores
from ganc.scoring.score import score
from tests.conftest import make_model

pytestmark = pytest.mark.slow

GANC = (sys.executable, "-m", "ganc")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENDLESS = ("--method", "activation", "--samples", "1000000")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds a checkpoint and nothing else."""
    save(make_model(), tmp_path / "model.safetensors")
    return tmp_path


def started(command: tuple[str, ...], folder: Path) -> subprocess.Popen[str]:
    """Start a command in a session of its own, and wait until it scores."""
    # Its own process group: a terminal's Ctrl-C reaches all of the group, and not this test.
    # Tests that run in the background may ignore the signal, which children would inherit.
    process = subprocess.Popen(
        [*command, "score", "model.safetensors", *ENDLESS], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == "scoring …\n"
    return process


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def is_running(pid: int) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip()[:1] not in ("", "Z")


def test_ctrl_c_leaves_nothing(folder: Path) -> None:
    process = started(GANC, folder)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "error: interrupted\n")
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]


def test_ctrl_c_ends_all_processes(folder: Path) -> None:
    process = started((*TORCHRUN, "-m", "ganc"), folder)
    workers = children(process.pid)
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert out == ""
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, workers))
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]


def run_two(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TORCHRUN, "-m", "ganc", "score", "model.safetensors", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_first_process_alone_prints_and_writes(folder: Path) -> None:
    arguments = ("--method", "activation", "--samples", "30")
    done = run_two(folder, *arguments, "--json", "--plot", "scores.png")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one document, not two
    assert done.stderr.count("scoring …") == 1
    names = ["model.activation.scores.safetensors", "model.safetensors", "scores.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    expected = score(make_model(), "activation", samples=30)
    written = Scores.load(folder / result["output"])
    for name, values in expected.values.items():
        torch.testing.assert_close(written[name], values, rtol=1e-12, atol=0)


def test_settings_are_shown_once(folder: Path) -> None:
    done = run_two(folder, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["command"] == "score"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-o", "model.safetensors"), 3, "error: model.safetensors exists already"),
        (("--method", "divresity"), 2, "error: unknown method `divresity`"),
    ],
)
def test_a_mistake_has_its_line_and_code(
    folder: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = run_two(folder, *arguments)
    assert done.returncode == 1  # torchrun's own code; those of its workers are in its report
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(message)
    assert done.stderr.count("hint: ") == 1
    assert done.stderr.count(f"exitcode  : {code} ") == 2
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]


THREADS = """
import os, torch
from ganc.collectives import all_sum
from ganc.launch import process_group
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
with process_group():
    import torch.distributed.nn.functional  # as torch itself does, some way into a command
    assert all_sum({"a": torch.ones(2)})["a"].tolist() == [2, 2]
    assert count() > before
assert count() == before, (before, count())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    # One that still holds a tensor when Python ends aborts the process: 1 run in 20.
    (tmp_path / "script.py").write_text(THREADS)
    done = subprocess.run(
        [*TORCHRUN, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
