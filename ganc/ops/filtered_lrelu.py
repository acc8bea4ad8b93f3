"""Leaky ReLU between an upsampling and a downsampling low-pass filter.

Source: Karras et al. 2021, "Alias-Free Generative Adversarial Networks", Section 3.2
(filtered nonlinearities): a pointwise nonlinearity creates frequencies that the grid cannot hold,
so it is applied on a finer grid and the result is filtered before it returns. Where no gradient is
wanted on the CPU, the fine grid only ever exists as tiles that stay in the cache; on CUDA, a
compiled operator keeps it in registers.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.ops import compiled_filtered_lrelu
from ganc.ops.bias_act import ACTIVATIONS, bias_act
from ganc.ops.modulated_conv2d import is_cpu_inference
from ganc.ops.upfirdn2d import upfirdn2d

# Measured on a Zen 4 core over the layers of StyleGAN3-T at 256 px (8, 12, 16, 20 and 24 tried):
# smaller tiles compute more of the fine grid twice, larger ones leave the cache.
TILE = 16
"""Rows and columns of the result that a tile makes."""

TILED_FEATURES = 2**18
"""Features of a sample on the fine grid from which tiles pay for their many small calls."""


def filtered_lrelu(
    x: Tensor,
    bias: Tensor,
    up_filter: Tensor,
    down_filter: Tensor,
    *,
    up: int,
    down: int,
    padding: tuple[int, int],
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Add the bias, upsample, apply leaky ReLU (slope 0.2, gain √2, clamp), downsample.

    Args:
        x: Features, [N, C, H, W].
        bias: [C].
        up_filter, down_filter: Taps [K] of a separable filter, or [K, K].
        up, down: Factors.
        padding: Pixels on the fine grid before and after, the same in both axes; negative crops.
        clamp: Limit of the absolute activation on the fine grid; None for none.
        impl: "auto" takes the kernel where it can run, which is built when first needed, and plain
            torch elsewhere; "ref" takes plain torch; "cuda" takes the kernel.
    Returns:
        [N, C, (H·up + sum(padding) − K_up − K_down + 2 − 1) // down + 1, likewise W], dtype of x;
        in the memory format of x on CUDA; channels_last where the fine grid is large, both filters
        are separable and no gradient is wanted on the CPU.
    Raises:
        ShapeError: bias or a filter is of another shape.
        UsageError: impl is not known; or it is "cuda" and the kernel cannot run.
    Guarantees: twice differentiable; arguments unchanged; a sample does not depend on its batch.
    """
    if compiled_filtered_lrelu.build_for(impl, x, bias, up_filter, down_filter, up, down, padding):
        lrelu = ACTIVATIONS["lrelu"]
        return compiled_filtered_lrelu.filtered_lrelu(
            x, bias, up_filter, down_filter, up, down, padding, lrelu.alpha, lrelu.gain, clamp
        )
    how = _Resampling(up_filter, down_filter, up, down, padding)
    x = bias_act(x, bias, impl=impl)
    if is_cpu_inference(x, bias) and _takes_tiles(x, how):
        return _in_tiles(x, how, clamp)
    x = upfirdn2d(x, up_filter, up=up, padding=padding, gain=up**2, impl=impl)
    x = bias_act(x, act="lrelu", clamp=clamp, impl=impl)
    return upfirdn2d(x, down_filter, down=down, impl=impl)


class _Resampling(NamedTuple):
    """What happens along each axis of the image, around the nonlinearity."""

    up_filter: Tensor
    down_filter: Tensor
    up: int
    down: int
    padding: tuple[int, int]


def _takes_tiles(x: Tensor, how: _Resampling) -> bool:
    """Say whether tiles can be made of a sample, and are quicker; the batch has no say in it."""
    if x.ndim != 4 or how.up_filter.ndim != 1 or how.down_filter.ndim != 1:
        return False
    grown = sum(how.padding) - len(how.up_filter) + 1
    height, width = (side * how.up + grown for side in x.shape[2:])
    return x.shape[1] * height * width >= TILED_FEATURES


class _Tile(NamedTuple):
    """A stretch of one axis of the result, and the products of matrices that lead there.

    Attributes:
        made, read: Where it lies in the result and in the input.
        up: [F, len(read)]: the input on the fine grid.
        down: [len(made), F]: the fine grid on the result's.
    """

    made: slice
    read: slice
    up: Tensor
    down: Tensor


def _tiles(size: int, how: _Resampling) -> list[_Tile]:
    """Cut the result along an axis on which the input has ``size`` pixels."""
    up = _matrix(how.up_filter * how.up, size, how.up, 1, how.padding)
    down = _matrix(how.down_filter, len(up), 1, how.down, (0, 0))
    tiles = []
    for start in range(0, len(down), TILE):
        made = slice(start, min(start + TILE, len(down)))
        fine = slice(start * how.down, (made.stop - 1) * how.down + len(how.down_filter))
        # The input pixel i meets the fine pixels i·up + pad − (K − 1) to i·up + pad.
        first = -((how.padding[0] - fine.start) // how.up)
        last = (fine.stop - 1 + len(how.up_filter) - 1 - how.padding[0]) // how.up
        read = slice(max(first, 0), max(min(last + 1, size), 0))
        tiles.append(_Tile(made, read, up[fine, read], down[made, fine]))
    return tiles


def _matrix(
    taps: Tensor, size: int, up: int, down: int, padding: tuple[int, int]
) -> Tensor:  # [out, size]
    """Return what ``upfirdn2d`` does along one axis: a banded matrix."""
    out = (size * up + sum(padding) - len(taps)) // down + 1
    # The true convolution reads the taps backwards; inserted zeros have no column.
    at = torch.arange(size) * up + padding[0] - torch.arange(out)[:, None] * down
    inside = (at >= 0) & (at < len(taps))
    return torch.where(inside, taps.flip(0)[at.clamp(0, len(taps) - 1)], 0.0)


def _in_tiles(x: Tensor, how: _Resampling, clamp: float | None) -> Tensor:
    """Compute the result sample by sample and tile by tile, in channels_last."""
    rows, columns = _tiles(x.shape[2], how), _tiles(x.shape[3], how)
    shape = (len(x), x.shape[1], rows[-1].made.stop, columns[-1].made.stop)
    out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    for source, made in zip(x.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1), strict=True):
        source = source.contiguous()  # [H, W, C]
        for row in rows:
            strip = _along_rows(row.up, source[row.read])
            for column in columns:
                fine = column.up @ strip[:, column.read]  # [F, F, C]
                fine = _along_rows(row.down, _activate(fine, clamp))
                made[row.made, column.made] = column.down @ fine
    return out


def _along_rows(matrix: Tensor, x: Tensor) -> Tensor:
    """Combine the rows of [H, W, C]: the matrix [R, H] gives [R, W, C]."""
    return (matrix @ x.flatten(1)).unflatten(1, x.shape[1:])


def _activate(x: Tensor, clamp: float | None) -> Tensor:
    F.leaky_relu_(x, ACTIVATIONS["lrelu"].alpha).mul_(ACTIVATIONS["lrelu"].gain)
    return x if clamp is None else x.clamp_(-clamp, clamp)
