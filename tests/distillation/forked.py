"""Processes forked from one that has imported everything: a cold start takes seconds, a fork none.

Several of them find each other as ``torchrun`` would have it: the test serves the store.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest  # noqa: F401  (every child looks at the main module, which imports it)
import torch
import torch.distributed as dist
import torch.distributed.nn.functional

import ganc.commands.distill
import ganc.distillation.distill
import ganc.evaluation.evaluate  # noqa: F401  (as above: in the server, not in every child)
from ganc import cli
from tests.conftest import Outcome

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])
LIMIT_SEC = 120


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


def ganc_group(world: int, folder: Path, *arguments: object) -> Group:
    """Start ``ganc ARGUMENTS`` as ``world`` processes in a folder."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    words = [str(argument) for argument in arguments]
    written = folder / f"said-{store.port}"
    written.mkdir()
    environments = [_environment(rank, world, store.port) for rank in range(world)]
    processes = [start(_ganc, folder, written, words, env) for env in environments]
    return Group(processes, written, store)


def _environment(rank: int, world: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip


def _ganc(folder: Path, written: Path, words: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    rank = environment["RANK"]
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(written / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    if rank != "0":
        sys.addaudithook(lambda event, values: _refuse_writing(folder, event, values))
    sys.exit(cli.run(words))


def _refuse_writing(folder: Path, event: str, values: tuple[Any, ...]) -> None:
    """Only the first process may write."""
    is_write = event == "open" and values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if is_write or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"):
        path = Path(os.fsdecode(values[0])) if isinstance(values[0], str | bytes) else Path("/dev")
        if (folder / path).is_relative_to(folder):
            raise RuntimeError(f"a process other than the first one writes: {event} {path}")
