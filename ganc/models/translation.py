"""What the image-to-image networks share: convolutions with their norm, and how they tie channels.

Source: Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks", and
Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks".
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ganc.errors import InputError, ShapeError, UsageError, unknown_name
from ganc.groups import ChannelGroup, Slice
from ganc.models.fitting import FitLayer, plain_conv
from ganc.models.layers import shape_of
from ganc.models.network import Network, Translator, check_widths
from ganc.models.spectral import SpectralConv2d, consumed_vector

NORMS = ("instance", "batch", "none")
NORM_STATISTICS = ("running", "batch")
BASE_WIDTH = 64
DROPOUT = 0.5
SLOPE = 0.2
"""Of the leaky ReLUs."""
WEIGHT_STD = 0.02
"""Deviation of freshly drawn weights, as both papers train."""


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of which eval mode may normalise every image by its own statistics.

    The published pix2pix test script leaves its generator in train mode and translates images one
    by one: ``statistics="batch"`` gives its results, in batches of any size.
    """

    def __init__(self, channels: int, *, affine: bool, statistics: str) -> None:
        super().__init__(channels, affine=affine)
        self.statistics = statistics

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.statistics == "running":
            return super().forward(x)
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


@dataclass(frozen=True)
class NormSettings:
    """How a network normalises; the fields are arguments of every network here.

    Attributes:
        norm: "instance", "batch" or "none".
        norm_affine: Whether the norms have a weight and a bias.
        norm_statistics: What batch norm uses in eval mode: "running" averages, or "batch": each
            image's own (see ``BatchNorm``). Instance norm always uses the image's own.
        bias: Whether the convolutions in front of norms have a bias.
    """

    norm: str
    norm_affine: bool
    norm_statistics: str
    bias: bool

    @classmethod
    def resolve(
        cls, norm: str, norm_affine: bool | None, norm_statistics: str, bias: bool | None
    ) -> "NormSettings":
        """Fill in what the published networks do: batch norm is affine, instance norm has biases.

        Raises:
            UsageError: A name is not known.
        """
        if norm not in NORMS:
            raise unknown_name("norm", norm, NORMS)
        if norm_statistics not in NORM_STATISTICS:
            raise unknown_name("norm_statistics", norm_statistics, NORM_STATISTICS)
        affine = norm == "batch" if norm_affine is None else norm_affine
        return cls(norm, affine, norm_statistics, norm == "instance" if bias is None else bias)

    def layer(self, channels: int) -> nn.Module:
        """Build one norm."""
        if self.norm == "instance":
            return nn.InstanceNorm2d(channels, affine=self.norm_affine)
        if self.norm == "batch":
            return BatchNorm(channels, affine=self.norm_affine, statistics=self.norm_statistics)
        return nn.Identity()

    def config(self) -> dict[str, Any]:
        """Return the fields as a network's arguments."""
        return asdict(self)


class ConvLayer(nn.Module):
    """A convolution, plain or transposed, and the norm behind it, if any.

    It alone knows the layout of its weight: [C_out, C_in, K, K] for a plain convolution,
    [C_in, C_out, K, K] for a transposed one.
    """

    def __init__(
        self, conv: nn.Conv2d | nn.ConvTranspose2d | SpectralConv2d, norm: NormSettings | None
    ) -> None:
        super().__init__()
        if not conv.weight.is_meta:  # without values to draw, drawing is most of the time
            nn.init.normal_(conv.weight, std=WEIGHT_STD)
        self.conv = conv
        self.norm = nn.Identity() if norm is None else norm.layer(conv.out_channels)

    @property
    def out_dim(self) -> int:
        """Dimension of the weight that the output channels run along."""
        return int(isinstance(self.conv, nn.ConvTranspose2d))

    @property
    def is_spectral(self) -> bool:
        """Whether the weight is spectrally normalised."""
        return isinstance(self.conv, SpectralConv2d)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.conv(x))
        return normalised

    def fit_layer(self, name: str, group: str | None) -> FitLayer:
        """Return how the convolution is fitted, in front of the norm; ``name`` is the layer's."""
        assert not isinstance(self.conv, SpectralConv2d)  # generators have none
        return FitLayer(name, group, (plain_conv(f"{name}.conv", self.conv),), self.conv.bias)

    def produced(self, name: str) -> tuple[Slice, ...]:
        """Return the slices that make the output channels; ``name`` is the layer's own."""
        tensors = self.state_dict().items()
        vectors = [key for key, t in tensors if t.ndim == 1 and key != "conv.weight_v"]
        weight = Slice(f"{name}.conv.weight", self.out_dim, "out", spectral_norm=self.is_spectral)
        return (weight, *(Slice(f"{name}.{key}", 0, "out") for key in vectors))

    def consumed(self, name: str, offset: int) -> Slice:
        """Return the slice that reads input channels from ``offset`` on."""
        return Slice(
            f"{name}.conv.weight", 1 - self.out_dim, "in", offset, spectral_norm=self.is_spectral
        )


