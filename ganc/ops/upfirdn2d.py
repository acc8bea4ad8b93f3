"""Upsample, filter with a small FIR kernel, downsample.

Source: Karras et al. 2020 (StyleGAN2), Section 4 and Appendix B: all resampling in the network is
zero insertion or decimation with one low-pass filter.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.errors import ShapeError


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
) -> Tensor:
    """Insert zeros, pad, convolve every channel with ``kernel``, keep every ``down``-th pixel.

    Args:
        x: [N, C, H, W].
        kernel: [K_h, K_w], applied as a true convolution (flipped).
        up: Zeros are inserted so that the image grows by this factor.
        padding: Pixels before and after, the same in both axes; negative values crop.
        gain: Factor on the result; ``up ** 2`` keeps the brightness of an upsampled image.
    Returns:
        [N, C, (H·up + sum(padding) − K_h) // down + 1, likewise W], dtype of x.
    Raises:
        ShapeError: x is not four-dimensional or kernel not two-dimensional.
    Guarantees: twice differentiable; arguments unchanged; channels do not mix.
    """
    if x.ndim != 4 or kernel.ndim != 2:
        raise ShapeError(
            f"x must be [N, C, H, W] and kernel [K, K], got {list(x.shape)}, {list(kernel.shape)}"
        )
    kernel = (kernel * gain).to(x.dtype)
    if up == 1:
        return _filter_down(x, kernel, down, padding)
    return _up_filter(x, kernel, up, padding)[:, :, ::down, ::down]


def _depthwise(kernel: Tensor, channels: int) -> Tensor:
    return kernel[None, None].expand(channels, 1, -1, -1)  # [C, 1, K, K]


def _filter_down(x: Tensor, kernel: Tensor, down: int, padding: tuple[int, int]) -> Tensor:
    weight = _depthwise(kernel.flip([0, 1]), x.shape[1])
    before, after = padding
    if before == after >= 0:
        return F.conv2d(x, weight, stride=down, padding=before, groups=x.shape[1])
    x = F.pad(x, [before, after, before, after])
    return F.conv2d(x, weight, stride=down, groups=x.shape[1])


def _up_filter(x: Tensor, kernel: Tensor, up: int, padding: tuple[int, int]) -> Tensor:
    # A transposed convolution never multiplies the inserted zeros. It is the full convolution, that
    # is padding (K - 1, K - up); what the caller asked for differs from that by a crop or zeros.
    full = F.conv_transpose2d(x, _depthwise(kernel, x.shape[1]), stride=up, groups=x.shape[1])
    (before, after), (rows, columns) = padding, kernel.shape
    crop = [
        before - (columns - 1), after - (columns - up),
        before - (rows - 1), after - (rows - up),
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
