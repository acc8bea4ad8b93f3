"""Convolution fused with the FIR filter that resampling needs."""

from torch import Tensor

from ganc.ops.conv2d import conv2d, conv_transpose2d
from ganc.ops.upfirdn2d import downsample2d, upfirdn2d, upsample2d


def conv2d_up(x: Tensor, weight: Tensor, kernel: Tensor, *, groups: int = 1) -> Tensor:
    """Enlarge by 2 with a transposed convolution, then low-pass filter.

    Args:
        x: [N, C_in, H, W].
        weight: [C_out, C_in / groups, K, K], K odd, applied as a correlation would be on the
            zero-inserted input with the kernel flipped (a plain transposed convolution).
        kernel: FIR filter [F, F] of sum 1.
    Returns:
        [N, C_out, 2 H, 2 W].
    """
    size = weight.shape[-1]
    if size == 1:  # convolve first: the same result, and the filter skips the inserted zeros
        return upsample2d(conv2d(x, weight, groups=groups), kernel)
    x = conv2d_enlarge(x, weight, groups=groups)
    # The transposed convolution gives 2H + K - 2 rows; what remains is centred on the 2H wanted.
    spare = kernel.shape[0] - 1 - (size - 2)
    return upfirdn2d(x, kernel, padding=((spare + 1) // 2, spare // 2), gain=4.0)


def conv2d_enlarge(x: Tensor, weight: Tensor, *, groups: int = 1) -> Tensor:
    """Return what ``conv2d_up`` filters: [N, C_out, 2 H + K - 2, 2 W + K - 2]."""
    out_channels, in_per_group, size, _ = weight.shape
    # conv_transpose2d wants [C_in, C_out / groups, K, K].
    transposed = (
        weight.reshape(groups, out_channels // groups, in_per_group, size, size)
        .transpose(1, 2)
        .reshape(groups * in_per_group, out_channels // groups, size, size)
    )
    return conv_transpose2d(x, transposed, stride=2, groups=groups)


def conv2d_down(x: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    """Low-pass filter, then shrink by 2 with a strided convolution.

    Args:
        x: [N, C_in, H, W].
        weight: [C_out, C_in, K, K], K odd.
        kernel: FIR filter [F, F] of sum 1.
    Returns:
        [N, C_out, H / 2, W / 2].
    """
    size = weight.shape[-1]
    if size == 1:  # decimate first: the same result at a quarter of the multiplications
        return conv2d(downsample2d(x, kernel), weight)
    spare = kernel.shape[0] - 2 + size - 1
    x = upfirdn2d(x, kernel, padding=((spare + 1) // 2, spare // 2))
    return conv2d(x, weight, stride=2)
