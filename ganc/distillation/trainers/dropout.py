"""Dropout in training: masks keyed like every other draw, by (seed, step, index in the batch).

``torch.nn.Dropout`` draws from a global generator: a resumed run, or one on more processes, would
drop other values.
"""

import torch
from torch import Tensor, nn

from ganc.distillation.draws import Draws


class DropoutDraws:
    """Draws the masks of a step, one after the other.

    Args:
        draws: The run's random numbers.
    """

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.start(0)

    def start(self, step: int) -> None:
        """Begin a step: its masks are counted from the first."""
        self.step, self.count = step, 0

    def uniform(self, shape: torch.Size) -> Tensor:
        """Return numbers from [0, 1) for this process's samples, of the shape [N, …]."""
        stream = f"distill.dropout.{self.count}"
        self.count += 1
        return self.draws.uniform(stream, self.step, shape[1:].numel()).reshape(shape)


class KeyedDropout(nn.Module):
    """Dropout, with masks from ``DropoutDraws``. Has no state of its own."""

    def __init__(self, p: float, source: DropoutDraws) -> None:
        super().__init__()
        self.p, self.source = p, source

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return x * (self.source.uniform(x.shape) >= self.p) / (1 - self.p)


def key_dropout(network: nn.Module, source: DropoutDraws) -> None:
    """Give a network keyed masks in place of torch's; names in its ``state_dict`` stay."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, KeyedDropout(child.p, source))
