"""Several processes at one task, started by ``torchrun``: how they meet, part, and who speaks.

Nothing home-made: ``torch.distributed`` carries everything. A process that was started alone is a
world of one, in which every function here does nothing; what a group exchanges is in
``collectives``.
"""

import contextlib
import importlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from ganc.errors import InputError, PeerError, UsageError

TIMEOUT = timedelta(minutes=10)
"""How long processes wait for each other, at the start and in every exchange."""
GRACE = timedelta(seconds=10)
"""How long a process that failed waits to hear whether the others failed as well."""
LINGER_SEC = 1.0
"""How much later those end that only follow: ``torchrun`` names the first to end as the cause."""
_CPU = torch.device("cpu")


def launched_rank() -> int:
    """Return the number that ``torchrun`` gave this process, in a group or not; 0 if alone."""
    return int(os.environ["RANK"]) if is_launched() else 0


def is_launched() -> bool:
    """Tell whether ``torchrun`` started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextlib.contextmanager
def process_group(
    device: torch.device = _CPU, *, timeout: timedelta = TIMEOUT
) -> Iterator[torch.device]:
    """Join the other processes where ``torchrun`` started this one, and leave them at the end.

    Tensors on a CUDA device travel by NCCL, tensors on the host by gloo.

    Args:
        device: Where to compute: the CPU or "cuda", in every process the same.
        timeout: See ``TIMEOUT``.
    Yields:
        The device of this process: of "cuda" under ``torchrun`` that of its number on its machine.
    Raises:
        UsageError, InputError: There is no CUDA device of its own for every process.
        PeerError: Another process did not come, cannot be reached, or ended before its time.
    """
    if not is_launched():
        yield device
        return
    # Functions of this module take the group that exists when it is imported as a default, and so
    # keep it, with threads that abort the process if it ends while they let go of a tensor (1 run
    # in 20). Imported before there is a group, it keeps nothing.
    importlib.import_module("torch.distributed.nn.functional")
    own = own_device(device)
    try:
        board = _join(own, timeout)
        yield own
        dist.barrier()  # nobody writes what another, still at its start, finds in its way
        board.set(str(dist.get_rank()), json.dumps(["", False]))
    except RuntimeError as error:
        if _is_connection_lost(error):
            raise PeerError(
                f"the connection to another process was lost: {_first_line(error)}",
                "that process, or torchrun's report, says why it ended",
            ) from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """Return the device of a process that ``torchrun`` started.

    Raises:
        UsageError: One device is named for several processes of a machine.
        InputError: The machine has fewer devices than processes.
    """
    if device.type != "cuda":
        return device
    number, count = dist.get_node_local_rank(), torch.cuda.device_count()
    if device.index is not None and os.environ.get("LOCAL_WORLD_SIZE", "1") != "1":
        raise UsageError(
            f"--device {device} names one device for {os.environ['LOCAL_WORLD_SIZE']} processes",
            "pass --device cuda: every process takes its own",
        )
    if number >= count:
        raise InputError(
            f"process {number} of this machine has no CUDA device: there are {count}",
            f"start torchrun with --nproc-per-node {count}, or pass --device cpu",
        )
    own = torch.device("cuda", number if device.index is None else device.index)
    torch.cuda.set_device(own)
    return own


def settle(message: str, *, follows: bool) -> str | None:
    """Agree with the other processes on who says that and why the command failed.

    What all of them have to say, the first says; what one alone has to say, it says with its
    number; and who only ended because another did says nothing. Waits for the others at most
    ``GRACE``.

    Args:
        message: What this process would say.
        follows: Whether its failure may be but the consequence of another's.
    Returns:
        What this process has to say; None if nothing.
    """
    number = launched_rank()
    try:
        board = _board(GRACE)
        board.set(str(number), json.dumps([message, follows]))
        told = _told(board, int(os.environ["WORLD_SIZE"]))
    except (RuntimeError, ValueError):  # nobody can be asked: the machine of rank 0 is gone
        return f"rank {number}: {message}"
    if follows and any(text and not other for text, other in told.values()):
        time.sleep(LINGER_SEC)
        return None
    sharers = [r for r, (text, _) in sorted(told.items()) if text == message]
    if number != sharers[0]:
        return None
    is_everyone = len(sharers) == int(os.environ["WORLD_SIZE"])
    return message if is_everyone else f"rank {', '.join(map(str, sharers))}: {message}"


def _told(board: dist.Store, world: int) -> dict[int, tuple[str, bool]]:
    """Return what the processes that have ended so far have written down."""
    deadline = time.monotonic() + GRACE.total_seconds()
    silent = [str(r) for r in range(world)]
    while (silent := [r for r in silent if not board.check([r])]) and time.monotonic() < deadline:
        time.sleep(0.05)  # `Store.wait` would write a warning of its own to stderr
    heard = [r for r in range(world) if str(r) not in silent]
    return {r: tuple(json.loads(board.get(str(r)))) for r in heard}


def _join(device: torch.device, timeout: timedelta) -> dist.Store:
    """Form the group and try it; return what the processes write to each other on."""
    try:
        board = _board(timeout)
        _roll_call(board, timeout)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timeout)
        _within(timeout, lambda: _try(device))
    except (RuntimeError, TimeoutError) as error:
        raise PeerError(
            f"no connection to the other processes: {_first_line(error)}",
            f"check that MASTER_ADDR ({os.environ.get('MASTER_ADDR')}, port"
            f" {os.environ.get('MASTER_PORT')}) is reachable from every machine, and that no"
            " firewall is between them; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network"
            " to use",
        ) from error
    return board


def _board(timeout: timedelta) -> dist.Store:
    """Return the key-value store that torchrun serves, or rank 0 where it does not."""
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    return dist.PrefixStore("ganc", store)


def _roll_call(board: dist.Store, timeout: timedelta) -> None:
    """Wait until every process is there, where a signal can still end the waiting."""
    world = int(os.environ["WORLD_SIZE"])
    board.set(f"here/{launched_rank()}", "")
    deadline = time.monotonic() + timeout.total_seconds()
    missing = list(range(world))
    while missing := [r for r in missing if not board.check([f"here/{r}"])]:
        if time.monotonic() > deadline:
            names = ", ".join(map(str, missing))
            raise TimeoutError(
                f"rank {names} of {world} did not join within {timeout.total_seconds():g} s"
            )
        time.sleep(0.05)


def _try(device: torch.device) -> None:
    probe = torch.ones(1, device=device)
    dist.all_reduce(probe)
    if probe.item() != dist.get_world_size():
        raise RuntimeError(f"{dist.get_world_size()} ones add up to {probe.item():g} on {device}")


def _within(timeout: timedelta, call: Callable[[], None]) -> None:
    """Make a call that may never return.

    Raises:
        TimeoutError: It has not returned in time.
        Others: Whatever it raises.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout.total_seconds())
    if thread.is_alive():
        raise TimeoutError(f"the first exchange took more than {timeout.total_seconds():g} s")
    if raised:
        raise raised[0]


def _is_connection_lost(error: RuntimeError) -> bool:
    """Tell a broken connection from other errors; gloo raises a plain ``RuntimeError``."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip().rstrip(".")