def tie(
    network: nn.Module,
    name: str,
    producers: Sequence[str],
    consumers: Mapping[str, int],
) -> ChannelGroup:
    """Declare the group of the channels that some layers make together and others read.

    Args:
        network: Has the layers.
        name: The group's.
        producers: Names of the layers whose outputs are these channels (summed, where several).
        consumers: Name of each layer that reads them → its first input channel that is the group's.
            Importance is read from all of them.
    """
    layers = {n: network.get_submodule(n) for n in (*producers, *consumers)}
    convs = {n: layer for n, layer in layers.items() if isinstance(layer, ConvLayer)}
    made = [part for n in producers for part in convs[n].produced(n)]
    read = tuple(convs[n].consumed(n, offset) for n, offset in consumers.items())
    vectors = [
        consumed_vector(f"{n}.conv", convs[n].conv.weight)
        for n in consumers
        if convs[n].is_spectral
    ]
    width = convs[producers[0]].conv.out_channels
    return ChannelGroup(name, width, (*made, *read, *vectors), scored_by=read)


def resolve_widths(default: Mapping[str, int], widths: Mapping[str, int] | None) -> dict[str, int]:
    """Return every group's width, in network order.

    Args:
        default: The published widths; its keys are the groups.
        widths: The ones asked for, None for the default.
    Raises:
        UsageError: ``widths`` misses or invents a group, or holds a number below 1.
    """
    return dict(default) if widths is None else check_widths(list(default), widths)


def check_least(name: str, value: int, least: int) -> None:
    """Refuse an argument below its least value.

    Raises:
        UsageError: It is.
    """
    if value < least:
        raise UsageError(f"{name} {value} is below {least}")


def check_resolution(img_resolution: int, multiple: int) -> None:
    """Refuse a size that a translator cannot halve as often as it has to.

    Raises:
        UsageError: It is no positive multiple of ``multiple``.
    """
    if img_resolution < 1 or img_resolution % multiple:
        raise UsageError(f"img_resolution {img_resolution} is not a multiple of {multiple}")


def check_image(x: Tensor, channels: int, multiple: int, least: int) -> None:
    """Check an image batch against what a network can take.

    Args:
        x: Images, which must be [N, ``channels``, H, W].
        multiple: Number that must divide H and W.
        least: Their least value.
    Raises:
        ShapeError: It is of another shape.
    """
    if x.ndim != 4 or x.shape[1] != channels:
        raise ShapeError(f"x must be [N, {channels}, H, W], got {shape_of(x)}")
    if any(side % multiple or side < least for side in x.shape[2:]):
        raise ShapeError(
            f"images of {x.shape[2]}x{x.shape[3]} px do not fit: height and width must be multiples"
            f" of {multiple}, at least {least}"
        )


def judges_pairs(discriminator: Network, generator: Translator) -> bool:
    """Say whether a discriminator sees the input beside the image, as pix2pix's does.

    Raises:
        InputError: It takes another number of channels than either.
    """
    alone = generator.img_channels
    both = generator.in_channels + alone
    channels = getattr(discriminator, "in_channels", None)
    if channels not in (alone, both):
        raise InputError(
            f"the discriminator ({discriminator.architecture}) does not fit the generator: it"
            f" takes {channels} channels, {alone} (image) or {both} (input and image) are allowed"
        )
    return bool(channels == both)
