"""StyleGAN3 generator, configurations T and R.

Source: Karras et al. 2021, "Alias-Free Generative Adversarial Networks"; tensor names are those of
NVIDIA's PyTorch release, without the sizes that it writes into layer names. Weights are stored
without their equalised-learning-rate gain. The discriminator is StyleGAN2's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganc import collectives
from ganc.devices import without_autocast
from ganc.errors import ShapeError, UsageError, unknown_name
from ganc.groups import ChannelGroup, Slice
from ganc.models.config_types import Positive, Size
from ganc.models.fitting import FitConv, FitLayer
from ganc.models.layers import (
    FullyConnectedLayer,
    MappingArguments,
    MappingNetwork,
    mapping_settings,
    shape_of,
)
from ganc.models.network import NOISE_MODES, check_widths
from ganc.models.style import ModulatedLayer, StyleGenerator
from ganc.ops.bias_act import bias_act
from ganc.ops.filtered_lrelu import filtered_lrelu
from ganc.ops.lowpass import lowpass_filter, radial_lowpass_filter
from ganc.ops.modulated_conv2d import demodulation_coefficients, modulated_conv2d

W_AVG_BETA = 0.998
"""Decay of ``w_avg`` per training step."""


@dataclass(frozen=True)
class Grid:
    """The sampling grid on which a layer's output lives.

    Attributes:
        size: Height and width in pixels, the margin included.
        sampling_rate: Pixels per unit; the image without margin is one unit wide.
        cutoff: Highest frequency that the layer lets through, in cycles per unit.
        half_width: Half the transition band of its filter, in the same unit.
        channels: The published width.
    """

    size: int
    sampling_rate: int
    cutoff: float
    half_width: float
    channels: int


def layer_grids(
    img_resolution: int,
    *,
    num_layers: int,
    num_critical: int,
    first_cutoff: float,
    first_stopband: float,
    last_stopband_rel: float,
    margin_size: int,
    channel_base: int,
    channel_max: int,
) -> list[Grid]:
    """Return the grids of L0 … L{num_layers}; the Fourier features share L0's.

    Cutoff and stopband grow geometrically up to the critically sampled layers at the end.
    Source: Karras et al. 2021, Section 3.2 (flexible layer specifications).
    """
    last_cutoff = img_resolution / 2
    last_stopband = last_cutoff * last_stopband_rel
    grids = []
    for index in range(num_layers + 1):
        progress = min(index / (num_layers - num_critical), 1)
        cutoff = first_cutoff * (last_cutoff / first_cutoff) ** progress
        stopband = first_stopband * (last_stopband / first_stopband) ** progress
        rate = 2 ** math.ceil(math.log2(min(stopband * 2, img_resolution)))
        is_image_sized = index >= num_layers - 1
        grids.append(
            Grid(
                size=img_resolution if is_image_sized else rate + 2 * margin_size,
                sampling_rate=rate,
                cutoff=cutoff,
                half_width=max(stopband, rate / 2) - cutoff,
                channels=round(min(channel_base / 2 / cutoff, channel_max)),
            )
        )
    return grids


class SynthesisInput(nn.Module):
    """Fourier features, moved and turned by w: [N, D_w] → [N, C, S, S].

    In float32 under autocast too: in bfloat16 a phase could be off by a hundredth of a turn.

    Args:
        w_dim: Size of w.
        channels: C.
        frequencies: Number of Fourier features that are mixed into C channels.
        grid: Where they are sampled; its cutoff bounds their frequency.
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, w_dim: int, channels: int, frequencies: int, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.affine = FullyConnectedLayer(w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias[0] = 1  # cosine of the rotation: start upright, in the centre
        self.weight = nn.Parameter(torch.randn(channels, frequencies))
        # Frequencies uniform in a disc of the bandwidth's radius.
        freqs = torch.randn(frequencies, 2)
        radii = freqs.norm(dim=1, keepdim=True)
        freqs = freqs / (radii * radii.square().exp().pow(0.25)) * grid.cutoff
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand(frequencies) - 0.5)
        self.register_buffer("transform", torch.eye(3))

    def forward(self, w: Tensor) -> Tensor:
        with without_autocast(w.device):
            return self._features(w)

    def _features(self, w: Tensor) -> Tensor:
        turn, shift = self._transform(w)
        phases = self.phases + (self.freqs @ shift).squeeze(2)  # [N, F]
        freqs = self.freqs @ turn  # [N, F, 2]
        # A user's transform may push frequencies above what the grid holds: fade them out.
        rate, cutoff = self.grid.sampling_rate, self.grid.cutoff
        fade = (1 - (freqs.norm(dim=2) - cutoff) / (rate / 2 - cutoff)).clamp(0, 1)  # [N, F]
        size = self.grid.size
        steps = (torch.arange(size, device=w.device, dtype=freqs.dtype) + 0.5 - size / 2) / rate
        along_x = steps[None, None, :, None] * freqs[:, None, None, :, 0]  # [N, 1, S, F]
        along_y = steps[None, :, None, None] * freqs[:, None, None, :, 1]  # [N, S, 1, F]
        waves = torch.sin(2 * math.pi * (along_x + along_y + phases[:, None, None, :]))
        weight = self.weight / math.sqrt(self.weight.shape[1])
        x = (waves * fade[:, None, None, :]) @ weight.to(waves.dtype).t()  # [N, S, S, C]
        return x.permute(0, 3, 1, 2).contiguous()

    def _transform(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rotation [N, 2, 2] and the translation [N, 2, 1] of each sample's grid."""
        t = self.affine(w)  # [N, 4]: cosine, sine, x, y
        cos, sin, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(dim=1)
        turn = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)
        shift = -torch.stack([x, y], dim=1)[:, :, None]
        # Turned by w after being shifted by w, after the user's own transform.
        user_turn, user_shift = self.transform[:2, :2], self.transform[:2, 2:]
        return turn @ user_turn, turn @ (user_shift + shift)


