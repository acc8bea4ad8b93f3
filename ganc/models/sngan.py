"""SN-GAN: residual generator with batch norm, residual discriminator with spectral norm.

Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks". Block
plans, bilinear upsampling and sum pooling are those of the torch_mimicry library at 32, 48, 64 and
128 px. There is one latent, no label, no truncation and no noise.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganc.errors import ShapeError, UsageError, unknown_name
from ganc.groups import ChannelGroup, Slice
from ganc.models.config_types import Size
from ganc.models.fitting import FitLayer, plain_conv
from ganc.models.layers import shape_of
from ganc.models.network import NOISE_MODES, LatentGenerator, Network, check_widths
from ganc.models.spectral import SpectralConv2d, SpectralLinear, consumed_vector

BlockStep = Literal["down", "widen", "same"]
"""What a discriminator block does: halve the resolution, change the width alone, or neither."""


class BlockPlan(NamedTuple):
    """The published networks of one resolution.

    Attributes:
        bottom_width: Height and width of the map that the stem makes.
        generator: Channels of the stem, then of each block; each block doubles the resolution.
        discriminator: Channels of each block.
        steps: What each block of the discriminator does.
    """

    bottom_width: int
    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    steps: tuple[BlockStep, ...]


_DOWN4: tuple[BlockStep, ...] = ("down",) * 4
PLANS: dict[int, BlockPlan] = {
    32: BlockPlan(4, (256,) * 4, (128,) * 4, ("down", "down", "same", "same")),
    48: BlockPlan(6, (512, 256, 128, 64), (64, 128, 256, 512, 1024), (*_DOWN4, "widen")),
    64: BlockPlan(4, (1024, 512, 256, 128, 64), (64, 128, 256, 512, 1024), (*_DOWN4, "down")),
    128: BlockPlan(
        4, (1024, 1024, 512, 256, 128, 64), (64, 128, 256, 512, 1024, 1024),
        (*_DOWN4, "down", "same"),
    ),
}  # fmt: skip


class GeneratorBlock(nn.Module):
    """Residual block: [N, C_in, R, R] → [N, C_out, 2R, 2R]."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv(in_channels, hidden_channels, 3)
        self.norm2 = nn.BatchNorm2d(hidden_channels)
        self.conv2 = _conv(hidden_channels, out_channels, 3)
        self.skip = _conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(_upsample(F.relu(self.norm1(x))))
        y = self.conv2(F.relu(self.norm2(y)))
        return y + self.skip(_upsample(x))


