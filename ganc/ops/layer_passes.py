"""What follows a layer's convolution on the CPU, compiled: one pass over the features, not five.

``ganc doctor --build`` compiles it; where that was done, inference takes it. The twins in plain
torch are in ``modulated_layer``.
"""

import functools

import torch
from torch import Tensor

from ganc.ops import extension
from ganc.ops.bias_act import ACTIVATIONS

TAPS = 4
"""Of the filters that are compiled; all that StyleGAN2 and its descendants use have as many."""


def are_there() -> bool:
    """Load the operators if they were built for the CPU; say whether they can be used."""
    return extension.cpu_obstacle() is None and _register()


def takes(kernel: Tensor) -> bool:
    """Say whether a filter is compiled."""
    return kernel.shape == (TAPS, TAPS) and kernel.dtype == torch.float32


def finish_layer(
    x: Tensor,
    kernel: Tensor | None,
    scales: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    clamp: float | None,
    out: Tensor | None = None,
) -> Tensor:
    """Filter, scale, add noise and bias, activate with leaky ReLU, clamp.

    Args:
        x: What a convolution made, float32, [N, C, H, W], or [N, C, H + 1, W + 1] where it is
            filtered; it is lost: the result takes its memory where it can.
        kernel: FIR filter [4, 4] of sum 1, an outer product; brightness is kept, so it multiplies
            by 4. None for none.
        scales: Factor per sample and channel, [N, C].
        noise: Broadcasts to [N, 1, H, W], or None.
        bias: [C].
        clamp: Limit of the absolute activation, None for none.
        out: Where the result goes, in the layout of x; None takes x or makes it.
    Returns:
        [N, C, H, W] in the layout of x.
    """
    if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        x = x.contiguous()
    out = _place(x, kernel is not None) if out is None else out
    lrelu = ACTIVATIONS["lrelu"]
    torch.ops.ganc.finish_layer(x, out, kernel, scales, noise, bias, lrelu.alpha, lrelu.gain, clamp)
    return out


def add_upsampled(image: Tensor, small: Tensor, kernel: Tensor) -> Tensor:
    """Add an image of half the size to one, which is lost: float32, [N, C, H, W], contiguous."""
    image = image.contiguous()
    torch.ops.ganc.add_upsampled(image, small.contiguous(), kernel)
    return image


def _place(x: Tensor, is_filtered: bool) -> Tensor:
    """Return where the result goes: fresh memory costs more than the arithmetic."""
    if not is_filtered:
        return x
    samples, channels, height, width = x.shape[0], x.shape[1], x.shape[2] - 1, x.shape[3] - 1
    shape = (samples, channels, height, width)
    if x.is_contiguous():
        return x.new_empty(shape)
    strides = (channels * height * width, 1, width * channels, channels)
    if samples == 1:
        return x.as_strided(shape, strides)
    return x.new_empty_strided(shape, strides)


@functools.cache
def _register() -> bool:
    """Tell torch that the operators give nothing but what they write."""
    for name in ("finish_layer", "add_upsampled"):
        torch.library.register_fake(f"ganc::{name}", _nothing)
    return True


def _nothing(*args: object) -> None:
    return None
