"""Several processes at one task, started by ``torchrun``: who is who, and how sums are formed.

Nothing home-made: ``torch.distributed`` carries everything. A process that was started alone is a
world of one, in which every function here does nothing.
"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping

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
