"""One layer of a style-based synthesis network: modulated convolution, noise, bias, leaky ReLU.

Source: Karras et al. 2020 (StyleGAN2), Section 2.2. The layer is ``modulated_conv2d`` and
``bias_act``; where no gradient is wanted on the CPU the same numbers come with less traffic, and
with least where the operators of ``layer_passes`` were built.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.ops import layer_passes
from ganc.ops.bias_act import ACTIVATIONS, bias_act
from ganc.ops.conv2d_resample import conv2d_enlarge, conv2d_up
from ganc.ops.modulated_conv2d import (
    check_styles,
    demodulation_coefficients,
    is_cpu_inference,
    modulated_conv2d,
)
from ganc.ops.upfirdn2d import upsample2d

# Which way is quicker was measured on two Zen 4 cores. To scale features is a pass over what a
# convolution reads, which allocates, and one over what it makes; to scale kernels is a pass over
# them, and they are laid out anew for every sample. Narrow convolutions are up to 1.5x as fast in
# channels_last as in NCHW and a 4x4 filter 2 to 7x; at 512 channels torch spends on reordering the
# kernel (3 ms) what the layout saves.
OWN_KERNEL_RATIO = 3
"""Features per kernel element from which a sample gets its own kernel."""

OWN_KERNEL_FEATURES = 2**19
"""Features of a sample from which a convolution per sample costs no more than one for the batch."""


class Layer(NamedTuple):
    """What a layer does to any features.

    Attributes:
        weight: Shared kernel, [C_out, C_in, K, K], K odd.
        bias: [C_out].
        up: 1, or 2 to enlarge the image.
        resample_filter: FIR filter [F, F] of sum 1, an outer product, read where ``up`` is 2.
        clamp: Limit of the absolute activation, None for none.
    """

    weight: Tensor
    bias: Tensor
    up: int
    resample_filter: Tensor
    clamp: float | None


def modulated_layer(x: Tensor, styles: Tensor, noise: Tensor | None, layer: Layer) -> Tensor:
    """Modulate, convolve, demodulate, add noise and bias, activate.

    Args:
        x: Features, [N, C_in, H, W].
        styles: Scale per sample and input channel, [N, C_in].
        noise: Scaled noise that broadcasts to [N, 1, H·up, W·up], or None.
        layer: The rest.
    Returns:
        [N, C_out, H·up, W·up]; channels_last where every sample gets its own kernel, which large
        features do where no gradient is wanted on the CPU.
    Raises:
        ShapeError: styles disagrees with x on N or with the weight on C_in.
    Guarantees: twice differentiable; arguments unchanged; a sample does not depend on its batch.
    """
    check_styles(x, layer.weight, styles)
    if is_cpu_inference(x, styles):
        return _infer(x, styles, noise, layer)
    x = modulated_conv2d(
        x, layer.weight, styles, up=layer.up, resample_filter=layer.resample_filter
    )
    if noise is not None:
        x = x + noise.to(x.dtype)
    return bias_act(x, layer.bias.to(x.dtype), act="lrelu", clamp=layer.clamp)


def add_upsampled(image: Tensor, small: Tensor, resample_filter: Tensor) -> Tensor:
    """Add the image so far, enlarged by 2, to what a layer draws.

    Args:
        image: [N, C, 2 H, 2 W]; where no gradient is wanted on the CPU it may be changed.
        small: [N, C, H, W].
        resample_filter: FIR filter [F, F] of sum 1, an outer product.
    """
    if (
        is_cpu_inference(image, small)
        and layer_passes.are_there()
        and layer_passes.takes(resample_filter)
    ):
        return layer_passes.add_upsampled(image, small, resample_filter)
    return upsample2d(small, resample_filter) + image


def _infer(x: Tensor, styles: Tensor, noise: Tensor | None, layer: Layer) -> Tensor:
    """Compute the layer in few passes over the features, most of them in place.

    A pass that allocates costs ten times one in place as soon as the system hands out the pages
    anew (32 MiB). In plain torch scaled features give what the composition gives, to the bit.
    """
    scales = demodulation_coefficients(layer.weight, styles)  # [N, C_out]
    if _takes_own_kernels(x, layer):
        return _own_kernels(x, styles, scales, noise, layer)
    x = x * styles[:, :, None, None]
    if layer_passes.are_there():
        return _run_compiled(x, layer.weight, scales, noise, layer)
    x = _convolve(x, layer.weight, layer)
    return _finish(x.mul_(scales[:, :, None, None]), noise, layer)


def _takes_own_kernels(x: Tensor, layer: Layer) -> bool:
    """Say whether scaling kernels beats scaling features; the batch has no say in it."""
    out_channels, in_channels = layer.weight.shape[:2]
    features = (in_channels + out_channels * layer.up**2) * x.shape[2] * x.shape[3]
    return features >= max(OWN_KERNEL_FEATURES, OWN_KERNEL_RATIO * layer.weight.numel())


def _own_kernels(
    x: Tensor, styles: Tensor, scales: Tensor, noise: Tensor | None, layer: Layer
) -> Tensor:
    """Run sample by sample, each with its own kernel, in channels_last."""
    x = x.contiguous(memory_format=torch.channels_last)
    maps = None if noise is None else noise.expand(len(x), 1, -1, -1)

    def run(i: int, out: Tensor | None = None) -> Tensor:
        one, own = x[i : i + 1], None if maps is None else maps[i : i + 1]
        if layer_passes.are_there():
            kernel = layer.weight * styles[i, :, None, None]
            return _run_compiled(one, kernel, scales[i : i + 1], own, layer, out)
        kernel = layer.weight * scales[i, :, None, None, None] * styles[i, :, None, None]
        made = _finish(_convolve(one, kernel, layer), own, layer)
        return made if out is None else out.copy_(made)

    if len(x) == 1:
        return run(0)
    shape = (len(x), len(layer.bias), *(layer.up * side for side in x.shape[2:]))
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for i in range(len(x)):
        run(i, out[i : i + 1])
    return out


def _run_compiled(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    noise: Tensor | None,
    layer: Layer,
    out: Tensor | None = None,
) -> Tensor:
    """Convolve, then do all that follows in one pass; ``out``, if given, takes the result."""
    kernel = None
    if layer.up == 2 and weight.shape[-1] == 3 and layer_passes.takes(layer.resample_filter):
        kernel = layer.resample_filter
        x = conv2d_enlarge(x, weight)
    else:
        x = _convolve(x, weight, layer)
    return layer_passes.finish_layer(x, kernel, scales, noise, layer.bias, layer.clamp, out)


def _convolve(x: Tensor, weight: Tensor, layer: Layer) -> Tensor:
    if layer.up == 2:
        return conv2d_up(x, weight, layer.resample_filter)
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


def _finish(x: Tensor, noise: Tensor | None, layer: Layer) -> Tensor:
    """Add noise and bias and activate, in place."""
    if noise is not None:
        x.add_(noise)
    x.add_(layer.bias[:, None, None])
    F.leaky_relu_(x, ACTIVATIONS["lrelu"].alpha).mul_(ACTIVATIONS["lrelu"].gain)
    return x if layer.clamp is None else x.clamp_(-layer.clamp, layer.clamp)
