"""Upsample, filter with a small FIR kernel, downsample.

Source: Karras et al. 2020 (StyleGAN2), Section 4 and Appendix B: all resampling in the network is
zero insertion or decimation with one low-pass filter.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.errors import ShapeError
from ganc.ops import resampling


def setup_filter(taps: Sequence[float]) -> Tensor:
    """Return the separable filter's outer product, normalised to sum 1: [K, K], float32."""
    row = torch.tensor(taps, dtype=torch.float32, device="cpu")
    kernel = row.outer(row)
    return kernel / kernel.sum()


def upfirdn2d(
    x: Tensor,
    kernel: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (0, 0),
    gain: float = 1.0,
    impl: str = "auto",
) -> Tensor:
    """Insert zeros, pad, convolve every channel with ``kernel``, keep every ``down``-th pixel.

    Args:
        x: [N, C, H, W].
        kernel: [K, K], or the taps [K] of a separable one; a true convolution (flipped).
        up: Zeros are inserted so that the image grows by this factor.
        padding: Pixels before and after, the same in both axes; negative values crop.
        gain: Factor on the result; ``up ** 2`` keeps the brightness of an upsampled image.
        impl: "auto" takes the kernel where it can run, which is built when first needed, and plain
            torch elsewhere; "ref" takes plain torch; "cuda" takes the kernel.
    Returns:
        [N, C, (H·up + sum(padding) − K) // down + 1, likewise W], dtype of x.
    Raises:
        ShapeError: x is not four-dimensional or kernel neither one- nor two-dimensional.
        UsageError: impl is not known; or it is "cuda" and the kernel cannot run.
    Guarantees: twice differentiable; arguments unchanged; channels do not mix.
    """
    if x.ndim != 4 or kernel.ndim not in (1, 2):
        raise ShapeError(
            "x must be [N, C, H, W] and kernel [K, K] or [K],"
            f" got {list(x.shape)}, {list(kernel.shape)}"
        )
    if resampling.build_for(impl, x, kernel, up, down, padding):
        return resampling.upfirdn2d(x, kernel, up=up, down=down, padding=padding, gain=float(gain))
    return upfirdn2d_ref(x, kernel, up=up, down=down, padding=padding, gain=gain)


def upfirdn2d_ref(
    x: Tensor, kernel: Tensor, *, up: int, down: int, padding: tuple[int, int], gain: float
) -> Tensor:
    """Compute ``upfirdn2d`` in plain torch, unchecked: the reference any kernel is held against."""
    axis = _Axis(up, down, padding)
    if kernel.ndim == 1:
        x = _resample(x, (kernel * gain)[None, :], _IDENTITY, axis)
        return _resample(x, kernel[:, None], axis, _IDENTITY)
    return _resample(x, kernel * gain, axis, axis)


class _Axis(NamedTuple):
    """What happens along one axis of the image."""

    up: int
    down: int
    padding: tuple[int, int]


_IDENTITY = _Axis(1, 1, (0, 0))


def _resample(x: Tensor, kernel: Tensor, vertical: _Axis, horizontal: _Axis) -> Tensor:
    kernel = kernel.to(x.dtype)
    if vertical.up == horizontal.up == 1:
        return _filter_down(x, kernel, vertical, horizontal)
    return _up_filter(x, kernel, vertical, horizontal)[:, :, :: vertical.down, :: horizontal.down]


def _depthwise(kernel: Tensor, channels: int) -> Tensor:
    return kernel[None, None].expand(channels, 1, -1, -1)  # [C, 1, K_h, K_w]


def _filter_down(x: Tensor, kernel: Tensor, vertical: _Axis, horizontal: _Axis) -> Tensor:
    weight = _depthwise(kernel.flip([0, 1]), x.shape[1])
    stride = (vertical.down, horizontal.down)
    if (
        vertical.padding[0] == vertical.padding[1] >= 0
        and horizontal.padding[0] == horizontal.padding[1] >= 0
    ):
        padding = (vertical.padding[0], horizontal.padding[0])
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1])
    x = F.pad(x, [*horizontal.padding, *vertical.padding])
    return F.conv2d(x, weight, stride=stride, groups=x.shape[1])


def _up_filter(x: Tensor, kernel: Tensor, vertical: _Axis, horizontal: _Axis) -> Tensor:
    # A transposed convolution never multiplies the inserted zeros. It is the full convolution, that
    # is padding (K - 1, K - up); what the caller asked for differs from that by a crop or zeros.
    stride = (vertical.up, horizontal.up)
    full = F.conv_transpose2d(x, _depthwise(kernel, x.shape[1]), stride=stride, groups=x.shape[1])
    rows, columns = kernel.shape
    crop = [
        horizontal.padding[0] - (columns - 1), horizontal.padding[1] - (columns - horizontal.up),
        vertical.padding[0] - (rows - 1), vertical.padding[1] - (rows - vertical.up),
    ]  # fmt: skip
    return F.pad(full, crop)


def upsample2d(x: Tensor, kernel: Tensor, *, up: int = 2) -> Tensor:
    """Enlarge [N, C, H, W] by ``up`` with ``kernel``; brightness and position stay."""
    size = kernel.shape[0]
    padding = ((size + up - 1) // 2, (size - up) // 2)
    return upfirdn2d(x, kernel, up=up, padding=padding, gain=up**2)


def downsample2d(x: Tensor, kernel: Tensor, *, down: int = 2) -> Tensor:
    """Shrink [N, C, H, W] by ``down`` with ``kernel``; brightness and position stay."""
    size = kernel.shape[0]
    padding = ((size - down + 1) // 2, (size - down) // 2)
    return upfirdn2d(x, kernel, down=down, padding=padding)
