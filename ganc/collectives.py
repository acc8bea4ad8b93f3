"""What processes at one task exchange: means, batches, decisions.

``torch.distributed`` carries everything; a process that is alone keeps what it has. Who the
processes are, and how they meet, is ``parallel``'s.
"""

import importlib
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(days=2)
"""How long ``patient_barrier`` waits."""


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in place: one transfer for all of them.

    Args:
        tensors: The same shapes in the same order in every process, of one dtype and device.
    """
    if not _is_running() or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
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


def patient_barrier() -> None:
    """Wait for the other processes however long they take; one that died is still noticed.

    An exchange fails after minutes, which is too soon where one process works alone meanwhile.
    """
    if _is_running():
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        dist.barrier(group=patient)
        dist.destroy_process_group(patient)


def _is_running() -> bool:
    return dist.is_available() and dist.is_initialized()
