"""Image-to-image generator with skip connections: pix2pix's U-Net.

Source: Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks",
Section 6.1.1.
"""

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
    SLOPE,
    ConvLayer,
    NormSettings,
    check_image,
    check_least,
    check_resolution,
    resolve_widths,
    tie,
)

FIRST_DROPOUT_LEVEL = 4
"""Levels from here to the last but one drop values: those as wide as the network gets."""


class Generator(Translator):
    """U-Net translator: [N, in_channels, H, W] → [N, img_channels, H, W], both in [-1, 1].

    Level l halves the size (``enc{l}``) and doubles it again on the way back (``dec{l}``), where
    dec{l} reads enc{l}'s output, then dec{l+1}'s, side by side.

    Args:
        in_channels, img_channels: Channels of the image it takes and of the one it makes.
        num_downs: Levels.
        img_resolution: Size that costs are counted at; None takes ``2 ** num_downs``, of which H
            and W may be any multiples.
        norm, norm_affine, norm_statistics, bias: See ``NormSettings``; None takes what the
            published network has.
        use_dropout: Drop half of the values of dec4 and deeper (the deepest excepted) in train
            mode.
        widths: Channels per group; None takes ``base_width · min(2 ** level, 8)``.
        base_width: Channels of the first level where ``widths`` is not given.
    Raises:
        UsageError: A value is out of range, or ``widths`` misses or invents a group.
    """

    architecture = "unet_translator"

    def __init__(
        self,
        in_channels: Size,
        img_channels: Size,
        *,
        num_downs: Size = 8,
        img_resolution: Size | None = None,
        norm: str = "batch",
        norm_affine: bool | None = None,
        norm_statistics: str = "running",
        bias: bool | None = None,
        use_dropout: bool = False,
        widths: Mapping[str, int] | None = None,
        base_width: Size = BASE_WIDTH,
    ) -> None:
        super().__init__()
        # One level would be a plain auto-encoder: nothing to skip.
        check_least("num_downs", num_downs, 2)
        self.img_resolution = 2**num_downs if img_resolution is None else img_resolution
        check_resolution(self.img_resolution, 2**num_downs)
        settings = NormSettings.resolve(norm, norm_affine, norm_statistics, bias)
        widths = resolve_widths(default_widths(num_downs, base_width), widths)
        self.in_channels, self.img_channels, self.num_downs = in_channels, img_channels, num_downs
        self.size_multiple = self.least_side = 2**num_downs
        self.config = {
            "in_channels": in_channels,
            "img_channels": img_channels,
            "num_downs": num_downs,
            "img_resolution": self.img_resolution,
            **settings.config(),
            "use_dropout": use_dropout,
            "widths": widths,
        }
        self.dropout = nn.Dropout(DROPOUT if use_dropout else 0.0)
        for level in range(num_downs):
            self.add_module(f"enc{level}", self._enc(level, widths, settings))
        for level in reversed(range(num_downs)):
            self.add_module(f"dec{level}", self._dec(level, widths, settings))

    def _enc(self, level: int, widths: Mapping[str, int], norm: NormSettings) -> ConvLayer:
        before = self.in_channels if level == 0 else widths[f"enc{level - 1}"]
        conv = nn.Conv2d(
            before, widths[f"enc{level}"], 4, stride=2, padding=1, bias=norm.bias
        )  # fmt: skip
        # The deepest map may be a single pixel, of which no norm can tell anything.
        is_between = 0 < level < self.num_downs - 1
        return ConvLayer(conv, norm if is_between else None)

    def _dec(self, level: int, widths: Mapping[str, int], norm: NormSettings) -> ConvLayer:
        is_last = level == 0
        before = widths[f"enc{level}"] + widths.get(f"dec{level + 1}", 0)
        after = self.img_channels if is_last else widths[f"dec{level}"]
        conv = nn.ConvTranspose2d(
            before, after, 4, stride=2, padding=1, bias=is_last or norm.bias
        )  # fmt: skip
        return ConvLayer(conv, None if is_last else norm)

    def forward(self, x: Tensor) -> Tensor:
        """Translate images of any size that ``2 ** num_downs`` divides.

        Raises:
            ShapeError: x has another number of channels, or a size that does not fit.
        """
        check_image(x, self.in_channels, self.size_multiple, self.least_side)
        skips = [self.enc(0)(x)]
        for level in range(1, self.num_downs):
            skips.append(self.enc(level)(F.leaky_relu(skips[-1], SLOPE)))
        x = skips.pop()
        for level in reversed(range(1, self.num_downs)):
            x = self.dec(level)(F.relu(x))
            if FIRST_DROPOUT_LEVEL <= level < self.num_downs - 1:
                x = self.dropout(x)
            x = torch.cat([skips.pop(), x], dim=1)
        return torch.tanh(self.dec(0)(F.relu(x)))

    def enc(self, level: int) -> nn.Module:
        """Return the layer that halves the size to 2 ** -(level + 1)."""
        return self.get_submodule(f"enc{level}")

    def dec(self, level: int) -> nn.Module:
        """Return the layer that doubles the size to 2 ** -level."""
        return self.get_submodule(f"dec{level}")

    def feature_layers(self) -> dict[str, int]:
        deepest = self.num_downs - 1
        names = [f"enc{deepest}", *(f"dec{level}" for level in range(deepest, 0, -1))]
        return {name: self.config["widths"][name] for name in names}

    def fit_layers(self) -> list[FitLayer]:
        names = [f"enc{n}" for n in range(1, self.num_downs)]
        names += [f"dec{n}" for n in reversed(range(self.num_downs))]
        found = ((name, self.get_submodule(name)) for name in names)
        return [
            layer.fit_layer(name, None if name == "dec0" else name)
            for name, layer in found
            if isinstance(layer, ConvLayer)
        ]

    def groups(self) -> tuple[ChannelGroup, ...]:
        *levels, deepest = range(self.num_downs)
        widths = self.config["widths"]
        return (
            *(tie(self, f"enc{n}", [f"enc{n}"], {f"enc{n + 1}": 0, f"dec{n}": 0}) for n in levels),
            tie(self, f"enc{deepest}", [f"enc{deepest}"], {f"dec{deepest}": 0}),
            *(
                tie(self, f"dec{n}", [f"dec{n}"], {f"dec{n - 1}": widths[f"enc{n - 1}"]})
                for n in range(deepest, 0, -1)
            ),
        )

    def mac_positions(self) -> dict[str, int]:
        return self._positions(decs_at_output=False)

    def published_mac_positions(self) -> dict[str, int]:
        return self._positions(decs_at_output=True)

    def _positions(self, *, decs_at_output: bool) -> dict[str, int]:
        side = self.img_resolution
        levels = range(self.num_downs)
        return {
            **{f"enc{n}.conv.weight": (side >> n + 1) ** 2 for n in levels},
            **{f"dec{n}.conv.weight": (side >> n + 1 - decs_at_output) ** 2 for n in levels},
        }


def default_widths(num_downs: int, base_width: int) -> dict[str, int]:
    """Return the published width of every group, in network order."""
    level_widths = [base_width * min(2**level, 8) for level in range(num_downs)]
    return {
        **{f"enc{level}": width for level, width in enumerate(level_widths)},
        **{f"dec{n}": level_widths[n - 1] for n in range(num_downs - 1, 0, -1)},
    }
