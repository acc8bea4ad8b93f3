"""How much memory a model takes on its device: ``memory``, in bytes.

The weights, and the most that one forward pass holds beside them at any moment: what has to fit
before the first image comes out. Inputs, which the caller owns, do not count; the image does.

On CUDA the allocator knows, cuDNN's work space included. On the CPU every operator's results are
followed until their storage is freed; buffers that a kernel takes and returns within one operator
are not seen, so that the number is the same on every machine.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ganc.evaluation.task import Measurement, Task
from ganc.models.sampling import Feed, stand_ins

BATCHES = (1, 8)
EXTRAS = ("memory-batch8", "memory-weights")


class Memory(Measurement):
    """Peak bytes of a forward pass, weights included; stored noise, fp32, no gradient.

    Translators are given noise images of their own resolution.
    """

    def __init__(self, task: Task) -> None:
        self.generator, self.device, self.seed = task.generator, task.device, task.settings.seed

    def result(self) -> dict[str, float]:
        weights = weight_bytes(self.generator)
        source = stand_ins(self.generator, self.seed)
        single, many = (
            weights + peak_bytes(source.feed(self.generator, range(batch)), self.device)
            for batch in BATCHES
        )
        return {"memory": single, "memory-batch8": many, "memory-weights": weights}

    def protocol(self) -> dict[str, Any]:
        is_cuda = self.device.type == "cuda"
        return {
            "unit": "bytes",
            "counted": "weights, buffers and the peak of one forward pass; not its inputs",
            "by": "the CUDA allocator" if is_cuda else "storages of the operators' results",
            "dtype": "float32",
            "resolution": self.generator.img_resolution,
            "noise_mode": "const",
        }


def weight_bytes(network: nn.Module) -> int:
    """Return the size of parameters and buffers, shared ones once."""
    tensors = [*network.parameters(), *network.buffers()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def peak_bytes(run: Feed, device: torch.device) -> int:
    """Return the most bytes that a forward pass has allocated at once, its image included."""
    if device.type == "cuda":
        return _peak_of_allocator(run, device)
    with LiveStorages() as live:
        run()
    return live.peak


def _peak_of_allocator(run: Feed, device: torch.device) -> int:
    run()  # what libraries keep from their first call on is not this pass's
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


class LiveStorages(TorchDispatchMode):
    """Follows the memory behind every tensor that is made while it is active.

    What an operator reads and none has made was there before (weights, inputs) and counts nothing;
    neither do views of it.

    Attributes:
        peak: Most bytes that were alive at the end of any operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes = WeakIdKeyDictionary()  # storage → bytes; an entry goes when its storage does

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for storage in _storages((args, kwargs)):
            self._sizes.setdefault(storage, 0)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            self._sizes.setdefault(storage, storage.nbytes())
        self.peak = max(self.peak, sum(self._sizes.values()))
        return result


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf.untyped_storage()
