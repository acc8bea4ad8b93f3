"""Image-to-image generator with residual blocks: CycleGAN's, and pix2pix's ResNet option.

Source: Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
Networks", Section 7.1, after Johnson et al. 2016, "Perceptual Losses for Real-Time Style Transfer".
Reflects the image at its border in the first and last convolution and in the blocks.
"""

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganc.groups import ChannelGroup
from ganc.models.config_types import Size
from ganc.models.fitting import FitLayer
from ganc.models.network import Translator
from ganc.models.translation import (
    BASE_WIDTH,
    DROPOUT,
    ConvLayer,
    NormSettings,
    check_image,
    check_least,
    check_resolution,
    resolve_widths,
    tie,
)

LEAST_SIDE = 4
"""Pixels that the first convolution's border of three needs to be reflected."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the trunk: [N, C, H, W] → [N, C, H, W].

    Args:
        trunk, inner: Channels outside and between the convolutions.
        norm: The norm behind both.
        use_dropout: Drop half of the inner values in train mode.
    """

    def __init__(self, trunk: int, inner: int, norm: NormSettings, *, use_dropout: bool) -> None:
        super().__init__()
        self.conv0 = ConvLayer(_reflecting(trunk, inner, 3, bias=norm.bias), norm)
        self.dropout = nn.Dropout(DROPOUT if use_dropout else 0.0)
        self.conv1 = ConvLayer(_reflecting(inner, trunk, 3, bias=norm.bias), norm)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv1(self.dropout(F.relu(self.conv0(x))))
        return x + residual


