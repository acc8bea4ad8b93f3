"""Launching many kernels as one: CUDA graphs."""

from collections.abc import Callable

import torch
from torch import Tensor


class Replay:
    """A function of tensors on one CUDA device, recorded at its first call and replayed after.

    A host launches some hundred thousand kernels a second; where they are small, that is what takes
    the time. Replayed, they are one launch. Inputs of other shapes than the first ones' run as
    they are.

    Args:
        function: Tensors → a tensor on their device. It neither waits for the device nor copies
            from the host, and reads nothing that changes from call to call but its inputs.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the function's result; the next call overwrites it."""
        with torch.cuda.device(inputs[0].device):
            if self.graph is None:
                self._record(inputs)
            if [x.shape for x in inputs] != [x.shape for x in self.inputs]:
                return self.function(*inputs)
            for own, given in zip(self.inputs, inputs, strict=True):
                own.copy_(given)
            assert self.graph is not None
            self.graph.replay()
        return self.output

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = tuple(x.clone() for x in inputs)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self.function(*self.inputs)  # what libraries set up at a first call is not recorded
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.output = self.function(*self.inputs)
        self.graph = graph
