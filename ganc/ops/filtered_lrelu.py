"""Leaky ReLU between an upsampling and a downsampling low-pass filter.

Source: Karras et al. 2021, "Alias-Free Generative Adversarial Networks", Section 3.2
(filtered nonlinearities): a pointwise nonlinearity creates frequencies that the grid cannot hold,
so it is applied on a finer grid and the result is filtered before it returns.
"""

from torch import Tensor

from ganc.ops.bias_act import bias_act
from ganc.ops.upfirdn2d import upfirdn2d


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
) -> Tensor:
    """Add the bias, upsample, apply leaky ReLU (slope 0.2, gain √2, clamp), downsample.

    Args:
        x: Features, [N, C, H, W].
        bias: [C].
        up_filter, down_filter: Taps [K] of a separable filter, or [K, K].
        up, down: Factors.
        padding: Pixels on the fine grid before and after, the same in both axes; negative crops.
        clamp: Limit of the absolute activation on the fine grid; None for none.
    Returns:
        [N, C, (H·up + sum(padding) − K_up − K_down + 2 − 1) // down + 1, likewise W], dtype of x.
    Raises:
        ShapeError: bias or a filter is of another shape.
    Guarantees: twice differentiable; arguments unchanged; a sample does not depend on its batch.
    """
    x = bias_act(x, bias)
    x = upfirdn2d(x, up_filter, up=up, padding=padding, gain=up**2)
    x = bias_act(x, act="lrelu", clamp=clamp)
    return upfirdn2d(x, down_filter, down=down)
