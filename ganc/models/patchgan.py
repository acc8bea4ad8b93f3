"""Discriminator of image patches: pix2pix's and CycleGAN's "PatchGAN".

Source: Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks",
Sections 3.2.2 and 6.1.2.
"""

import itertools
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ganc.errors import UsageError, unknown_name
from ganc.groups import ChannelGroup
from ganc.models.config_types import Size
from ganc.models.network import Network
from ganc.models.spectral import SpectralConv2d
from ganc.models.translation import (
    BASE_WIDTH,
    SLOPE,
    ConvLayer,
    NormSettings,
    check_image,
    check_least,
    resolve_widths,
    tie,
)


class Discriminator(Network):
    """One logit per patch: [N, in_channels, H, W] → [N, 1, h, w].

    ``num_layers`` convolutions of stride 2 and two of stride 1, all 4x4: 3 layers see patches of
    70 px, and make 30x30 logits of 256 px.

    Args:
        in_channels: Channels of the image; pix2pix judges the condition and the image, one behind
            the other along the channels.
        img_resolution: Size that costs are counted at.
        num_layers: Convolutions of stride 2.
        norm, norm_affine, norm_statistics, bias: See ``NormSettings``; None takes what the
            published network has.
        spectral_norm: Layers whose weight is spectrally normalised ("conv0", …, "out"); the
            published network has none.
        widths: Channels per group; None takes ``base_width · min(2 ** layer, 8)``.
        base_width: Channels of the first layer where ``widths`` is not given.
    Raises:
        UsageError: A value is out of range, or ``widths`` misses or invents a group.
    """

    architecture = "patchgan"
    logit_layer = "out"

    def __init__(
        self,
        in_channels: Size,
        *,
        img_resolution: Size = 256,
        num_layers: Size = 3,
        norm: str = "batch",
        norm_affine: bool | None = None,
        norm_statistics: str = "running",
        bias: bool | None = None,
        spectral_norm: Sequence[str] = (),
        widths: Mapping[str, int] | None = None,
        base_width: Size = BASE_WIDTH,
    ) -> None:
        super().__init__()
        check_least("num_layers", num_layers, 1)
        # The two layers of stride 1 lose a pixel each, and one logit must be left.
        self.least_side = 3 * 2**num_layers
        check_least("img_resolution", img_resolution, self.least_side)
        settings = NormSettings.resolve(norm, norm_affine, norm_statistics, bias)
        default = {f"conv{i}": base_width * min(2**i, 8) for i in range(num_layers + 1)}
        widths = resolve_widths(default, widths)
        for name in spectral_norm:
            if name not in (*widths, "out"):
                raise unknown_name("layer in spectral_norm", name, [*widths, "out"])
        self.in_channels, self.img_resolution = in_channels, img_resolution
        self.num_layers = num_layers
        self.config = {
            "in_channels": in_channels,
            "img_resolution": img_resolution,
            "num_layers": num_layers,
            **settings.config(),
            # Absent where there is none: such networks have the config that they always had.
            **({"spectral_norm": list(spectral_norm)} if spectral_norm else {}),
            "widths": widths,
        }
        self._build([in_channels, *widths.values()], settings, spectral_norm)

    def _build(self, channels: Sequence[int], norm: NormSettings, spectral: Sequence[str]) -> None:
        for i, (before, after) in enumerate(itertools.pairwise([*channels, 1])):
            is_plain = i in (0, len(channels) - 1)  # neither a norm nor, so, a choice of bias
            name = f"conv{i}" if i < len(channels) - 1 else "out"
            conv_class = SpectralConv2d if name in spectral else nn.Conv2d
            conv = conv_class(
                before, after, 4, stride=self._stride(i), padding=1, bias=is_plain or norm.bias
            )
            self.add_module(name, ConvLayer(conv, None if is_plain else norm))

    def _stride(self, layer: int) -> int:
        return 2 if layer < self.num_layers else 1

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        """Judge images of any size from ``3 · 2 ** num_layers`` px up.

        Args:
            img: The image, behind its condition where the network has learned one.
            c: Must be None: there are no labels.
        Raises:
            ShapeError: img has another number of channels, or is too small.
            UsageError: A label is given.
        """
        if c is not None:
            raise UsageError("a patch discriminator takes no label, got c")
        check_image(img, self.in_channels, multiple=1, least=self.least_side)
        x = img
        for name in self.config["widths"]:
            x = F.leaky_relu(self.get_submodule(name)(x), SLOPE)
        logits: Tensor = self.get_submodule("out")(x)
        return logits

    def groups(self) -> tuple[ChannelGroup, ...]:
        layers = itertools.pairwise([*self.config["widths"], "out"])
        return tuple(tie(self, name, [name], {after: 0}) for name, after in layers)

    def mac_positions(self) -> dict[str, int]:
        side, positions = self.img_resolution, {}
        for i, name in enumerate([*self.config["widths"], "out"]):
            side = side // 2 if self._stride(i) == 2 else side - 1
            positions[f"{name}.conv.weight"] = side * side
        return positions
