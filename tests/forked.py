"""Processes forked from one that has imported everything: a cold start takes seconds, a fork none.

Several of them find each other as ``torchrun`` would have it: the test serves the store.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest  # noqa: F401  (every child looks at the main module, which imports it)
import torch
import torch.distributed as dist
import torch.distributed.nn.functional
from PIL import Image

import ganc.commands.distill
import ganc.distillation.distill
import ganc.evaluation.evaluate
import ganc.scoring.score  # noqa: F401  (as above: in the server, not in every child)
from ganc import cli, launch
from tests.conftest import Outcome

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])
LIMIT_SEC = 120
Image.preinit()  # or every child loads the formats of images by itself


def start(target: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Start a function of a test module in a forked process."""
    process = CONTEXT.Process(target=_run, args=(target, *arguments))
    process.start()
    return process


def exit_code(process: BaseProcess) -> int:
    """Wait for a process; return its exit code, as negative number the signal that ended it."""
    process.join(LIMIT_SEC)
    with suppress(ValueError):
        if process.is_alive():
            process.kill()
    assert process.exitcode is not None, f"process {process.pid} hangs"
    return process.exitcode


def _run(target: Callable[..., object], *arguments: Any) -> None:
    torch.set_num_threads(1)
    target(*arguments)


def be_ganc(folder: Path, said: Path, words: list[str]) -> None:
    """Be ``ganc WORDS`` in a folder; what it says goes to the files out and err of another."""
    os.chdir(folder)
    _speak_into(said / "out", said / "err")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    sys.argv = ["ganc", *words]
    cli.main()


def _speak_into(out: Path, err: Path) -> None:
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))


class Group(NamedTuple):
    """``ganc`` as several processes.

    Attributes:
        processes: By rank.
        folder: Holds what they wrote: ``<rank>.out``, ``<rank>.err``.
        store: Where they find each other.
    """

    processes: list[BaseProcess]
    folder: Path
    store: dist.TCPStore

    def wait(self) -> list[Outcome]:
        """Return what each of them did."""
        codes = [exit_code(process) for process in self.processes]
        return [
            Outcome(
                code,
                (self.folder / f"{rank}.out").read_text(),
                (self.folder / f"{rank}.err").read_text(),
            )
            for rank, code in enumerate(codes)
        ]


def ganc_group(
    world: int, folder: Path, *arguments: object, change: Callable[[], None] | None = None
) -> Group:
    """Start ``ganc ARGUMENTS`` as ``world`` processes in a folder.

    Args:
        change: A function of a test module that each process calls first.
    """
    store = new_store()
    words = [str(argument) for argument in arguments]
    written = folder / f"said-{store.port}"
    written.mkdir()
    environments = [environment(rank, world, store.port) for rank in range(world)]
    processes = [start(_ganc, folder, written, words, env, change) for env in environments]
    return Group(processes, written, store)


def run_group(world: int, target: Callable[..., object], *arguments: Any) -> None:
    """Run a function of a test module in ``world`` processes, all of which must succeed."""
    store = new_store()
    environments = [environment(rank, world, store.port) for rank in range(world)]
    processes = [start(_member, env, target, *arguments) for env in environments]
    assert [exit_code(process) for process in processes] == [0] * world


def new_store() -> dist.TCPStore:
    """Serve the store in which processes find each other, at a free port."""
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """Return what ``torchrun`` would tell a process."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip


def _member(variables: dict[str, str], target: Callable[..., object], *arguments: Any) -> None:
    os.environ.update(variables)
    target(*arguments)


def _ganc(
    folder: Path,
    written: Path,
    words: list[str],
    variables: dict[str, str],
    change: Callable[[], None] | None,
) -> None:
    os.environ.update(variables)
    os.chdir(folder)
    rank = variables["RANK"]
    _speak_into(written / f"{rank}.out", written / f"{rank}.err")
    if rank != "0":
        sys.addaudithook(lambda event, values: _refuse_writing(folder, event, values))
    if change is not None:
        change()
    sys.exit(cli.run(words))


def hear_quickly() -> None:
    """Wait a second, and not ten, to hear why others failed; for one of them that is dead."""
    launch.GRACE = timedelta(seconds=1)


def _refuse_writing(folder: Path, event: str, values: tuple[Any, ...]) -> None:
    """Only the first process may write."""
    is_write = event == "open" and values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if is_write or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"):
        path = Path(os.fsdecode(values[0])) if isinstance(values[0], str | bytes) else Path("/dev")
        if (folder / path).is_relative_to(folder):
            raise RuntimeError(f"a process other than the first one writes: {event} {path}")
