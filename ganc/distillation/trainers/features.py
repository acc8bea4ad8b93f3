"""Feature distillation of translators: inner features against the teacher's, whatever the widths.

Source: Li et al. 2020, "GAN Compression: Efficient Architectures for Interactive Conditional GANs",
Section 3.2 and its public code: learned 1x1 convolutions take the student's features to the
teacher's channels, at four depths, and squared differences are averaged.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganc.models.network import Translator

DEPTHS = 4
"""Most layers that are compared. Of a ResNet with nine blocks: before the first, and after every
third, as published."""


class FeatureDistance(nn.Module):
    """Distance between the features of a student and those of its teacher.

    A convolution starts as the identity on the channels that both have: a copy of the teacher
    starts at distance 0, and no random number is drawn.

    Attributes:
        layers, teacher_layers: Names of the compared layers in either network.
    """

    def __init__(self, student: Translator, teacher: Translator) -> None:
        super().__init__()
        own, other = student.feature_layers(), teacher.feature_layers()
        count = min(DEPTHS, len(own), len(other))
        self.layers, self.teacher_layers = _spread(list(own), count), _spread(list(other), count)
        self.adapters = nn.ModuleList(
            _adapter(own[name], other[target])
            for name, target in zip(self.layers, self.teacher_layers, strict=True)
        )

    def forward(self, own: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Return the sum over layers of the mean squared differences.

        Args:
            own, target: Features [N, C, H, W] of the compared layers, in order. The student's are
                averaged to the teacher's size where the depths differ.
        """
        pairs = zip(self.adapters, own, target, strict=True)
        return torch.stack([_distance(adapter(x), goal) for adapter, x, goal in pairs]).sum()


def _distance(x: Tensor, goal: Tensor) -> Tensor:
    if x.shape != goal.shape:
        x = F.adaptive_avg_pool2d(x, (goal.shape[2], goal.shape[3]))
    return F.mse_loss(x.float(), goal.float())


def _adapter(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _spread(names: list[str], count: int) -> list[str]:
    """Return ``count`` of the names, evenly spaced, the first and the last among them."""
    last = len(names) - 1
    return [names[round(i * last / max(1, count - 1))] for i in range(count)]


@contextlib.contextmanager
def watch(network: nn.Module, layers: Sequence[str]) -> Iterator[list[Tensor]]:
    """Collect the outputs of layers, in the order in which they run meanwhile."""
    found: list[Tensor] = []
    handles = [
        network.get_submodule(name).register_forward_hook(lambda _, __, out: found.append(out))
        for name in layers
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