class SynthesisLayer(nn.Module):
    """Modulated convolution and filtered leaky ReLU: [N, C_in, S_in, S_in] → [N, C_out, S, S].

    Args:
        in_channels, out_channels, w_dim: Sizes.
        before, after: Grids of input and output.
        kernel_size: 3 (T) or 1 (R).
        filter_size: Taps of the low-pass filters per pixel of the coarser grid.
        lrelu_upsampling: Finer grid of the nonlinearity, relative to the finer of the two.
        is_radial: Whether the downsampling filter is rotationally symmetric (R).
        conv_clamp: Limit of the absolute activation; None for none.
    """

    magnitude_ema: Tensor
    up_filter: Tensor
    down_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        before: Grid,
        after: Grid,
        *,
        kernel_size: int,
        filter_size: int,
        lrelu_upsampling: int,
        is_radial: bool,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.in_size, self.kernel_size, self.conv_clamp = before.size, kernel_size, conv_clamp
        fine_rate = max(before.sampling_rate, after.sampling_rate) * lrelu_upsampling
        self.up, self.down = fine_rate // before.sampling_rate, fine_rate // after.sampling_rate
        up_taps, down_taps = _taps(filter_size, self.up), _taps(filter_size, self.down)
        design = radial_lowpass_filter if is_radial and down_taps > 1 else lowpass_filter
        up_filter = lowpass_filter(up_taps, before.cutoff, 2 * before.half_width, fine_rate)
        down_filter = design(down_taps, after.cutoff, 2 * after.half_width, fine_rate)
        self.register_buffer("up_filter", up_filter, persistent=False)
        self.register_buffer("down_filter", down_filter, persistent=False)
        # What the filters eat at the border, less what the convolution's full padding brought.
        total = (after.size - 1) * self.down + 1 + up_taps + down_taps - 2
        total -= (before.size + kernel_size - 1) * self.up
        first = (total + self.up) // 2
        self.padding = (first, total - first)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("magnitude_ema", torch.ones([]))

    @property
    def conv_size(self) -> int:
        """Height and width of the convolution's result."""
        return self.in_size + self.kernel_size - 1

    def _modulation(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight and styles at unit magnitude, which keeps half precision in range.

        Demodulation cancels both factors. NVIDIA takes the styles' magnitude over the whole batch;
        per sample, the images do not depend on their batch.
        """
        styles = self.affine(w)
        weight = self.weight * self.weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
        return weight, styles * styles.square().mean(dim=1, keepdim=True).rsqrt()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight, styles = self._modulation(w)
        x = x * self.magnitude_ema.rsqrt().to(x.dtype)
        x = modulated_conv2d(x, weight, styles, padding=self.kernel_size - 1)
        return filtered_lrelu(
            x, self.bias.to(x.dtype), self.up_filter, self.down_filter,
            up=self.up, down=self.down, padding=self.padding, clamp=self.conv_clamp,
        )  # fmt: skip

    def fit_layer(self, name: str) -> FitLayer:
        """Return how the layer is fitted; ``name`` is its group."""

        def prepare(x: Tensor) -> Tensor:
            return F.pad(x * self.magnitude_ema.rsqrt(), (self.kernel_size - 1,) * 4)

        conv = FitConv(f"synthesis.{name}", self.weight, prepare, affine=self.affine)
        return FitLayer(name, name, (conv,), self.bias, demodulates=True)

    def effective_weight(self, w: Tensor) -> Tensor:
        """Return the weight as it acts for each w [N, D_w]: [N, C_out, C_in, K, K]."""
        weight, styles = self._modulation(w)
        dcoefs = demodulation_coefficients(weight, styles) * self.magnitude_ema.rsqrt()
        return weight * styles[:, None, :, None, None] * dcoefs[:, :, None, None, None]


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution to the image, without demodulation: [N, C, R, R] → [N, 3, R, R]."""

    magnitude_ema: Tensor
    kernel_size = 1

    def __init__(
        self, in_channels: int, img_channels: int, w_dim: int, size: int, conv_clamp: float | None
    ) -> None:
        super().__init__()
        self.conv_size, self.conv_clamp = size, conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.register_buffer("magnitude_ema", torch.ones([]))

    def _styles(self, w: Tensor) -> Tensor:
        styles: Tensor = self.affine(w) * (self.weight_gain * self.magnitude_ema.rsqrt())
        return styles

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = modulated_conv2d(x, self.weight, self._styles(w), demodulate=False)
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)

    def fit_layer(self, name: str) -> FitLayer:
        """Return how the layer is fitted."""

        def prepare(x: Tensor) -> Tensor:
            return x * self.magnitude_ema.rsqrt()

        conv = FitConv(
            f"synthesis.{name}", self.weight, prepare, gain=self.weight_gain, affine=self.affine
        )
        return FitLayer(name, None, (conv,), self.bias)

    def effective_weight(self, w: Tensor) -> Tensor:
        """Return the weight as it acts for each w [N, D_w]: [N, img_channels, C_in, 1, 1]."""
        return self.weight * self._styles(w)[:, None, :, None, None]