class Generator(LatentGenerator):
    """SN-GAN generator: latents to images.

    Args:
        z_dim: Size of the latent.
        img_resolution: Height and width: ``bottom_width`` doubled once or more.
        img_channels: 1, 3 or 4.
        bottom_width: Side of the map that the stem makes; None takes the published one.
        widths: Channels per group; None takes the published ones.
    Raises:
        UsageError: A value is out of range, or ``widths`` misses or invents a group.
    """

    architecture = "sngan"
    c_dim = 0

    def __init__(
        self,
        z_dim: int,
        img_resolution: Size,
        img_channels: Size,
        *,
        bottom_width: Size | None = None,
        widths: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if bottom_width is None:
            bottom_width = plan_of(img_resolution).bottom_width
        names = generator_group_names(img_resolution, bottom_width)
        if widths is None:
            widths = _generator_widths(img_resolution)
        widths = check_widths(names, widths)
        self.z_dim, self.bottom_width = z_dim, bottom_width
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.config = {
            "z_dim": z_dim,
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            "bottom_width": bottom_width,
            "widths": widths,
        }
        channels = widths["stem"]
        self.stem = nn.Linear(z_dim, channels * bottom_width**2)
        nn.init.xavier_uniform_(self.stem.weight)
        for name in self.block_names():
            hidden, out = widths[f"{name}.conv1"], widths[f"{name}.conv2"]
            self.add_module(name, GeneratorBlock(channels, hidden, out))
            channels = out
        self.norm = nn.BatchNorm2d(channels)
        self.torgb = _conv(channels, img_channels, 3)
        nn.init.xavier_uniform_(self.torgb.weight)

    def first_weight(self) -> Tensor:
        return self.stem.weight

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        noise: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Generate images [N, img_channels, R, R], range [-1, 1].

        Args:
            z: [N, D_z], standard normal.
            c: None: there are no labels.
            truncation_psi: 1: there is no truncation, and so nothing for ``truncation_cutoff``.
            noise_mode: Any: there is no noise.
            noise: None or empty.
        Raises:
            ShapeError: z is of another size; a label or noise is given.
            UsageError: Truncation is asked for, or ``noise_mode`` is not known.
        """
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ShapeError(f"z must be [N, {self.z_dim}], got {shape_of(z)}")
        _refuse_what_is_not_there(c, truncation_psi, noise_mode, noise)
        x = self.stem(z).unflatten(1, (-1, self.bottom_width, self.bottom_width))
        for name in self.block_names():
            x = self.get_submodule(name)(x)
        return torch.tanh(self.torgb(F.relu(self.norm(x))))

    def block_names(self) -> list[str]:
        """Return block2, block3, …, in the order they run; the stem is the first."""
        suffix = ".conv1"
        return [n.removesuffix(suffix) for n in self.config["widths"] if n.endswith(suffix)]

    def fit_layers(self) -> list[FitLayer]:
        layers = []
        for name in self.block_names():
            block = self.get_submodule(name)
            assert isinstance(block, GeneratorBlock)
            conv1, conv2, skip = (
                plain_conv(f"{name}.{conv}", getattr(block, conv))
                for conv in ("conv1", "conv2", "skip")
            )
            layers.append(FitLayer(f"{name}.conv1", f"{name}.conv1", (conv1,), block.conv1.bias))
            # Both branches of the sum are linear in what they read: one system for the two.
            tied = f"{name}.conv2"
            layers.append(FitLayer(tied, tied, (conv2, skip), block.conv2.bias, total=(name, None)))
        torgb = plain_conv("torgb", self.torgb)
        return [*layers, FitLayer("torgb", None, (torgb,), self.torgb.bias)]

    def groups(self) -> tuple[ChannelGroup, ...]:
        widths, blocks = self.config["widths"], self.block_names()
        entries = [(f"{b}.norm1", f"{b}.conv1", f"{b}.skip") for b in blocks] + [("norm", "torgb")]
        # A channel of the stem is a whole map: bottom_width² neighbouring rows of its weight.
        stem = _written("stem", repeat=self.bottom_width**2)
        made = [_normed("stem", widths, stem, *entries[0])]
        for block, entry in zip(blocks, entries[1:], strict=True):
            conv1, conv2 = f"{block}.conv1", f"{block}.conv2"
            made.append(_normed(conv1, widths, _written(conv1), f"{block}.norm2", conv2))
            # The residual sum ties conv2 to the shortcut; both branches of the next block read it.
            tied = _written(conv2) + _written(f"{block}.skip")
            made.append(_normed(conv2, widths, tied, *entry))
        return tuple(made)

    def mac_positions(self) -> dict[str, int]:
        positions = {"stem.weight": 1}
        side = self.bottom_width
        for name in self.block_names():
            side *= 2  # the maps are enlarged before they are convolved
            positions |= {f"{name}.{conv}.weight": side**2 for conv in ("conv1", "conv2", "skip")}
        return positions | {"torgb.weight": side**2}


class FirstBlock(nn.Module):
    """Residual block on the image: [N, img_channels, R, R] → [N, C_out, R/2, R/2].

    The shortcut shrinks before it convolves, and nothing is rectified at the entrance.
    """

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _spectral(in_channels, hidden_channels, 3)
        self.conv2 = _spectral(hidden_channels, out_channels, 3)
        self.skip = _spectral(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        return F.avg_pool2d(y, 2) + self.skip(F.avg_pool2d(x, 2))


class DiscriminatorBlock(nn.Module):
    """Residual block: [N, C_in, R, R] → [N, C_out, R, R], or R/2 where ``step`` is "down".

    Both branches read the rectified input: the published ReLU works in place, and trained weights
    rely on it.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, out_channels: int, step: BlockStep
    ) -> None:
        super().__init__()
        self.is_down = step == "down"
        self.conv1 = _spectral(in_channels, hidden_channels, 3)
        self.conv2 = _spectral(hidden_channels, out_channels, 3)
        self.skip = None if step == "same" else _spectral(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        y = self.conv2(F.relu(self.conv1(x)))
        y = y + (x if self.skip is None else self.skip(x))
        return F.avg_pool2d(y, 2) if self.is_down else y


class Discriminator(Network):
    """SN-GAN discriminator: images to logits.

    Args:
        img_resolution: 32, 48, 64 or 128.
        img_channels: 1, 3 or 4.
        widths: Channels per group; None takes the published ones.
    Raises:
        UsageError: A value is out of range, or ``widths`` misses or invents a group.
    """

    architecture = "sngan"
    logit_layer = "out"

    def __init__(
        self, img_resolution: Size, img_channels: Size, *, widths: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        plan, published = plan_of(img_resolution), discriminator_widths(img_resolution)
        widths = check_widths(list(published), published if widths is None else widths)
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.steps = {f"block{i}": step for i, step in enumerate(plan.steps, start=1)}
        self.config = {
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            "widths": widths,
        }
        channels = img_channels
        for name, step in self.steps.items():
            hidden = widths[f"{name}.conv1"]
            out = widths.get(f"{name}.conv2", channels)  # "same": the trunk's width
            block = (
                FirstBlock(channels, hidden, out)
                if name == "block1"
                else DiscriminatorBlock(channels, hidden, out, step)
            )
            self.add_module(name, block)
            channels = out
        self.out = SpectralLinear(channels, 1)

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        """Judge images.

        Args:
            img: [N, img_channels, R, R], nominal range [-1, 1].
            c: None: there are no labels.
        Returns:
            Logits, [N, 1]; higher is more real.
        Raises:
            ShapeError: The image is of another size, or a label is given.
        """
        shape = (self.img_channels, self.img_resolution, self.img_resolution)
        if img.ndim != 4 or img.shape[1:] != shape:
            raise ShapeError(f"img must be [N, {', '.join(map(str, shape))}], got {shape_of(img)}")
        _refuse_labels(c)
        x = img
        for name in self.steps:
            x = self.get_submodule(name)(x)
        return self.out(F.relu(x).sum(dim=(2, 3)))

    def groups(self) -> tuple[ChannelGroup, ...]:
        written, read = self._connections()
        return tuple(
            self._group(name, width, written[name], read[name])
            for name, width in self.config["widths"].items()
        )

    def _connections(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return group → layers that write its channels, and group → layers that read them."""
        written: dict[str, list[str]] = {}
        read: dict[str, list[str]] = {}
        trunk = "image"
        for name, step in self.steps.items():
            conv1, conv2, skip = f"{name}.conv1", f"{name}.conv2", f"{name}.skip"
            written[conv1], read[conv1] = [conv1], [conv2]
            read.setdefault(trunk, []).append(conv1)
            if step == "same":  # the residual sum ties conv2 to the trunk that goes past it
                written[trunk].append(conv2)
            else:
                read[trunk].append(skip)
                trunk = conv2
                written[trunk] = [conv2, skip]
        read.setdefault(trunk, []).append("out")
        return written, read

    def _group(
        self, name: str, width: int, written: Sequence[str], read: Sequence[str]
    ) -> ChannelGroup:
        slices = []
        for layer in written:
            slices.append(Slice(f"{layer}.weight", 0, "out", spectral_norm=True))
            slices += [Slice(f"{layer}.bias", 0, "out"), Slice(f"{layer}.weight_u", 0, "out")]
        for layer in read:
            slices.append(Slice(f"{layer}.weight", 1, "in", spectral_norm=True))
            slices.append(consumed_vector(layer, self.get_parameter(f"{layer}.weight")))
        return ChannelGroup(name, width, tuple(slices), _main_path(slices))

    def mac_positions(self) -> dict[str, int]:
        positions = {"out.weight": 1}
        side = self.img_resolution
        for name, step in self.steps.items():
            halved = side // 2 if step == "down" else side
            positions |= {f"{name}.conv1.weight": side**2, f"{name}.conv2.weight": side**2}
            if step != "same":
                # Only the first block's shortcut shrinks before it convolves.
                positions[f"{name}.skip.weight"] = (halved if name == "block1" else side) ** 2
            side = halved
        return positions


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """Make a convolution that keeps the resolution."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.xavier_uniform_(conv.weight, _xavier_gain(kernel_size))
    return conv


def _spectral(in_channels: int, out_channels: int, kernel_size: int) -> SpectralConv2d:
    gain = _xavier_gain(kernel_size)
    return SpectralConv2d(in_channels, out_channels, kernel_size, gain=gain)


def _xavier_gain(kernel_size: int) -> float:
    """Return the published gain of the initialisation: for a ReLU at the 3x3 convolutions."""
    return math.sqrt(2) if kernel_size == 3 else 1.0


def _refuse_labels(c: Tensor | None) -> None:
    if c is not None and c.numel():
        raise ShapeError(f"sngan has no labels: c must be None, got {shape_of(c)}")


def _refuse_what_is_not_there(
    c: Tensor | None, truncation_psi: float, noise_mode: str, noise: Sequence[Tensor] | None
) -> None:
    _refuse_labels(c)
    if truncation_psi != 1:
        raise UsageError(f"sngan has no truncation: psi must be 1, got {truncation_psi:g}")
    if noise_mode not in NOISE_MODES:
        raise unknown_name("noise_mode", noise_mode, NOISE_MODES)
    if noise:
        raise ShapeError(f"sngan has no noise: it must hold 0 maps, got {len(noise)}")


def _written(layer: str, repeat: int = 1) -> tuple[Slice, ...]:
    return tuple(Slice(f"{layer}.{part}", 0, "out", repeat=repeat) for part in ("weight", "bias"))


def _normed(
    name: str, widths: Mapping[str, int], written: Sequence[Slice], norm: str, *read: str
) -> ChannelGroup:
    """Declare channels that are written, batch-normalised, and read by the layers ``read``."""
    slices = [*written]
    for part in ("weight", "bias", "running_mean", "running_var"):
        slices.append(Slice(f"{norm}.{part}", 0, "out"))
    slices += [Slice(f"{layer}.weight", 1, "in") for layer in read]
    return ChannelGroup(name, widths[name], tuple(slices), _main_path(slices))


def _main_path(slices: Sequence[Slice]) -> tuple[Slice, ...]:
    """Return the consumers that importance is read from: all but the shortcuts."""
    return tuple(s for s in slices if s.role == "in" and not s.tensor.endswith("skip.weight"))


def plan_of(img_resolution: int) -> BlockPlan:
    """Return the published networks of a resolution.

    Raises:
        UsageError: There are none.
    """
    if img_resolution not in PLANS:
        raise UsageError(f"img_resolution {img_resolution} is none of {', '.join(map(str, PLANS))}")
    return PLANS[img_resolution]


def generator_group_names(img_resolution: int, bottom_width: int) -> list[str]:
    """Return stem, block2.conv1, block2.conv2, block3.conv1, …

    Raises:
        UsageError: ``img_resolution`` is not ``bottom_width`` doubled once or more.
    """
    num_blocks = (max(img_resolution, 1) // max(bottom_width, 1)).bit_length() - 1
    if num_blocks < 1 or bottom_width << num_blocks != img_resolution:
        raise UsageError(
            f"img_resolution {img_resolution} is not bottom_width {bottom_width} times 2, 4, 8, …"
        )
    blocks = range(2, num_blocks + 2)
    return ["stem", *(f"block{i}.{conv}" for i in blocks for conv in ("conv1", "conv2"))]


def _generator_widths(img_resolution: int) -> dict[str, int]:
    """Return group → published channels; both convolutions of a block have the same number."""
    plan = plan_of(img_resolution)
    stem, *blocks = plan.generator
    names = generator_group_names(img_resolution, plan.bottom_width)
    return dict(zip(names, [stem, *(n for n in blocks for _ in range(2))], strict=True))


def discriminator_widths(img_resolution: int) -> dict[str, int]:
    """Return group → published channels; a block that keeps the width has no group for conv2.

    Raises:
        UsageError: The resolution is not a published one.
    """
    plan = plan_of(img_resolution)
    widths: dict[str, int] = {}
    before = plan.discriminator[0]
    for i, (out, step) in enumerate(zip(plan.discriminator, plan.steps, strict=True), start=1):
        widths[f"block{i}.conv1"] = before
        if step != "same":
            widths[f"block{i}.conv2"] = out
        before = out
    return widths
