"""What processes at one task exchange: sums, means, batches, decisions; who they are.

``torch.distributed`` carries everything; a process that is alone keeps what it has. How they meet
is ``launch``'s.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(days=2)
"""How long processes wait for one that works alone; see ``patience``."""


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
    return all_sum_({name: tensor.clone() for name, tensor in tensors.items()})


def all_sum_(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Do as ``all_sum``, in place: no second set of tensors is alive."""
    if _is_running():
        for tensor in tensors.values():
            dist.all_reduce(tensor)
    return dict(tensors)


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
    gathered: Tensor = _Gather.apply(tensor)
    return gathered


class _Gather(torch.autograd.Function):
    """Stack along the first dimension; ``torch.distributed`` has this only as deprecated code."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor).contiguous() for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own: Tensor = _SumOwnShare.apply(gradient)
        return own


class _SumOwnShare(torch.autograd.Function):
    """Add up over the processes and keep this one's share: what ``_Gather`` is the transpose of."""

    @staticmethod
    def forward(ctx: Any, stacked: Tensor) -> Tensor:
        total = stacked.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gathered: Tensor = _Gather.apply(gradient)
        return gathered


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
def patience() -> Iterator[None]:
    """Wait at the end for a process that works alone meanwhile, however long that takes.

    An exchange fails after minutes, which would be too soon. The processes are connected before
    the work begins, so that one that dies at it is noticed at once.
    """
    if not _is_running():
        yield
        return
    group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
    yield
    dist.barrier(group=group)
    dist.destroy_process_group(group)


def _is_running() -> bool:
    return dist.is_available() and dist.is_initialized()
