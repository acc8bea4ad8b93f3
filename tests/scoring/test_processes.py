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
from tests import forked
from tests.conftest import make_model

pytestmark = pytest.mark.slow

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENDLESS = ("--method", "activation", "--samples", "1000000")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds a checkpoint and nothing else."""
    save(make_model(), tmp_path / "model.safetensors")
    return tmp_path


def left(folder: Path) -> list[str]:
    """Return what lies in a folder but what the processes said."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("said-"))


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def is_running(pid: int) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip()[:1] not in ("", "Z")


def test_ctrl_c_ends_all_processes(folder: Path) -> None:
    # A session of their own: a terminal's Ctrl-C reaches all of its group, and not this test.
    # Tests that run in the background may ignore the signal, which children would inherit.
    process = subprocess.Popen(
        [*TORCHRUN, "-m", "ganc", "score", "model.safetensors", *ENDLESS], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == "scoring …\n"
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
    assert left(folder) == ["model.safetensors"]


def test_the_first_process_alone_prints_and_writes(folder: Path) -> None:
    words = ("score", "model.safetensors", "--method", "activation", "--samples", "30")
    first, second = forked.ganc_group(2, folder, *words, "--json", "--plot", "scores.png").wait()
    assert (first.code, second) == (0, (0, "", "")), first.err
    result = json.loads(first.out)
    assert first.err.count("scoring …") == 1
    names = ["model.activation.scores.safetensors", "model.safetensors", "scores.png"]
    assert left(folder) == names
    expected = score(make_model(), "activation", samples=30)
    written = Scores.load(folder / result["output"])
    for name, values in expected.values.items():
        torch.testing.assert_close(written[name], values, rtol=1e-12, atol=0)


def test_settings_are_shown_once(folder: Path) -> None:
    words = ("score", "model.safetensors", "--dry-run", "--json")
    first, second = forked.ganc_group(2, folder, *words).wait()
    assert (first.code, second) == (0, (0, "", "")), first.err
    assert json.loads(first.out)["command"] == "score"


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
    outcomes = forked.ganc_group(2, folder, "score", "model.safetensors", *arguments).wait()
    assert [(outcome.code, outcome.out) for outcome in outcomes] == [(code, "")] * 2
    said = "".join(outcome.err for outcome in outcomes)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith(message)
    assert said.count("hint: ") == 1
    assert left(folder) == ["model.safetensors"]


THREADS = """
import os, torch
from ganc.collectives import all_sum
from ganc.launch import process_group
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
with process_group():
    import torch.distributed.nn.functional  # as torch itself does, some way into a command
    assert all_sum({"a": torch.ones(2)})["a"].tolist() == [1, 1]
    assert count() > before
assert count() == before, (before, count())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_no_thread_of_the_group_outlives_it() -> None:
    # One that still holds a tensor when Python ends aborts the process: 1 run in 20.
    # A group of one has them, too.
    store = forked.new_store()
    variables = os.environ | forked.environment(0, 1, store.port)
    done = subprocess.run(
        [sys.executable, "-c", THREADS], env=variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
