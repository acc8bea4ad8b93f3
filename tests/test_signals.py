"""Ctrl-C and SIGTERM end every command alike: one line, the code of the signal, nothing left over.

The commands run in processes that are forked, so that none of them waits for torch to load.
"""

import itertools
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch

from ganc import stop
from ganc.checkpoints.store import save
from ganc.errors import ComputationError
from ganc.scoring.score import score
from ganc.weights.published import WEIGHTS
from tests import forked
from tests.conftest import make_model
from tests.families import make_unet
from tests.forked import LIMIT_SEC
from tests.scoring.density.cases import FLAGS, write_pairs

SIGNALS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
ENDLESS = "1000000"


def one_each(commands: Iterable[str]) -> list[tuple[str, int]]:
    """Pair each command with a signal, by turns: what handles them does not know the command."""
    return list(zip(commands, itertools.cycle(SIGNALS), strict=False))


def command(folder: Path, words: list[str]) -> None:
    """Be ``ganc WORDS`` in a folder; what it says goes to the files out and err."""
    os.environ["GANC_CACHE"] = str(folder / "cache")
    forked.be_ganc(folder, folder, words)


def signalled_in_exporter(folder: Path, words: list[str], number: int) -> None:
    """Be ``ganc WORDS``, which gets a signal where torch's exporter to ONNX is at work.

    What is raised there it wraps in an error of its own.
    """
    decompose = torch.export.ExportedProgram.run_decompositions

    def signalled(*arguments: Any, **options: Any) -> torch.export.ExportedProgram:
        os.kill(os.getpid(), number)
        return decompose(*arguments, **options)

    torch.export.ExportedProgram.run_decompositions = signalled  # type: ignore[method-assign]
    command(folder, words)


def wait_for(process: BaseProcess, path: Path, text: str) -> None:
    """Wait until a file holds a text."""
    deadline = time.monotonic() + LIMIT_SEC
    while text not in (path.read_text() if path.exists() else ""):
        assert process.is_alive(), path.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def send(process: BaseProcess, number: int) -> None:
    assert process.pid is not None
    os.kill(process.pid, number)