class Generator(Translator):
    """ResNet translator: [N, in_channels, H, W] → [N, img_channels, H, W], both in [-1, 1].

    Args:
        in_channels, img_channels: Channels of the image it takes and of the one it makes.
        img_resolution: Size that costs are counted at. The network takes every H and W that are
            multiples of ``2 ** num_downsampling`` (at least two of them, and 4).
        num_blocks: Residual blocks.
        num_downsampling: Convolutions of stride 2 before them, and transposed ones behind.
        norm, norm_affine, norm_statistics, bias: See ``NormSettings``; None takes what the
            published network has.
        use_dropout: Drop half of the values inside the blocks in train mode.
        widths: Channels per group; None takes ``base_width``, doubled by every downsampling.
        base_width: Channels at full resolution where ``widths`` is not given.
    Raises:
        UsageError: A value is out of range, or ``widths`` misses or invents a group.
    """

    architecture = "resnet_translator"

    def __init__(
        self,
        in_channels: Size,
        img_channels: Size,
        *,
        img_resolution: Size = 256,
        num_blocks: int = 9,
        num_downsampling: int = 2,
        norm: str = "instance",
        norm_affine: bool | None = None,
        norm_statistics: str = "running",
        bias: bool | None = None,
        use_dropout: bool = False,
        widths: Mapping[str, int] | None = None,
        base_width: Size = BASE_WIDTH,
    ) -> None:
        super().__init__()
        check_least("num_blocks", num_blocks, 0)
        check_least("num_downsampling", num_downsampling, 1)
        check_resolution(img_resolution, 2**num_downsampling)
        settings = NormSettings.resolve(norm, norm_affine, norm_statistics, bias)
        widths = resolve_widths(default_widths(num_blocks, num_downsampling, base_width), widths)
        self.in_channels, self.img_channels = in_channels, img_channels
        self.img_resolution = img_resolution
        self.size_multiple = 2**num_downsampling
        self.least_side = max(LEAST_SIDE, 2 * self.size_multiple)
        self.config = {
            "in_channels": in_channels,
            "img_channels": img_channels,
            "img_resolution": img_resolution,
            "num_blocks": num_blocks,
            "num_downsampling": num_downsampling,
            **settings.config(),
            "use_dropout": use_dropout,
            "widths": widths,
        }
        self.downs = [f"down{i}" for i in range(1, num_downsampling + 1)]
        self.blocks = [f"block{i}" for i in range(num_blocks)]
        self.ups = [f"up{i}" for i in reversed(range(num_downsampling))]
        self._build(widths, settings, use_dropout=use_dropout)

    def _build(self, widths: Mapping[str, int], norm: NormSettings, *, use_dropout: bool) -> None:
        self.stem = ConvLayer(_reflecting(self.in_channels, widths["stem"], 7, norm.bias), norm)
        trunk = widths["trunk"]
        into = [widths[group] for group in ("stem", *self.downs[:-1], "trunk")]
        for name, (before, after) in zip(self.downs, itertools.pairwise(into), strict=True):
            down = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=norm.bias)
            self.add_module(name, ConvLayer(down, norm))
        for name in self.blocks:
            block = ResidualBlock(trunk, widths[f"{name}.inner"], norm, use_dropout=use_dropout)
            self.add_module(name, block)
        out_of = [widths[group] for group in ("trunk", *self.ups)]
        for name, (before, after) in zip(self.ups, itertools.pairwise(out_of), strict=True):
            up = nn.ConvTranspose2d(
                before, after, 3, stride=2, padding=1, output_padding=1, bias=norm.bias
            )
            self.add_module(name, ConvLayer(up, norm))
        self.out = ConvLayer(_reflecting(widths["up0"], self.img_channels, 7, bias=True), None)

    def forward(self, x: Tensor) -> Tensor:
        """Translate images of any size that the downsampling divides.

        Raises:
            ShapeError: x has another number of channels, or a size that does not fit.
        """
        check_image(x, self.in_channels, self.size_multiple, self.least_side)
        for name in ("stem", *self.downs):
            x = F.relu(self.get_submodule(name)(x))
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        for name in self.ups:
            x = F.relu(self.get_submodule(name)(x))
        return torch.tanh(self.out(x))

    def feature_layers(self) -> dict[str, int]:
        return dict.fromkeys([self.downs[-1], *self.blocks], self.config["widths"]["trunk"])

    def fit_layers(self) -> list[FitLayer]:
        makes = {name: name for name in self.downs} | {self.downs[-1]: "trunk"}
        for block in self.blocks:
            makes |= {f"{block}.conv0": f"{block}.inner", f"{block}.conv1": "trunk"}
        layers = {**makes, **{name: name for name in self.ups}, "out": None}
        found = ((name, self.get_submodule(name), group) for name, group in layers.items())
        return [m.fit_layer(name, group) for name, m, group in found if isinstance(m, ConvLayer)]

    def groups(self) -> tuple[ChannelGroup, ...]:
        *downs, into_trunk = self.downs
        first_up, *_ = self.ups
        # The residual sums tie the trunk: all blocks and the last downsampling write to it.
        trunk = tie(
            self,
            "trunk",
            [into_trunk, *(f"{block}.conv1" for block in self.blocks)],
            {**{f"{block}.conv0": 0 for block in self.blocks}, first_up: 0},
        )
        before = itertools.pairwise(["stem", *downs, into_trunk])
        behind = itertools.pairwise([*self.ups, "out"])
        return (
            *(tie(self, name, [name], {after: 0}) for name, after in before),
            trunk,
            *(
                tie(self, f"{block}.inner", [f"{block}.conv0"], {f"{block}.conv1": 0})
                for block in self.blocks
            ),
            *(tie(self, name, [name], {after: 0}) for name, after in behind),
        )

    def mac_positions(self) -> dict[str, int]:
        return self._positions(ups_at_output=False)

    def published_mac_positions(self) -> dict[str, int]:
        return self._positions(ups_at_output=True)

    def _positions(self, *, ups_at_output: bool) -> dict[str, int]:
        depth = len(self.downs)
        level = {"stem": 0, "out": 0}
        level |= {name: i for i, name in enumerate(self.downs, start=1)}
        level |= {f"{block}.conv{i}": depth for block in self.blocks for i in (0, 1)}
        level |= {name: depth - i - ups_at_output for i, name in enumerate(self.ups)}
        return {f"{name}.conv.weight": (self.img_resolution >> n) ** 2 for name, n in level.items()}


def default_widths(num_blocks: int, num_downsampling: int, base_width: int) -> dict[str, int]:
    """Return the published width of every group, in network order."""
    trunk = base_width << num_downsampling
    return {
        "stem": base_width,
        **{f"down{i}": base_width << i for i in range(1, num_downsampling)},
        "trunk": trunk,
        **{f"block{i}.inner": trunk for i in range(num_blocks)},
        **{f"up{i}": base_width << i for i in reversed(range(num_downsampling))},
    }


def _reflecting(in_channels: int, out_channels: int, kernel_size: int, bias: bool) -> nn.Conv2d:
    """Build a convolution that keeps the size and reflects the image at its border."""
    return nn.Conv2d(
        in_channels, out_channels, kernel_size,
        padding=kernel_size // 2, padding_mode="reflect", bias=bias,
    )  # fmt: skip
