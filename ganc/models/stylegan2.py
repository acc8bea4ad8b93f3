"""StyleGAN2 generator: with output skips, residual, or plain.

Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", Section 4.1
compares the three; tensor names are those of NVIDIA's PyTorch release. Weights are stored without
their equalised-learning-rate gain, which is applied at run time.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganc.errors import ShapeError, UsageError, unknown_name
from ganc.groups import ChannelGroup, Slice
from ganc.models.config_types import Positive, Size, Taps
from ganc.models.fitting import FitConv, FitLayer, enlarged
from ganc.models.layers import (
    RESAMPLE_FILTER,
    Conv2dLayer,
    FullyConnectedLayer,
    MappingArguments,
    MappingNetwork,
    mapping_settings,
    shape_of,
)
from ganc.models.network import NOISE_MODES, check_widths
from ganc.models.style import ModulatedLayer, StyleGenerator
from ganc.ops.bias_act import bias_act
from ganc.ops.modulated_conv2d import demodulation_coefficients, modulated_conv2d
from ganc.ops.modulated_layer import Layer, add_upsampled, modulated_layer
from ganc.ops.upfirdn2d import setup_filter

BLOCK_ARCHITECTURES = ("orig", "skip", "resnet")
"""How blocks are joined: in a chain; images added up beside it; a residual connection each."""


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU: [N, C_in, H, W] → [N, C_out, H·up, W·up].

    Args:
        in_channels, out_channels, w_dim: Sizes.
        resolution: Height and width of the result.
        up: 2 in the first layer of a block.
        resample_filter: FIR taps of the upsampling.
        conv_clamp: Limit of the absolute activation, None for none.
    """

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: int,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.conv_clamp = resolution, up, conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.register_buffer("resample_filter", setup_filter(resample_filter), persistent=False)
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, noise_mode: str) -> Tensor:
        noise = self._noise(x, noise, noise_mode)
        if noise is not None:
            noise = noise * self.noise_strength
        layer = Layer(self.weight, self.bias, self.up, self.resample_filter, self.conv_clamp)
        return modulated_layer(x, self.affine(w), noise, layer)

    def effective_weight(self, w: Tensor) -> Tensor:
        """Return the weight as it acts for each w [N, D_w]: [N, C_out, C_in, 3, 3]."""
        styles = self.affine(w)
        dcoefs = demodulation_coefficients(self.weight, styles)
        return self.weight * styles[:, None, :, None, None] * dcoefs[:, :, None, None, None]

    def fit_layer(self, name: str) -> FitLayer:
        """Return how the layer is fitted; ``name`` is its group."""

        def prepare(x: Tensor) -> Tensor:
            taps = self.weight.shape[-1]
            if self.up == 2:
                return enlarged(x, self.resample_filter, taps)
            return F.pad(x, (taps // 2,) * 4)

        conv = FitConv(
            f"synthesis.{name}", self.weight, prepare, is_flipped=self.up == 2, affine=self.affine
        )
        return FitLayer(
            name, name, (conv,), self.bias, demodulates=True, noise_strength=self.noise_strength
        )

    def _noise(self, x: Tensor, noise: Tensor | None, noise_mode: str) -> Tensor | None:
        if noise is not None:
            if noise.shape[1:] != (1, self.resolution, self.resolution):
                raise ShapeError(
                    f"noise must be [N, 1, {self.resolution}, {self.resolution}],"
                    f" got {list(noise.shape)}"
                )
            return noise
        if noise_mode == "random":
            return torch.randn(x.shape[0], 1, self.resolution, self.resolution, device=x.device)
        return self.noise_const if noise_mode == "const" else None


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution to the image, without demodulation: [N, C, R, R] → [N, 3, R, R]."""

    def __init__(
        self, in_channels: int, img_channels: int, w_dim: int, *, conv_clamp: float | None
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def effective_weight(self, w: Tensor) -> Tensor:
        """Return the weight as it acts for each w [N, D_w]: [N, img_channels, C_in, 1, 1]."""
        styles = self.affine(w) * self.weight_gain
        return self.weight * styles[:, None, :, None, None]

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(x, self.weight, styles, demodulate=False)
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)


class SynthesisBlock(nn.Module):
    """The layers of one resolution: [N, C_in, R/2, R/2] → [N, C_out, R, R], and the image so far.

    Args:
        widths: Channels of "const", "conv0", "conv1" at this block, as far as it has them.
        in_channels: Channels of the block before; 0 in the first.
        resolution: Height and width of the result.
        architecture: One of ``BLOCK_ARCHITECTURES``.
        is_last: Whether the image leaves the network here.
    Attributes:
        torgb: Of every block in a "skip" network, of the last in the others, else None.
        skip: Of every block but the first in a "resnet" network, else None.
    """

    resample_filter: Tensor
    torgb: ToRGBLayer | None
    skip: Conv2dLayer | None

    def __init__(
        self,
        in_channels: int,
        widths: Mapping[str, int],
        w_dim: int,
        resolution: int,
        img_channels: int,
        *,
        architecture: str,
        is_last: bool,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        layer: dict[str, Any] = {"resample_filter": resample_filter, "conv_clamp": conv_clamp}
        self.is_first = in_channels == 0
        self.num_convs = 1 if self.is_first else 2
        hidden, out_channels = widths["const" if self.is_first else "conv0"], widths["conv1"]
        if self.is_first:
            self.const = nn.Parameter(torch.randn(hidden, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, hidden, w_dim, resolution, up=2, **layer)
        self.conv1 = SynthesisLayer(hidden, out_channels, w_dim, resolution, up=1, **layer)
        self.torgb = self.skip = None
        if is_last or architecture == "skip":
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)
        if architecture == "resnet" and not self.is_first:
            self.skip = Conv2dLayer(
                in_channels, out_channels, 1, act="linear", bias=False, up=2,
                resample_filter=resample_filter,
            )  # fmt: skip
        self.register_buffer("resample_filter", setup_filter(resample_filter), persistent=False)

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Sequence[Tensor],
        noise: Sequence[Tensor | None],
        noise_mode: str,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the block.

        Args:
            x: Features of the block before, None in the first.
            img: Image so far [N, img_channels, R/2, R/2], None as long as no block made one.
            ws: One w [N, D_w] per convolution, then torgb's.
            noise: One map [N, 1, R, R] or None per convolution.
        """
        if x is None:
            hidden = self.const[None].expand(ws[0].shape[0], -1, -1, -1)
        else:
            hidden = self.conv0(x, ws[0], noise[0], noise_mode)
        y = self.conv1(hidden, ws[self.num_convs - 1], noise[-1], noise_mode)
        if self.skip is not None:
            y = (y + self.skip(x)) / math.sqrt(2)
        return y, self._image(y, img, ws[-1])

    def _image(self, x: Tensor, img: Tensor | None, w: Tensor) -> Tensor | None:
        if self.torgb is None:
            return img
        rgb = self.torgb(x, w)
        rgb = rgb.to(torch.promote_types(rgb.dtype, torch.float32))  # the image is never half
        return rgb if img is None else add_upsampled(rgb, img, self.resample_filter)


class SynthesisNetwork(nn.Module):
    """Turn ws into an image: [N, num_ws, D_w] → [N, img_channels, R, R], nominal range [-1, 1]."""

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        widths: Mapping[str, int],
        *,
        architecture: str,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.w_dim, self.img_resolution = w_dim, img_resolution
        self.resolutions = block_resolutions(img_resolution)
        self.num_ws = 2 * len(self.resolutions)
        in_channels = 0
        for resolution in self.resolutions:
            prefix = f"b{resolution}."
            own = {k.removeprefix(prefix): n for k, n in widths.items() if k.startswith(prefix)}
            block = SynthesisBlock(
                in_channels, own, w_dim, resolution, img_channels,
                architecture=architecture, is_last=resolution == img_resolution,
                resample_filter=resample_filter, conv_clamp=conv_clamp,
            )  # fmt: skip
            self.add_module(f"b{resolution}", block)
            in_channels = own["conv1"]

    def blocks(self) -> list[tuple[str, SynthesisBlock]]:
        """Return (name, block) from 4 px up."""
        blocks = ((f"b{r}", self.get_submodule(f"b{r}")) for r in self.resolutions)
        return [(name, block) for name, block in blocks if isinstance(block, SynthesisBlock)]

    def modulated_layers(self) -> list[tuple[str, SynthesisLayer | ToRGBLayer, int]]:
        """Return (name, layer, index of its w in ws), in the order they run."""
        layers: list[tuple[str, SynthesisLayer | ToRGBLayer, int]] = []
        at = 0
        for name, block in self.blocks():
            convs = [conv for conv in ("conv0", "conv1") if hasattr(block, conv)]
            layers += [(f"{name}.{c}", getattr(block, c), at + i) for i, c in enumerate(convs)]
            at += len(convs)
            if block.torgb is not None:
                layers.append((f"{name}.torgb", block.torgb, at))
        return layers

    def noise_shapes(self) -> list[tuple[int, ...]]:
        """Return one sample's noise map per layer: (1, R, R)."""
        return [
            (1, resolution, resolution)
            for resolution in self.resolutions
            for _ in range(1 if resolution == 4 else 2)
        ]

    def forward(
        self, ws: Tensor, *, noise_mode: str = "const", noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Run all blocks.

        Args:
            ws: [N, num_ws, D_w]; a torgb shares the w of the next block's first layer.
            noise_mode: "const" (stored), "random" (the global generator) or "none".
            noise: Explicit maps [N, 1, R, R] in layer order; overrides ``noise_mode``.
        Raises:
            ShapeError: ws or noise is of another size.
            UsageError: noise_mode is not known.
        """
        return self.run(ws, noise_mode=noise_mode, noise=noise)[0]

    def run(
        self, ws: Tensor, *, noise_mode: str = "const", noise: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run all blocks; return the image and each block's features [N, C, R, R]."""
        maps = self._check(ws, noise_mode, noise)
        w = ws.unbind(dim=1)
        x: Tensor | None = None
        img: Tensor | None = None
        features: list[Tensor] = []
        at = 0
        for _, block in self.blocks():
            n = block.num_convs
            x, img = block(x, img, w[at : at + n + 1], maps[at : at + n], noise_mode)
            features.append(x)
            at += n
        assert img is not None
        return img, features

    def _check(
        self, ws: Tensor, noise_mode: str, noise: Sequence[Tensor] | None
    ) -> Sequence[Tensor | None]:
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ShapeError(f"ws must be [N, {self.num_ws}, {self.w_dim}], got {shape_of(ws)}")
        if noise_mode not in NOISE_MODES:
            raise unknown_name("noise_mode", noise_mode, NOISE_MODES)
        count = self.num_ws - 1
        if noise is not None and len(noise) != count:
            raise ShapeError(f"noise must hold {count} maps, got {len(noise)}")
        return [None] * count if noise is None else noise


class Generator(StyleGenerator):
    """StyleGAN2 generator: latents and labels to images.

    Args:
        z_dim, c_dim, w_dim: Sizes of latent, label (0 for none) and w.
        img_resolution: Height and width, a power of two from 16 to 1024 (8 and 4 work as well).
        img_channels: 1, 3 or 4.
        mapping_kwargs: ``num_layers``, ``lr_multiplier``, ``embed_features`` and
            ``layer_features`` of the mapping network.
        architecture: One of ``BLOCK_ARCHITECTURES``.
        widths: Channels per group; None takes ``min(channel_base / resolution, channel_max)``.
        channel_base, channel_max: Rule for widths that are not given.
        resample_filter: FIR taps.
        conv_clamp: Limit of the absolute activation, None for none.
    Raises:
        UsageError: A value is out of range, or ``widths`` misses or invents a group.
    """

    architecture = "stylegan2"

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: Size,
        img_resolution: Size,
        img_channels: Size,
        *,
        mapping_kwargs: MappingArguments | None = None,
        architecture: str = "skip",
        widths: Mapping[str, int] | None = None,
        channel_base: Size = 32768,
        channel_max: Size = 512,
        resample_filter: Taps = RESAMPLE_FILTER,
        conv_clamp: Positive | None = None,
    ) -> None:
        super().__init__()
        names = generator_group_names(img_resolution)
        widths = resolve_widths(names, widths, channel_base, channel_max)
        mapping_kwargs = mapping_settings(mapping_kwargs)
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.config = {
            "z_dim": z_dim,
            "c_dim": c_dim,
            "w_dim": w_dim,
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            "mapping_kwargs": mapping_kwargs,
            "widths": widths,
            "resample_filter": list(resample_filter),
            "conv_clamp": conv_clamp,
            **architecture_setting(architecture, "skip"),
        }
        self.synthesis = SynthesisNetwork(
            w_dim, img_resolution, img_channels, widths,
            architecture=architecture, resample_filter=resample_filter, conv_clamp=conv_clamp,
        )  # fmt: skip
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **mapping_kwargs)

    def noise_shapes(self) -> list[tuple[int, ...]]:
        return self.synthesis.noise_shapes()

    def feature_affines(self) -> list[list[FullyConnectedLayer]]:
        return [
            [block.conv1.affine] if block.is_first else [block.conv0.affine, block.conv1.affine]
            for _, block in self.synthesis.blocks()
        ]

    def modulated_layers(self) -> list[tuple[str, ModulatedLayer, int]]:
        return [
            (f"synthesis.{name}", layer, index)
            for name, layer, index in self.synthesis.modulated_layers()
        ]

    def fit_layers(self) -> list[FitLayer]:
        layers = []
        for name, block in self.synthesis.blocks():
            for conv in ("conv0", "conv1")[block.is_first :]:
                layers.append(getattr(block, conv).fit_layer(f"{name}.{conv}"))
            if block.skip is not None:
                layers.append(_fit_skip(name, block.skip))
            if block.torgb is not None:
                layers.append(_fit_torgb(name, block.torgb))
        return layers

    def groups(self) -> tuple[ChannelGroup, ...]:
        made = []
        for name, width in self.config["widths"].items():
            consumers = self._consumers(name)
            slices = [*self._produced(name), *(part for layer in consumers for part in layer)]
            # Importance is read where the main path goes on: the next convolution, at last torgb.
            made.append(ChannelGroup(name, width, tuple(slices), (consumers[0][0],)))
        return tuple(made)

    def _produced(self, group: str) -> list[Slice]:
        """Return what makes a group's channels: its layer, and the skip that is added to it."""
        name, resolution = f"synthesis.{group}", _resolution(group)
        if group.endswith("const"):
            return [Slice(name, 0, "out")]
        made = [Slice(f"{name}.weight", 0, "out"), Slice(f"{name}.bias", 0, "out")]
        if group.endswith("conv1") and self._block(resolution).skip is not None:
            made.append(Slice(f"synthesis.b{resolution}.skip.weight", 0, "out"))
        return made

    def _consumers(self, group: str) -> list[tuple[Slice, ...]]:
        """Return the inputs of the layers that read a group, the main path's first."""
        resolution = _resolution(group)
        here, following = f"synthesis.b{resolution}", f"synthesis.b{2 * resolution}"
        if not group.endswith("conv1"):
            return [_modulated_input(f"{here}.conv1")]
        consumers = []
        if resolution < self.img_resolution:
            consumers.append(_modulated_input(f"{following}.conv0"))
            if self._block(2 * resolution).skip is not None:
                consumers.append((Slice(f"{following}.skip.weight", 1, "in", fan_in_gain=True),))
        if self._block(resolution).torgb is not None:
            consumers.append(_modulated_input(f"{here}.torgb"))
        return consumers

    def _block(self, resolution: int) -> SynthesisBlock:
        return dict(self.synthesis.blocks())[f"b{resolution}"]

    def mac_positions(self) -> dict[str, int]:
        positions = {
            f"{name}.weight": 1
            for name, layer in self.named_modules()
            if isinstance(layer, FullyConnectedLayer)
        }
        for name, layer in self.synthesis.named_modules():
            if isinstance(layer, SynthesisLayer):
                side = layer.resolution // layer.up  # a transposed convolution: its input
                positions[f"synthesis.{name}.weight"] = side * side
        for name, block in self.synthesis.blocks():
            side = block.conv1.resolution
            if block.torgb is not None:
                positions[f"synthesis.{name}.torgb.weight"] = side**2
            if block.skip is not None:  # convolves before it enlarges
                positions[f"synthesis.{name}.skip.weight"] = (side // 2) ** 2
        return positions


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _fit_torgb(block: str, torgb: ToRGBLayer) -> FitLayer:
    """Fit a layer to what the image so far still lacks, so that errors do not add up."""
    name = f"synthesis.{block}.torgb"
    conv = FitConv(name, torgb.weight, _as_it_is, gain=torgb.weight_gain, affine=torgb.affine)
    return FitLayer(f"{block}.torgb", None, (conv,), torgb.bias, total=(f"synthesis.{block}", 1))


def _fit_skip(block: str, skip: Conv2dLayer) -> FitLayer:
    """Fit a shortcut to what the sum with the main path still lacks."""

    def prepare(x: Tensor) -> Tensor:
        return enlarged(x, skip.resample_filter, 1)

    conv = FitConv(f"synthesis.{block}.skip", skip.weight, prepare, gain=skip.weight_gain)
    total = (f"synthesis.{block}", 0)
    return FitLayer(f"{block}.skip", f"{block}.conv1", (conv,), total=total, scale=math.sqrt(2))


def _modulated_input(layer: str) -> tuple[Slice, ...]:
    return (
        # torgb divides its styles by sqrt(fan-in); the others demodulate, which cancels any gain.
        Slice(f"{layer}.weight", 1, "in", fan_in_gain=layer.endswith("torgb")),
        Slice(f"{layer}.affine.weight", 0, "style"),
        Slice(f"{layer}.affine.bias", 0, "style"),
    )


def architecture_setting(architecture: str, default: str) -> dict[str, str]:
    """Return a network's ``architecture`` as its config holds it: not at all where it is usual.

    So a usual network has the config, and with it the content hash, that it always had.

    Raises:
        UsageError: ``architecture`` is not one of ``BLOCK_ARCHITECTURES``.
    """
    if architecture not in BLOCK_ARCHITECTURES:
        raise unknown_name("architecture", architecture, BLOCK_ARCHITECTURES)
    return {} if architecture == default else {"architecture": architecture}


def block_resolutions(img_resolution: int) -> list[int]:
    """Return 4, 8, … up to ``img_resolution``.

    Raises:
        UsageError: It is not a power of two from 4 to 1024.
    """
    if img_resolution not in (4, 8, 16, 32, 64, 128, 256, 512, 1024):
        raise UsageError(f"img_resolution {img_resolution} is not a power of two from 4 to 1024")
    return [2**i for i in range(2, img_resolution.bit_length())]


def generator_group_names(img_resolution: int) -> list[str]:
    """Return b4.const, b4.conv1, b8.conv0, b8.conv1, …"""
    first, *rest = block_resolutions(img_resolution)
    names = [f"b{first}.const", f"b{first}.conv1"]
    return names + [f"b{r}.{conv}" for r in rest for conv in ("conv0", "conv1")]


def resolve_widths(
    names: Sequence[str],
    widths: Mapping[str, int] | None,
    channel_base: int,
    channel_max: int,
    resolution_of: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return every group's width, from ``widths`` or from the usual rule.

    Raises:
        UsageError: ``widths`` misses or invents a group, or holds a number below 1.
    """
    if widths is None:
        of = resolution_of or {name: _resolution(name) for name in names}
        return {name: min(channel_base // of[name], channel_max) for name in names}
    return check_widths(names, widths)


def _resolution(name: str) -> int:
    return int(name.split(".")[0].removeprefix("b"))
