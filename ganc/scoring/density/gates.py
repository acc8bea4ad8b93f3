"""A network whose channels open and close.

A gate multiplies the weights that consume its channel (``groups.gate_consumers``). They read it
behind norm and activation, where no norm can divide the gate out again, and a network with gates of
0 and 1 gives the images of the sliced one: every family that declares its groups can be gated.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ganc.groups import ChannelGroup, count_macs, gate_consumers, sliced_shapes
from ganc.models.network import Network
from ganc.models.stylegan2_discriminator import DiscriminatorEpilogue
from ganc.models.translation import BatchNorm

Gates = Mapping[str, Tensor]
"""Group name → [width], 0 (closed) to 1 (open)."""


class GatedNetwork:
    """One network and the groups of it that are gated.

    Args:
        network: Called through this object; its weights stay as they are.
        keep: Groups that are not gated.
    Attributes:
        groups: The gated ones, in network order.
    """

    def __init__(self, network: Network, keep: Collection[str] = ()) -> None:
        self.network = network
        self.groups: tuple[ChannelGroup, ...] = tuple(
            group for group in network.groups() if group.prunable and group.name not in keep
        )
        self._call = _Call(network)
        self._shapes, self._positions = network.shapes(), network.mac_positions()

    @property
    def widths(self) -> list[int]:
        """Channels of every gated group."""
        return [group.width for group in self.groups]

    def split(self, gates: Tensor) -> dict[str, Tensor]:
        """Return all gates [n], one behind the other, as gates by group."""
        parts = gates.split(self.widths)
        return {group.name: part for group, part in zip(self.groups, parts, strict=True)}

    def run(self, call: Callable[[], Tensor], gates: Tensor | None) -> Tensor:
        """Do ``call``, in which the network has gates; None for the network as it is."""
        if gates is None:
            return call()
        tensors = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        gated = gate_consumers(tensors, self.groups, self.split(gates))
        swapped = {f"network.{name}": tensor for name, tensor in gated.items()}
        result: Tensor = functional_call(self._call, swapped, (call,))
        return result

    def macs(self, gates: Tensor) -> Tensor:
        """Count multiply-accumulates per image at gates [n]: a float64 scalar, differentiable."""
        open_gates = gates.double()
        return self.macs_at({name: part.sum() for name, part in self.split(open_gates).items()})

    def macs_at(self, widths: Mapping[str, Any]) -> Any:
        """Count multiply-accumulates per image at numbers of channels, whole or not."""
        return count_macs(sliced_shapes(self._shapes, self.groups, widths), self._positions)

    def head_gates(self, gates: Tensor, width: int) -> Tensor:
        """Return the gates [``width``] of what the logit layer of a discriminator reads."""
        layer = f"{self.network.logit_layer}."
        head = gates.new_ones(width)
        for group, own in zip(self.groups, gates.split(self.widths), strict=True):
            for part in group.slices:
                if part.role == "in" and part.tensor.startswith(layer):
                    end = part.offset + group.width * part.repeat
                    own = own.repeat_interleave(part.repeat)
                    head = torch.cat([head[: part.offset], own, head[end:]])
        return head


class _Call(nn.Module):
    """Calls what it is given, with its network's tensors swapped by ``functional_call``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, call: Callable[[], Tensor]) -> Tensor:
        return call()


def use_image_statistics(network: nn.Module) -> None:
    """Let every batch norm of a network use each image's own statistics in eval mode."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.statistics = "batch"


def judge_alone(discriminator: nn.Module) -> None:
    """Let a discriminator judge every image by itself, whatever else is in its batch.

    StyleGAN2's reads the deviation within groups of images as well; of one image it is zero.
    """
    for module in discriminator.modules():
        if isinstance(module, DiscriminatorEpilogue):
            module.mbstd_group_size = 1


def floors(groups: Sequence[ChannelGroup], share: float) -> dict[str, int]:
    """Return the channels that every group keeps at least: a share of its width, and one."""
    return {group.name: max(1, math.floor(share * group.width)) for group in groups}
