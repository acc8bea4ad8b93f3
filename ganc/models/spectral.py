"""Spectral normalisation: layers whose weight is divided by its largest singular value.

Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", Section
2.1 and Algorithm 1. Buffers have the names of ``torch.nn.utils.spectral_norm``.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganc.devices import without_autocast
from ganc.groups import Slice


class SpectralLayer(nn.Module):
    """A weight that is divided by sigma, an estimate of its largest singular value.

    sigma = uᵀ W v, W being the weight as a matrix [C_out, everything else]. In train mode one power
    iteration per forward pass improves u and v first; no gradient flows through them. In eval mode
    the stored vectors are used as they are.

    Args:
        shape: Of the weight; output channels first.
        gain: Of the Xavier initialisation.
        bias: Whether there is one.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, *shape: int, gain: float = 1.0, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape), gain))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.register_buffer("weight_u", _drawn(shape[0]))
        self.register_buffer("weight_v", _drawn(math.prod(shape[1:])))

    def normalized_weight(self) -> Tensor:
        """Return weight / sigma, after a power iteration in train mode.

        In float32 under autocast too, which on CUDA would round sigma, u and v to bfloat16.
        """
        with without_autocast(self.weight.device):
            matrix = self.weight.flatten(1)
            u, v = self._iterate(matrix) if self.training else (self.weight_u, self.weight_v)
            return self.weight / torch.dot(u, matrix.mv(v))

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Improve and store u and v; the graph gets copies that a later pass does not change."""
        v = _unit(matrix.t().mv(self.weight_u))
        u = _unit(matrix.mv(v))
        self.weight_u.copy_(u)
        self.weight_v.copy_(v)
        return u, v


class SpectralConv2d(SpectralLayer):
    """Spectrally normalised convolution: [N, C_in, H, W] → [N, C_out, H', W'].

    Args:
        in_channels, out_channels, kernel_size, stride, bias: As of ``torch.nn.Conv2d``.
        padding: Zeros around the image; None keeps the size of an odd kernel's at stride 1.
        gain: Of the Xavier initialisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__(out_channels, in_channels, kernel_size, kernel_size, gain=gain, bias=bias)
        self.out_channels, self.stride = out_channels, stride
        self.padding = kernel_size // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        weight = self.normalized_weight()
        return F.conv2d(x, weight, self.bias, stride=self.stride, padding=self.padding)


class SpectralLinear(SpectralLayer):
    """Spectrally normalised linear layer: [N, C_in] → [N, C_out]."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(out_features, in_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalized_weight(), self.bias)


def consumed_vector(layer: str, weight: Tensor) -> Slice:
    """Return the part of v that goes with a layer's input channels.

    v runs over input channels and kernel positions, as the weight's matrix does.
    """
    return Slice(f"{layer}.weight_v", 0, "style", repeat=math.prod(weight.shape[2:]))


def _drawn(size: int) -> Tensor:
    """Draw a direction; without memory its size is all there is, and torch computes in Python."""
    x = torch.randn(size)
    return x if x.is_meta else _unit(x)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=0, eps=1e-12)
