"""Several processes: how they meet, who reports a failure, and that nobody waits for ever."""

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from ganc import cli, collectives, launch
from ganc.checkpoints.store import save
from ganc.errors import DataError, InputError, UsageError
from ganc.scoring import scorer
from tests import forked
from tests.conftest import Outcome, make_model

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENDLESS = ("score", "model.safetensors", "--method", "activation", "--samples", "1000000")

# A command of `ganc` that fails in one process while the other waits for it.
FAILING = """
import os, signal, sys
from datetime import timedelta
from ganc import cli, collectives, errors, launch

rank, how = os.environ["RANK"], sys.argv[1]
if how == "kill":
    launch.GRACE = timedelta(seconds=1)
open(rank, "w").write(str(os.getpid()))

def fail():
    with launch.process_group():
        if rank == "0" and how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == "0":
            raise errors.DataError("photo.png is broken", "mend it")
        collectives.barrier()

cli.app.registered_commands.clear()
cli.app.command("fail")(fail)
cli.app.command("other")(fail)
sys.argv = ["ganc", "fail"]
cli.main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(make_model(), tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [("raise", 3), ("kill", -9)])
def test_torchrun_names_the_first_to_fail(tmp_path: Path, how: str, code: int) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    done = subprocess.run(
        [*TORCHRUN, "failing.py", how], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1  # torchrun's own
    assert done.stdout == ""
    lines = [x for x in done.stderr.splitlines() if x.startswith(("error: ", "hint: "))]
    if how == "raise":
        assert lines == ["error: rank 0: photo.png is broken", "hint: mend it"]
    else:
        (line,) = [line for line in lines if line.startswith("error: ")]
        assert line.startswith(("error: rank 1: terminated", "error: rank 1: the connection"))
    failed, waiting = (int((tmp_path / rank).read_text()) for rank in "01")
    report = done.stderr[done.stderr.index("Root Cause") :]
    assert f"exitcode  : {code} (pid: {failed})" in report
    for pid in (failed, waiting):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def fail(place: str, is_killed: bool) -> None:
    """Let the second process fail at the start, or in the middle of ``ganc score``."""
    forked.hear_quickly()

    def fail(*arguments: object) -> NoReturn:
        if is_killed:
            os.kill(os.getpid(), signal.SIGKILL)
        raise DataError("photo.png is broken", "mend it")

    if os.environ["RANK"] == "1":
        module = launch if place == "start" else scorer
        setattr(module, "_join" if place == "start" else "run", fail)


def failing(folder: Path, place: str, *, is_killed: bool) -> list[Outcome]:
    """Run two processes of which the second fails; the first is ended after it."""
    change = functools.partial(fail, place, is_killed)
    group = forked.ganc_group(2, folder, *ENDLESS, change=change)
    group.store.wait(["ganc/here/0"], timedelta(seconds=60))
    forked.exit_code(group.processes[1])
    group.processes[0].terminate()  # as torchrun does
    return group.wait()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["start", "middle"])
def test_what_one_has_to_say_carries_its_rank(folder: Path, place: str) -> None:
    first, second = failing(folder, place, is_killed=False)
    assert second == (3, "", "error: rank 1: photo.png is broken\nhint: mend it\n")
    assert first.code == 143
    assert "error:" not in first.err  # it only follows


@pytest.mark.slow
@pytest.mark.parametrize("place", ["start", "middle"])
def test_a_killed_process_ends_the_others(folder: Path, place: str) -> None:
    # That torchrun ends who waits and names who was killed: above.
    first, second = failing(folder, place, is_killed=True)
    assert second == (-signal.SIGKILL, "", "")
    assert (first.code, first.out) == (143, "")
    (line,) = [line for line in first.err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: rank 0: terminated")


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def meet(folder: Path, variables: dict[str, str], seconds: float) -> None:
    """Be a command that meets the other processes of a launch."""
    os.environ.update(variables)
    forked.hear_quickly()

    def meet() -> None:
        with launch.process_group(timeout=timedelta(seconds=seconds)):
            print("met")

    cli.app.registered_commands.clear()
    cli.app.command("meet")(meet)
    cli.app.command("other")(meet)
    forked.be_ganc(folder, folder, ["meet"])


def start_alone(folder: Path, rank: int, port: int, seconds: float) -> BaseProcess:
    """Start one of two processes, the other of which nobody starts."""
    return forked.start(meet, folder, forked.environment(rank, 2, port), seconds)


def check_line(err: str, start: str, port: int) -> None:
    error, hint = [line for line in err.splitlines() if line.startswith(("error:", "hint:"))]
    assert error.startswith(start)
    assert f"MASTER_ADDR (127.0.0.1, port {port})" in hint
    assert "firewall" in hint


@pytest.mark.slow
def test_who_does_not_come_is_named_in_time(tmp_path: Path) -> None:
    store = forked.new_store()
    process = start_alone(tmp_path, 0, store.port, 1)
    assert forked.exit_code(process) == 4
    start = "error: rank 0: no connection to the other processes: rank 1 of 2 did not join within 1"
    check_line((tmp_path / "err").read_text(), start, store.port)
    assert (tmp_path / "out").read_text() == ""


@pytest.mark.slow
def test_a_place_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    port = closed_port()
    process = start_alone(tmp_path, 1, port, 1)
    assert forked.exit_code(process) == 4
    start = "error: rank 1: no connection to the other processes: "
    check_line((tmp_path / "err").read_text(), start, port)
    assert (tmp_path / "out").read_text() == ""


@pytest.mark.slow
def test_waiting_ends_when_it_is_told_to(tmp_path: Path) -> None:
    store = forked.new_store()
    process = start_alone(tmp_path, 0, store.port, 500)
    store.wait(["ganc/here/0"], timedelta(seconds=60))
    process.terminate()
    assert forked.exit_code(process) == 143
    assert "error: rank 0: terminated\n" in (tmp_path / "err").read_text()


def test_alone_it_does_nothing() -> None:
    tensors = {"a": torch.ones(2)}
    with launch.process_group() as device:
        assert device == torch.device("cpu")
        assert (collectives.rank(), collectives.world_size(), launch.launched_rank()) == (0, 1, 0)
        assert collectives.all_sum(tensors)["a"] is tensors["a"]
        assert collectives.all_sum_(tensors)["a"].tolist() == [1, 1]


def launched(monkeypatch: pytest.MonkeyPatch, local: int, per_machine: int, devices: int) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(local))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(per_machine))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)


def test_every_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, 3, 4, 4)
    assert launch.own_device(torch.device("cuda")) == torch.device("cuda:3")
    assert launch.own_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(UsageError, match="--device cuda:1 names one device for 4 processes"):
        launch.own_device(torch.device("cuda:1"))
    launched(monkeypatch, 3, 4, 2)
    with pytest.raises(InputError, match="no CUDA device: there are 2") as caught:
        launch.own_device(torch.device("cuda"))
    assert "--nproc-per-node 2" in str(caught.value.hint)
    launched(monkeypatch, 0, 1, 2)
    assert launch.own_device(torch.device("cuda:1")) == torch.device("cuda:1")


def test_a_call_that_never_returns_is_given_up() -> None:
    with pytest.raises(TimeoutError, match=r"more than 0\.05 s"):
        launch._within(timedelta(seconds=0.05), lambda: time.sleep(1))
    with pytest.raises(ZeroDivisionError):
        launch._within(timedelta(seconds=5), lambda: print(1 // 0))
