"""What every network of every family offers beside its forward pass."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ganc.errors import UsageError
from ganc.groups import ChannelGroup, count_macs, count_params
from ganc.models.fitting import FitLayer

NOISE_MODES = ("random", "const", "none")
"""Where a generator's noise comes from: drawn, the stored constants, nowhere."""

IMAGE_SIZES = ("img_resolution", "img_channels")
"""Attributes of a generator that say how large its images are."""


class Network(nn.Module, ABC):
    """A generator or discriminator that knows its configuration, its groups and its cost.

    Attributes:
        architecture: Public name of the family ("stylegan2"); the key of the architecture table.
        config: Everything that rebuilds the network: ``type(network)(**config)``. JSON data,
            ``widths`` (group name → channels) included.
        logit_layer: Of a discriminator, the layer that turns its last features into logits.
    """

    architecture: ClassVar[str]
    logit_layer: ClassVar[str | None] = None
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

    def published_mac_positions(self) -> dict[str, int] | None:
        """Return the positions as the family's papers count them; None where they count as we do.

        Papers on image translation count a transposed convolution at its output resolution.
        """
        return None

    def macs(self) -> int:
        """Count multiply-accumulates per image."""
        return count_macs(self.shapes(), self.mac_positions())

    def macs_published(self) -> int | None:
        """Count them as the family's papers do; None where that is the same."""
        positions = self.published_mac_positions()
        return None if positions is None else count_macs(self.shapes(), positions)

    def params(self) -> int:
        """Count parameters, buffers excluded."""
        return count_params(self.shapes(), (name for name, _ in self.named_parameters()))

    def copy_on(self, device: torch.device | str) -> Self:
        """Return a copy on a device, in eval mode.

        Guarantees: this network keeps its device, mode and gradients.
        """
        return copy.deepcopy(self).to(device).eval()


class ImageGenerator(Network):
    """A network that makes images.

    Attributes:
        input_sizes: Attributes that say how large its inputs are.
        img_resolution: Height and width of the image; of a translator, which takes other sizes as
            well, the size that costs are counted at and files are exported for.
        img_channels: Channels of the image.
    """

    input_sizes: ClassVar[tuple[str, ...]]
    img_resolution: int
    img_channels: int

    def fit_layers(self) -> list[FitLayer]:
        """Return the layers that may be fitted to a teacher's, in the order they run.

        Layers whose inputs no pruning changes are left out: their channels stay what they were.

        Raises:
            UsageError: The family says of no layer how it is fitted.
        """
        raise UsageError(
            f"a {self.architecture} does not say how its layers are fitted", "leave --refit out"
        )

    def interface(self) -> dict[str, int]:
        """Return the sizes of what goes in and what comes out, by attribute.

        Generators with the same interface take the same inputs and make comparable images.
        """
        return {name: getattr(self, name) for name in (*self.input_sizes, *IMAGE_SIZES)}


class LatentGenerator(ImageGenerator):
    """A generator that turns latents into images: StyleGAN2 and 3, SN-GAN.

    Called as ``generator(z, c=None, *, truncation_psi=1.0, truncation_cutoff=None,
    noise_mode="const", noise=None)``; one that has no labels, truncation or noise says so where
    they are asked for.

    Attributes:
        z_dim, c_dim: Sizes of latent and label.
    """

    input_sizes = ("z_dim", "c_dim")
    z_dim: int
    c_dim: int

    def noise_shapes(self) -> list[tuple[int, ...]]:
        """Return one sample's noise input per layer, in layer order; empty where there is none."""
        return []

    @abstractmethod
    def first_weight(self) -> Tensor:
        """Return the weight of the linear layer that reads z: [features, D_z]."""


class Translator(ImageGenerator):
    """A generator that turns images into images: pix2pix, CycleGAN. Called as ``generator(x)``.

    Attributes:
        in_channels: Channels of the image it takes, which has the size of the image it makes.
        size_multiple: Number that must divide height and width.
        least_side: Their least value.
    """

    input_sizes = ("in_channels",)
    in_channels: int
    size_multiple: int
    least_side: int

    @abstractmethod
    def feature_layers(self) -> dict[str, int]:
        """Return the layers whose outputs tell how far the translation is, in network order.

        Returns:
            Name of the submodule → channels of its output.
        """


def check_widths(names: Sequence[str], widths: Mapping[str, int]) -> dict[str, int]:
    """Return ``widths`` in network order.

    Raises:
        UsageError: A group is missing or unknown, or has less than one channel.
    """
    problems = [f"misses {name}" for name in names if name not in widths]
    problems += [f"names unknown group {name}" for name in widths if name not in names]
    problems += [f"gives {name} {n} channels" for name, n in widths.items() if n < 1]
    if problems:
        raise UsageError("widths " + ", ".join(problems))
    return {name: int(widths[name]) for name in names}