def left(folder: Path) -> list[str]:
    """Return what lies in a folder but what was said, and the cache's locks."""
    return sorted(name for name in os.listdir(folder) if name not in ("out", "err", "cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models, scores and data."""
    folder = tmp_path_factory.mktemp("made")
    model = make_model()
    save(model, folder / "m.safetensors")
    save(make_model(seed=1), folder / "t.safetensors")
    score(model, "l1-out").save(folder / "s.safetensors")
    save(make_unet(), folder / "unet.safetensors")
    write_pairs(folder / "pairs", 6)
    return folder


@pytest.fixture
def folder(made: Path) -> Iterator[Path]:
    """The same; a test has to leave it as it was."""
    before = left(made)
    yield made
    for name in ("out", "err"):
        (made / name).unlink()
    assert left(made) == before


def assert_ended(process: BaseProcess, folder: Path, number: int) -> None:
    """Check the code, and that the last line is the only one about it."""
    code, word = SIGNALS[number]
    assert forked.exit_code(process) == code
    *others, last = (folder / "err").read_text().splitlines()
    assert last == f"error: {word}"
    assert [line for line in others if not line.endswith(" …")] == []
    assert (folder / "out").read_text() == ""


EXPORT = "export m.safetensors -o x --format"
# Each would take for ever, but the exports; and says so when it is in the midst of it.
WORKING = {
    f"score m.safetensors --method activation --samples {ENDLESS}": "scoring",
    f"prune m.safetensors --scores s.safetensors --speedup 2 -o x --refit --refit-steps {ENDLESS}":
        "fitting together",
    f"eval m.safetensors --teacher t.safetensors --metrics l1 --samples {ENDLESS} --report x":
        "samples",
    f"{EXPORT} torch": "exporting",
    f"{EXPORT} nvidia": "exporting",
}  # fmt: skip


@pytest.mark.parametrize(("words", "number"), one_each(WORKING))
def test_a_signal_ends_a_command(folder: Path, words: str, number: int) -> None:
    process = forked.start(command, folder, words.split())
    wait_for(process, folder / "err", f"{WORKING[words]} …\n")
    send(process, number)
    assert_ended(process, folder, number)


@pytest.mark.parametrize(
    ("words", "number"),
    one_each(["import PIPE -o x", "info PIPE", "sample PIPE -o x",
              "prune m.safetensors --scores PIPE -o x"]),
)  # fmt: skip
def test_a_signal_ends_a_command_that_reads(folder: Path, words: str, number: int) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    process = forked.start(command, folder, words.replace("PIPE", "pipe").split())
    with pipe.open("wb"):  # waits for who reads
        send(process, number)
        assert_ended(process, folder, number)
    pipe.unlink()


def test_a_signal_ends_an_export_to_onnx(folder: Path) -> None:
    words = f"{EXPORT} onnx".split()
    process = forked.start(signalled_in_exporter, folder, words, signal.SIGTERM)
    assert_ended(process, folder, signal.SIGTERM)


def test_a_signal_ends_a_demo(folder: Path) -> None:
    process = forked.start(command, folder, ["demo", "-o", "demo"])
    wait_for(process, folder / "err", "scoring …\n")
    send(process, signal.SIGINT)
    assert_ended(process, folder, signal.SIGINT)
    assert os.listdir(folder / "demo") == ["teacher.safetensors"]  # done before
    shutil.rmtree(folder / "demo")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_that_waits_for_weights(folder: Path, number: int) -> None:
    target = folder / "cache" / "weights"
    target.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target / f".{WEIGHTS['alexnet'].file_name}.lock"):
        words = ["weights", "fetch", "alexnet", "--from", "m.safetensors"]
        process = forked.start(command, folder, words)
        wait_for(process, folder / "err", "waiting for another process that fetches")
        send(process, number)
        assert_ended(process, folder, number)


SAVING = {
    f"distill m.safetensors --teacher m.safetensors -o x --perceptual none --steps {ENDLESS}":
        ("distilling …\n", "interrupted at step"),
    f"score unet.safetensors --method density --data pairs {' '.join(FLAGS)} --set steps={ENDLESS}"
    " -o x --neighbourhoods x.n": ("learning gates …\n", "interrupted: generator at step"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "number"), one_each(SAVING))
def test_a_signal_lets_a_run_save_what_it_has(folder: Path, words: str, number: int) -> None:
    says, ends = SAVING[words]
    process = forked.start(command, folder, words.split())
    wait_for(process, folder / "err", says)
    send(process, number)
    send(process, number)  # as `timeout` does, which signals the process and then its group
    assert forked.exit_code(process) == SIGNALS[number][0]
    line, hint = (folder / "err").read_text().splitlines()[-2:]
    assert line.startswith(f"error: {ends}")
    assert "state was saved" in line
    assert hint.startswith("hint: ")
    for name in ("x", "x.n", "x.state"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


# The second signal.

HANGING = """
import ctypes, sys, time

def hang(images):  # in C, where Python's own handlers wait for ever
    mutex = ctypes.create_string_buffer(64)
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    try:
        print("hanging", file=sys.stderr)
    finally:  # also where the first signal comes before the lock
        lock(mutex)

def stay(images):  # and cleaning up takes as long
    try:
        print("hanging", file=sys.stderr)
        time.sleep(600)
    finally:
        print("cleaning", file=sys.stderr)
        time.sleep(600)
"""


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("function", ["hang", "stay"])
def test_a_second_signal_ends_at_once(folder: Path, function: str, number: int) -> None:
    (folder / "hanging.py").write_text(HANGING)
    words = f"score m.safetensors --method content --content hanging:{function}".split()
    process = forked.start(command, folder, words)
    wait_for(process, folder / "err", "hanging\n")
    send(process, number)
    if function == "stay":
        wait_for(process, folder / "err", "cleaning\n")
    time.sleep(2 * stop.SAME_SEC)
    assert process.is_alive()
    began = time.monotonic()
    send(process, number)
    assert forked.exit_code(process) == SIGNALS[number][0]
    assert time.monotonic() - began < 5
    (folder / "hanging.py").unlink()
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)


# In this process.


@pytest.mark.parametrize("number", SIGNALS)
def test_who_swallows_a_signal_does_not_undo_it(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def mistake() -> None:
        try:
            signal.raise_signal(number)
        except BaseException as error:
            raise ComputationError("onnx cannot express the model") from error

    def swallow() -> None:
        with suppress(BaseException):
            signal.raise_signal(number)

    for call in (mistake, swallow):
        with pytest.raises(stop.Ended) as caught, stop.end_on_signals():
            call()
        assert caught.value.exit_code == SIGNALS[number][0]
    assert signal.getsignal(number) == before


def test_what_cleans_up_is_not_interrupted_again() -> None:
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(True)

    with pytest.raises(stop.Ended), stop.end_on_signals():
        work()
    assert cleaned


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as in the background
    try:
        with stop.end_on_signals(), stop.catch_signals() as request:
            signal.raise_signal(signal.SIGTERM)
        assert request.exit_code is None
    finally:
        signal.signal(signal.SIGTERM, before)
