"""Discriminator of StyleGAN2, which StyleGAN3 uses as well: residual, with input skips, or plain.

Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", Section 4.1;
tensor names are those of NVIDIA's PyTorch release.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ganc.errors import ShapeError, UsageError
from ganc.groups import ChannelGroup, Slice
from ganc.models.config_types import Positive, Size, Taps
from ganc.models.layers import (
    RESAMPLE_FILTER,
    Conv2dLayer,
    FullyConnectedLayer,
    MappingArguments,
    MappingNetwork,
    mapping_settings,
    shape_of,
)
from ganc.models.network import Network
from ganc.models.stylegan2 import architecture_setting, block_resolutions, resolve_widths
from ganc.ops.upfirdn2d import downsample2d, setup_filter


class DiscriminatorBlock(nn.Module):
    """The layers of one resolution: [N, C, R, R] → [N, C_out, R/2, R/2].

    Args:
        in_channels, hidden_channels, out_channels: Of its input, between its layers, of its result.
        img_channels: Channels of the image that it reads; 0 where it reads none.
        is_residual: Whether a skip connection goes around it.
    """

    fromrgb: Conv2dLayer | None
    skip: Conv2dLayer | None

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        img_channels: int,
        *,
        is_residual: bool,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.fromrgb = self.skip = None
        if img_channels:
            self.fromrgb = Conv2dLayer(img_channels, in_channels, 1, conv_clamp=conv_clamp)
        self.conv0 = Conv2dLayer(in_channels, hidden_channels, 3, conv_clamp=conv_clamp)
        self.conv1 = Conv2dLayer(
            hidden_channels, out_channels, 3, down=2,
            resample_filter=resample_filter, conv_clamp=conv_clamp,
        )  # fmt: skip
        if is_residual:
            self.skip = Conv2dLayer(
                in_channels, out_channels, 1, act="linear", bias=False, down=2,
                resample_filter=resample_filter,
            )  # fmt: skip

    def forward(self, x: Tensor | None, img: Tensor) -> Tensor:
        """Run the block on the features before (None in the first) and the image at its size."""
        if self.fromrgb is not None:
            rgb = self.fromrgb(img)
            x = rgb if x is None else x + rgb
        y = self.conv1(self.conv0(x))
        return y if self.skip is None else (y + self.skip(x)) / math.sqrt(2)


def minibatch_std(x: Tensor, group_size: int | None, num_channels: int = 1) -> Tensor:
    """Append the standard deviation over groups of the batch as extra channels.

    Sample i belongs to group i % (N / group size): groups are interleaved.
    Source: Karras et al. 2018 (progressive growing), Section 3.

    Args:
        x: [N, C, H, W]; N is at most ``group_size`` or a multiple of it.
        group_size: Samples that share one statistic; None for the whole batch.
        num_channels: Channels of statistics; each averages over its share of C.
    Returns:
        [N, C + num_channels, H, W].
    Raises:
        ShapeError: N is neither.
    """
    batch, channels, height, width = x.shape
    size = batch if group_size is None else min(group_size, batch)
    if size == 0 or batch % size:
        allowed = "at least 1" if group_size is None else f"a multiple of {group_size}, or less"
        raise ShapeError(f"batch must be {allowed}, got {batch}")
    y = x.reshape(size, -1, num_channels, channels // num_channels, height, width)
    y = (y - y.mean(dim=0)).square().mean(dim=0)  # [N / size, F, C / F, H, W]
    y = (y + 1e-8).sqrt().mean(dim=(2, 3, 4))  # [N / size, F]
    y = y[:, :, None, None].repeat(size, 1, height, width)
    return torch.cat([x, y.to(x.dtype)], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """Last layers at 4 px: [N, C, 4, 4] → [N, cmap_dim or 1].

    Args:
        widths: Holds the channels of "b4.conv" and "b4.fc".
        cmap_dim: Size of the label's embedding; 0 for none.
        img_channels: Channels of the image that it reads; 0 where it reads none.
    """

    fromrgb: Conv2dLayer | None

    def __init__(
        self,
        in_channels: int,
        widths: Mapping[str, int],
        cmap_dim: int,
        img_channels: int,
        *,
        mbstd_group_size: int | None,
        mbstd_num_channels: int,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        # As published, this image layer alone does not clamp.
        self.fromrgb = Conv2dLayer(img_channels, in_channels, 1) if img_channels else None
        self.mbstd_group_size, self.mbstd_num_channels = mbstd_group_size, mbstd_num_channels
        conv, fc = widths["b4.conv"], widths["b4.fc"]
        self.conv = Conv2dLayer(in_channels + mbstd_num_channels, conv, 3, conv_clamp=conv_clamp)
        self.fc = FullyConnectedLayer(conv * 16, fc, act="lrelu")
        self.out = FullyConnectedLayer(fc, cmap_dim or 1)

    def forward(self, x: Tensor, img: Tensor) -> Tensor:
        if self.fromrgb is not None:
            x = x + self.fromrgb(img)
        if self.mbstd_num_channels:
            x = minibatch_std(x, self.mbstd_group_size, self.mbstd_num_channels)
        return self.out(self.fc(self.conv(x).flatten(1)))


class Discriminator(Network):
    """StyleGAN2 discriminator: images (and labels) to logits.

    Args:
        c_dim: Size of the label; 0 for none.
        img_resolution: Height and width, a power of two from 8 to 1024.
        img_channels: 1, 3 or 4.
        cmap_dim: Size of the label's embedding; None takes the width at 4 px.
        mapping_kwargs: ``num_layers``, ``lr_multiplier``, ``embed_features`` and
            ``layer_features`` of the label's mapping network.
        architecture: One of ``BLOCK_ARCHITECTURES``; in "skip" every block reads the image.
        widths: Channels per group; None takes ``min(channel_base / resolution, channel_max)``.
        channel_base, channel_max: Rule for widths that are not given.
        mbstd_group_size, mbstd_num_channels: See ``minibatch_std``; 0 channels for none.
        resample_filter: FIR taps.
        conv_clamp: Limit of the absolute activation, None for none.
    Raises:
        UsageError: A value is out of range, or ``widths`` misses or invents a group.
    """

    architecture = "stylegan2"
    logit_layer = "b4.out"
    resample_filter: Tensor

    def __init__(
        self,
        c_dim: int,
        img_resolution: Size,
        img_channels: Size,
        *,
        cmap_dim: int | None = None,
        mapping_kwargs: MappingArguments | None = None,
        architecture: str = "resnet",
        widths: Mapping[str, int] | None = None,
        channel_base: Size = 32768,
        channel_max: Size = 512,
        mbstd_group_size: Size | None = 4,
        mbstd_num_channels: int = 1,
        resample_filter: Taps = RESAMPLE_FILTER,
        conv_clamp: Positive | None = None,
    ) -> None:
        super().__init__()
        sides = group_resolutions(img_resolution)
        widths = resolve_widths(list(sides), widths, channel_base, channel_max, sides)
        mapping_kwargs = mapping_settings(mapping_kwargs)
        if cmap_dim is None or c_dim == 0:
            cmap_dim = widths["b4.conv"] if c_dim else 0
        self.c_dim, self.cmap_dim = c_dim, cmap_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.config = {
            "c_dim": c_dim,
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            "cmap_dim": cmap_dim,
            "mapping_kwargs": mapping_kwargs,
            "widths": widths,
            "mbstd_group_size": mbstd_group_size,
            "mbstd_num_channels": mbstd_num_channels,
            "resample_filter": list(resample_filter),
            "conv_clamp": conv_clamp,
            **architecture_setting(architecture, "resnet"),
        }
        self._build_blocks(widths, architecture, resample_filter, conv_clamp)
        self.b4 = DiscriminatorEpilogue(
            widths["b8.conv1"], widths, cmap_dim, img_channels if architecture == "skip" else 0,
            mbstd_group_size=mbstd_group_size, mbstd_num_channels=mbstd_num_channels,
            conv_clamp=conv_clamp,
        )  # fmt: skip
        self.register_buffer("resample_filter", setup_filter(resample_filter), persistent=False)
        if c_dim:
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, None, **mapping_kwargs)

    def _build_blocks(
        self,
        widths: Mapping[str, int],
        architecture: str,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
    ) -> None:
        in_channels = widths[f"b{self.img_resolution}.fromrgb"]
        for resolution in self.resolutions():
            name = f"b{resolution}"
            reads_image = architecture == "skip" or resolution == self.img_resolution
            block = DiscriminatorBlock(
                in_channels, widths[f"{name}.conv0"], widths[f"{name}.conv1"],
                self.img_channels if reads_image else 0, is_residual=architecture == "resnet",
                resample_filter=resample_filter, conv_clamp=conv_clamp,
            )  # fmt: skip
            self.add_module(name, block)
            in_channels = widths[f"{name}.conv1"]

    def resolutions(self) -> list[int]:
        """Return the blocks' resolutions, from the image down to 8."""
        return block_resolutions(self.img_resolution)[:0:-1]

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        """Judge images.

        Args:
            img: [N, img_channels, R, R], nominal range [-1, 1].
            c: [N, D_c], or None where ``c_dim`` is 0.
        Returns:
            Logits, [N, 1]; higher is more real.
        Raises:
            ShapeError: The image or label is of another size, or N does not fit ``minibatch_std``.
        """
        expected = (self.img_channels, self.img_resolution, self.img_resolution)
        if img.ndim != 4 or img.shape[1:] != expected:
            raise ShapeError(
                f"img must be [N, {', '.join(map(str, expected))}], got {shape_of(img)}"
            )
        x = None
        for resolution in self.resolutions():
            x = self.get_submodule(f"b{resolution}")(x, img)
            if self.b4.fromrgb is not None:  # the block below reads the image as well
                img = downsample2d(img, self.resample_filter)
        x = self.b4(x, img)
        if not self.c_dim:
            return x
        cmap = self.mapping(None, c)
        return (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)

    def groups(self) -> tuple[ChannelGroup, ...]:
        widths = self.config["widths"]
        top = self.img_resolution
        made = [_group(f"b{top}.fromrgb", widths, [], self._readers(top))]
        for resolution in self.resolutions():
            name, below = f"b{resolution}", resolution // 2
            made.append(_group(f"{name}.conv0", widths, [], [f"{name}.conv1.weight"]))
            # minibatch_std averages over all channels at 4 px: removing one changes the average.
            fixed = resolution == 8 and self.config["mbstd_num_channels"] > 0
            tied, into = self._added(resolution), self._readers(below)
            made.append(_group(f"{name}.conv1", widths, tied, into, not fixed))
        made.append(_group("b4.conv", widths, [], ["b4.fc.weight"], repeat=16))
        made.append(_group("b4.fc", widths, [], ["b4.out.weight"]))
        return tuple(made)

    def _added(self, resolution: int) -> list[str]:
        """Return the tensors whose channels are added to those of a block's conv1."""
        parts = [f"b{resolution}.skip.weight"]
        parts += [f"b{resolution // 2}.fromrgb.{part}" for part in ("weight", "bias")]
        return self._existing(parts)

    def _readers(self, resolution: int) -> list[str]:
        """Return the weights that read the features which arrive at a resolution."""
        layers = ["conv"] if resolution == 4 else ["conv0", "skip"]
        return self._existing([f"b{resolution}.{layer}.weight" for layer in layers])

    def _existing(self, tensors: Sequence[str]) -> list[str]:
        present = dict(self.named_parameters())
        return [name for name in tensors if name in present]

    def mac_positions(self) -> dict[str, int]:
        positions = {}
        for name, layer in self.named_modules():
            if isinstance(layer, FullyConnectedLayer):
                positions[f"{name}.weight"] = 1
            elif isinstance(layer, Conv2dLayer):
                side = int(name.split(".")[0].removeprefix("b")) // layer.down
                positions[f"{name}.weight"] = side * side
        return positions


def _group(
    name: str,
    widths: Mapping[str, int],
    tied: Sequence[str],
    consumers: Sequence[str],
    prunable: bool = True,
    *,
    repeat: int = 1,
) -> ChannelGroup:
    produced = [f"{name}.weight", f"{name}.bias", *tied]
    into = tuple(Slice(t, 1, "in", repeat=repeat, fan_in_gain=True) for t in consumers)
    slices = tuple(Slice(t, 0, "out") for t in produced) + into
    return ChannelGroup(name, widths[name], slices, into, prunable)


def group_resolutions(img_resolution: int) -> dict[str, int]:
    """Return group name → the resolution whose usual width it takes, in network order.

    Raises:
        UsageError: The resolution is not a power of two from 8 to 1024.
    """
    if img_resolution < 8:
        raise UsageError(f"img_resolution {img_resolution} is not a power of two from 8 to 1024")
    sides = {f"b{img_resolution}.fromrgb": img_resolution}
    for resolution in block_resolutions(img_resolution)[:0:-1]:
        sides[f"b{resolution}.conv0"] = resolution
        sides[f"b{resolution}.conv1"] = resolution // 2
    return {**sides, "b4.conv": 4, "b4.fc": 4}
