"""What every network of every family offers beside its forward pass."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

from ganc.groups import ChannelGroup, count_macs, count_params


class Network(nn.Module, ABC):
    """A generator or discriminator that knows its configuration, its groups and its cost.

    Attributes:
        architecture: Public name of the family ("stylegan2"); the key of the architecture table.
        config: Everything that rebuilds the network: ``type(network)(**config)``. JSON data,
            ``widths`` (group name → channels) included.
    """

    architecture: ClassVar[str]
    config: dict[str, Any]

    @abstractmethod
    def groups(self) -> tuple[ChannelGroup, ...]:
        """Declare the channel groups, in network order, with tensor names as in ``state_dict``."""

    @abstractmethod
    def mac_positions(self) -> dict[str, int]:
        """Return how often each weight is applied per image (see ``groups.count_macs``)."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor that is saved."""
        return {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}

    def macs(self) -> int:
        """Count multiply-accumulates per image."""
        return count_macs(self.shapes(), self.mac_positions())

    def params(self) -> int:
        """Count parameters, buffers excluded."""
        return count_params(self.shapes(), (name for name, _ in self.named_parameters()))


class LatentGenerator(Network):
    """A generator that turns latents into images: StyleGAN2 and 3, SN-GAN.

    Attributes:
        z_dim, c_dim: Sizes of latent and label.
        img_resolution, img_channels: Size of the image.
    """

    z_dim: int
    c_dim: int
    img_resolution: int
    img_channels: int

    def noise_shapes(self) -> list[tuple[int, ...]]:
        """Return one sample's noise input per layer, in layer order; empty where there is none."""
        return []
