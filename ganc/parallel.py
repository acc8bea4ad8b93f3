"""Several processes at one task, started by ``torchrun``: who is who, and how sums are formed.

Nothing home-made: ``torch.distributed`` carries everything. A process that was started alone is a
world of one, in which every function here does nothing.
"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return this process's number; 0 reports and writes."""
    return dist.get_rank() if _is_running() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _is_running() else 1


def all_sum(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sum of each tensor over all processes: the same bits in each of them.

    Args:
        tensors: The same names and shapes in every process; they stay as they are.
    Returns:
        New tensors; of a process that is alone the given ones.
    """
    if not _is_running():
        return dict(tensors)
    summed = {name: tensor.clone() for name, tensor in tensors.items()}
    for tensor in summed.values():
        dist.all_reduce(tensor)
    return summed


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in place: one transfer for all of them.

    Args:
        tensors: The same shapes in the same order in every process, of one dtype and device.
    """
    if not _is_running() or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    with torch.no_grad():
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def gather(tensor: Tensor) -> Tensor:
    """Return the tensors of all processes, stacked along the first dimension, with gradient.

    The gradient that reaches a process is the sum of what all processes ask of its tensor; with
    gradients of weights averaged afterwards, a loss that is a mean over processes is differentiated
    as if one process had computed it.
    """
    if not _is_running():
        return tensor
    functional = importlib.import_module("torch.distributed.nn.functional")
    return torch.cat(functional.all_gather(tensor.contiguous()))


def largest(value: int) -> int:
    """Return the largest of the processes' values; carried by the CPU, no GPU is waited for."""
    if not _is_running():
        return value
    shared = torch.tensor(value)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def barrier() -> None:
    """Wait for the other processes."""
    if _is_running():
        dist.barrier()


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes where ``torchrun`` started this one, and leave them at the end."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield
        return
    # Functions of this module take the group that exists when it is imported as a default, and so
    # keep it, with threads that abort the process if it ends while they let go of a tensor (1 run
    # in 20). Imported before there is a group, it keeps nothing.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("gloo")
    try:
        yield
        dist.barrier()  # nobody writes what another, still at its start, finds in its way
    finally:
        dist.destroy_process_group()


def _is_running() -> bool:
    return dist.is_available() and dist.is_initialized()