class SynthesisNetwork(nn.Module):
    """Turn ws into an image: [N, num_ws, D_w] → [N, img_channels, R, R], nominal range [-1, 1].

    Args:
        grids: Of all layers (``layer_grids``).
        widths: Channels of "input", "L0", …
        output_scale: Factor on the image.
        magnitude_ema_beta: Decay of the layers' input magnitudes per training step.
        layer: What all ``SynthesisLayer``s share.
    """

    def __init__(
        self,
        w_dim: int,
        img_channels: int,
        grids: Sequence[Grid],
        widths: Mapping[str, int],
        fourier_channels: int,
        *,
        num_critical: int,
        use_radial_filters: bool,
        output_scale: float,
        magnitude_ema_beta: float,
        layer: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.w_dim, self.output_scale, self.beta = w_dim, output_scale, magnitude_ema_beta
        self.num_layers = len(grids) - 1
        self.num_ws = self.num_layers + 2
        self.input = SynthesisInput(w_dim, widths["input"], fourier_channels, grids[0])
        in_channels = widths["input"]
        for index in range(self.num_layers):
            is_critical = index >= self.num_layers - num_critical
            made = SynthesisLayer(
                in_channels, widths[f"L{index}"], w_dim, grids[max(index - 1, 0)], grids[index],
                is_radial=use_radial_filters and not is_critical, **layer,
            )  # fmt: skip
            self.add_module(f"L{index}", made)
            in_channels = widths[f"L{index}"]
        last = ToRGBLayer(in_channels, img_channels, w_dim, grids[-1].size, layer["conv_clamp"])
        self.add_module(f"L{self.num_layers}", last)

    def layers(self) -> list[tuple[str, SynthesisLayer | ToRGBLayer]]:
        """Return (name, layer), the last of them to the image."""
        named = ((f"L{i}", self.get_submodule(f"L{i}")) for i in range(self.num_layers + 1))
        return [(n, m) for n, m in named if isinstance(m, SynthesisLayer | ToRGBLayer)]

    def forward(
        self,
        ws: Tensor,
        *,
        noise_mode: str = "const",
        noise: Sequence[Tensor] | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """Run all layers.

        Args:
            ws: [N, num_ws, D_w]: the input's, then one per layer.
            noise_mode, noise: Accepted as StyleGAN2's; there is no noise, so nothing is drawn and
                ``noise`` may only be empty.
            update_emas: Follow the magnitudes of the layers' inputs, as training does, over the
                batches of all processes; a layer uses the new value at once.
        Raises:
            ShapeError: ws is of another size, or noise holds maps.
            UsageError: noise_mode is not known.
        """
        return self.run(ws, noise_mode=noise_mode, noise=noise, update_emas=update_emas)[0]

    def run(
        self,
        ws: Tensor,
        *,
        noise_mode: str = "const",
        noise: Sequence[Tensor] | None = None,
        update_emas: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run all layers; return the image and the features [N, C, S, S] of L0, L1, …"""
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ShapeError(f"ws must be [N, {self.num_ws}, {self.w_dim}], got {shape_of(ws)}")
        if noise_mode not in NOISE_MODES:
            raise unknown_name("noise_mode", noise_mode, NOISE_MODES)
        if noise:
            raise ShapeError(f"noise must hold 0 maps, got {len(noise)}: stylegan3 has none")
        first, *rest = ws.unbind(dim=1)
        x = self.input(first)
        features: list[Tensor] = []
        for (_, layer), w in zip(self.layers(), rest, strict=True):
            if update_emas:
                magnitude = x.detach().float().square().mean()
                collectives.average([magnitude])  # the layer uses it before the step is over
                layer.magnitude_ema.copy_(magnitude.lerp(layer.magnitude_ema, self.beta))
            x = layer(x, w)
            features.append(x)
        image = features.pop() * self.output_scale
        return image.to(torch.promote_types(image.dtype, torch.float32)), features


class Generator(StyleGenerator):
    """StyleGAN3 generator: latents and labels to images.

    Args:
        z_dim, c_dim, w_dim: Sizes of latent, label (0 for none) and w.
        img_resolution: Height and width, a power of two from 16 on.
        img_channels: 1, 3 or 4.
        mapping_kwargs: ``num_layers`` and ``lr_multiplier`` of the mapping network.
        widths: Channels per group; None takes ``min(channel_base / 2 / cutoff, channel_max)``.
        channel_base, channel_max: Rule for widths that are not given.
        fourier_channels: Fourier features; None takes the published width of "input".
        num_layers: Layers between the Fourier features and the layer to the image.
        num_critical: How many of the last are critically sampled: they keep all frequencies that
            the grid holds, at the price of a little aliasing.
        first_cutoff, first_stopband, last_stopband_rel: See ``layer_grids``.
        margin_size: Pixels around the image that keep its border from being seen.
        output_scale: Factor on the image.
        conv_kernel: 3 in configuration T, 1 in R.
        use_radial_filters: Off in T, on in R.
        filter_size, lrelu_upsampling, conv_clamp: See ``SynthesisLayer``.
        magnitude_ema_beta: Decay of the layers' input magnitudes per training step.
    Raises:
        UsageError: A value is out of range, or ``widths`` misses or invents a group.
    """

    architecture = "stylegan3"

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: Size,
        img_resolution: Size,
        img_channels: Size,
        *,
        mapping_kwargs: MappingArguments | None = None,
        widths: Mapping[str, int] | None = None,
        channel_base: Size = 32768,
        channel_max: Size = 512,
        fourier_channels: Size | None = None,
        num_layers: Size = 14,
        num_critical: int = 2,
        first_cutoff: Positive = 2,
        first_stopband: Positive = 2**2.1,
        last_stopband_rel: Positive = 2**0.3,
        margin_size: int = 10,
        output_scale: Positive = 0.25,
        conv_kernel: Size = 3,
        use_radial_filters: bool = False,
        filter_size: Size = 6,
        lrelu_upsampling: Size = 2,
        conv_clamp: Positive | None = 256,
        magnitude_ema_beta: float = 0.999,
    ) -> None:  # long because each of the family's settings is named twice: here and in the config
        super().__init__()
        _check_range(img_resolution, num_layers, num_critical)
        sampling: dict[str, Any] = {
            "num_layers": num_layers,
            "num_critical": num_critical,
            "first_cutoff": first_cutoff,
            "first_stopband": first_stopband,
            "last_stopband_rel": last_stopband_rel,
            "margin_size": margin_size,
        }
        layer = {
            "kernel_size": conv_kernel,
            "filter_size": filter_size,
            "lrelu_upsampling": lrelu_upsampling,
            "conv_clamp": conv_clamp,
        }
        rule = {"channel_base": channel_base, "channel_max": channel_max}
        grids = layer_grids(img_resolution, **sampling, **rule)
        names = ["input", *(f"L{index}" for index in range(num_layers))]
        usual = dict(zip(names, [g.channels for g in (grids[0], *grids)], strict=False))
        widths = dict(usual) if widths is None else check_widths(names, widths)
        fourier_channels = fourier_channels or usual["input"]
        mapping_kwargs = mapping_settings({"num_layers": 2, **(mapping_kwargs or {})})
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
            "fourier_channels": fourier_channels,
            **sampling,
            "output_scale": output_scale,
            "conv_kernel": conv_kernel,
            "use_radial_filters": use_radial_filters,
            "filter_size": filter_size,
            "lrelu_upsampling": lrelu_upsampling,
            "conv_clamp": conv_clamp,
            "magnitude_ema_beta": magnitude_ema_beta,
        }
        self.synthesis = SynthesisNetwork(
            w_dim, img_channels, grids, widths, fourier_channels, num_critical=num_critical,
            use_radial_filters=use_radial_filters, output_scale=output_scale,
            magnitude_ema_beta=magnitude_ema_beta, layer=layer,
        )  # fmt: skip
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **mapping_kwargs)

    @torch.no_grad()
    def update_emas(self, z: Tensor, c: Tensor | None = None) -> None:
        """Follow ``w_avg`` and the layers' input magnitudes on a batch, as a training step does.

        Args:
            z, c: See ``forward``.
        """
        ws = self.mapping(z, c)
        self.w_avg = ws[:, 0].mean(dim=0).lerp(self.w_avg, W_AVG_BETA)
        self.synthesis(ws, update_emas=True)

    def feature_affines(self) -> list[list[FullyConnectedLayer]]:
        return [[layer.affine] for _, layer in self.synthesis.layers()[:-1]]

    def train_synthesis(self, ws: Tensor, noise: Sequence[Tensor]) -> Tensor:
        return self.synthesis(ws, noise=noise, update_emas=True)

    def modulated_layers(self) -> list[tuple[str, ModulatedLayer, int]]:
        named = enumerate(self.synthesis.layers(), start=1)  # ws[:, 0] is the input's
        return [(f"synthesis.{name}", layer, index) for index, (name, layer) in named]

    def fit_layers(self) -> list[FitLayer]:
        return [layer.fit_layer(name) for name, layer in self.synthesis.layers()]

    def groups(self) -> tuple[ChannelGroup, ...]:
        widths = self.config["widths"]
        made = []
        for index, (name, width) in enumerate(widths.items()):
            weight = f"synthesis.{name}.weight"
            after = f"synthesis.L{index}"
            # The last layer divides by sqrt(fan-in); the others demodulate, which cancels any gain.
            is_last = index == self.config["num_layers"]
            consumer = Slice(f"{after}.weight", 1, "in", fan_in_gain=is_last)
            slices = (
                Slice(weight, 0, "out"),
                *([] if name == "input" else [Slice(f"synthesis.{name}.bias", 0, "out")]),
                consumer,
                Slice(f"{after}.affine.weight", 0, "style"),
                Slice(f"{after}.affine.bias", 0, "style"),
            )
            made.append(ChannelGroup(name, width, slices, (consumer,)))
        return tuple(made)

    def mac_positions(self) -> dict[str, int]:
        positions = {
            f"{name}.weight": 1
            for name, layer in self.named_modules()
            if isinstance(layer, FullyConnectedLayer)
        }
        # A matrix product per pixel mixes the Fourier features; their sines are not counted.
        positions["synthesis.input.weight"] = self.synthesis.input.grid.size**2
        for name, layer in self.synthesis.layers():
            positions[f"synthesis.{name}.weight"] = layer.conv_size**2
        return positions


def _check_range(img_resolution: int, num_layers: int, num_critical: int) -> None:
    if img_resolution < 16 or img_resolution & (img_resolution - 1):
        raise UsageError(f"img_resolution {img_resolution} is not a power of two from 16 on")
    if not 0 <= num_critical < num_layers:
        raise UsageError(f"num_critical {num_critical} is outside 0 … {num_layers - 1}")


def _taps(filter_size: int, factor: int) -> int:
    return filter_size * factor if factor > 1 else 1
