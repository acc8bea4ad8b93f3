"""Layers that several StyleGAN families share.

Source: Karras et al. 2018, Section 4.1 (equalised learning rate); Karras et al. 2019, Section 2
(mapping network). Weights are stored without their gain, which is applied at run time.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ganc.devices import without_autocast
from ganc.errors import ShapeError
from ganc.models.config_types import Positive, Size
from ganc.ops.bias_act import bias_act
from ganc.ops.conv2d import conv2d
from ganc.ops.conv2d_resample import conv2d_down, conv2d_up
from ganc.ops.upfirdn2d import setup_filter

RESAMPLE_FILTER = (1, 3, 3, 1)


def shape_of(x: Tensor | None) -> str:
    """Return the shape as an error message shows it."""
    return "None" if x is None else str(list(x.shape))


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale each row of [N, D] to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class FullyConnectedLayer(nn.Module):
    """Linear layer with equalised learning rate: [N, D_in] → [N, D_out].

    Args:
        in_features, out_features: Sizes.
        act: Activation applied to the result.
        lr_multiplier: Relative learning rate; stored weights are 1 / lr_multiplier larger.
        bias_init: Initial bias as it acts (styles start at 1).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.act = act
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype) * self.weight_gain
        bias = self.bias.to(x.dtype) * self.bias_gain
        if self.act == "linear":
            return torch.addmm(bias, x, weight.t())
        return bias_act(x @ weight.t(), bias, act=self.act)


class Conv2dLayer(nn.Module):
    """Convolution with equalised learning rate: [N, C_in, H, W] → [N, C_out, H·up/down, W·up/down].

    Args:
        kernel_size: 1 or 3.
        act: Activation.
        bias: Whether there is one.
        up: 1, or 2 to enlarge and low-pass filter.
        down: 1, or 2 to low-pass filter and shrink; not both.
        resample_filter: FIR taps, read where the size changes.
        conv_clamp: Limit of the absolute activation, None for none.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        act: str = "lrelu",
        bias: bool = True,
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = RESAMPLE_FILTER,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.act, self.up, self.down, self.conv_clamp = act, up, down, conv_clamp
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(resample_filter), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        if self.up == 2:
            x = conv2d_up(x, weight, self.resample_filter)
        elif self.down == 2:
            x = conv2d_down(x, weight, self.resample_filter)
        else:
            x = conv2d(x, weight, padding=weight.shape[-1] // 2)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return bias_act(x, bias, act=self.act, clamp=self.conv_clamp)


def mapping_settings(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Complete StyleGAN2's ``mapping_kwargs`` for a config.

    Settings that are None stay out: a network of the usual sizes has the config, and with it the
    content hash, that it always had.
    """
    chosen = {name: value for name, value in (given or {}).items() if value is not None}
    return {"num_layers": 8, "lr_multiplier": 0.01, **chosen}


class MappingNetwork(nn.Module):
    """Map latents and labels to w.

    Args:
        z_dim: Size of z; 0 maps labels alone (the conditional discriminator's head).
        c_dim: Size of the label; 0 for none.
        w_dim: Size of w.
        num_ws: Copies of w that the synthesis network reads; None returns w itself.
        num_layers: Fully connected layers; with 0 the normalised label embedding is w itself, as in
            discriminators that were converted from TensorFlow.
        lr_multiplier: Relative learning rate of all of them.
        embed_features: Size of the label's embedding; None takes ``w_dim``.
        layer_features: Width between the layers; None takes ``w_dim``.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        *,
        num_layers: int = 8,
        lr_multiplier: Positive = 0.01,
        embed_features: Size | None = None,
        layer_features: Size | None = None,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.num_ws, self.num_layers = z_dim, c_dim, num_ws, num_layers
        inner = w_dim if layer_features is None else layer_features
        embed_dim = w_dim if embed_features is None else embed_features
        if c_dim:
            self.embed = FullyConnectedLayer(c_dim, embed_dim)
        sizes = [z_dim + (embed_dim if c_dim else 0)] + [inner] * (num_layers - 1) + [w_dim]
        for i, (before, after) in enumerate(itertools.pairwise(sizes[: num_layers + 1])):
            layer = FullyConnectedLayer(before, after, act="lrelu", lr_multiplier=lr_multiplier)
            self.add_module(f"fc{i}", layer)
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Return ws [N, num_ws, D_w] (or w [N, D_w] where ``num_ws`` is None).

        In float32 under autocast too: it is a small part of the work, and everything follows w.

        Args:
            z: [N, D_z].
            c: [N, D_c], or None for an unconditional network.
            truncation_psi: 1 changes nothing, 0 gives ``w_avg``.
            truncation_cutoff: Number of leading ws that are truncated; None for all.
        Raises:
            ShapeError: z or c is missing or of another size.
        """
        with without_autocast(next(self.parameters()).device):
            w = self._inputs(z, c)
            for i in range(self.num_layers):
                w = self.get_submodule(f"fc{i}")(w)
        if self.num_ws is None:
            return w
        ws = w[:, None].expand(-1, self.num_ws, -1)
        if truncation_psi == 1:
            return ws
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        head = torch.lerp(self.w_avg.to(ws), ws[:, :cutoff], truncation_psi)
        return torch.cat([head, ws[:, cutoff:]], dim=1)

    def _inputs(self, z: Tensor | None, c: Tensor | None) -> Tensor:
        parts = []
        if self.z_dim:
            if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
                raise ShapeError(f"z must be [N, {self.z_dim}], got {shape_of(z)}")
            parts.append(normalize_2nd_moment(z))
        if self.c_dim:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                raise ShapeError(f"c must be [N, {self.c_dim}], got {shape_of(c)}")
            parts.append(normalize_2nd_moment(self.embed(c)))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


MappingArguments = Annotated[Mapping[str, Any], MappingNetwork]
"""What a config says of a mapping network: some arguments of its constructor."""
