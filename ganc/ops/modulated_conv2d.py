"""Weight modulation and demodulation. Source: Karras et al. 2020 (StyleGAN2), Section 2.2."""

from typing import NamedTuple

import torch
from torch import Tensor

from ganc.errors import ShapeError, unknown_name
from ganc.ops.conv2d import conv2d
from ganc.ops.conv2d_resample import conv2d_up

IMPLEMENTATIONS = ("auto", "grouped", "shared")


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    up: int = 1,
    resample_filter: Tensor | None = None,
    padding: int | None = None,
    demodulate: bool = True,
    impl: str = "auto",
) -> Tensor:
    """Modulate, convolve and optionally demodulate a batch of feature maps.

    Scales the input channels of one shared kernel per sample, then rescales each output channel to
    unit expected deviation.

    Args:
        x: Features, [N, C_in, H, W].
        weight: Shared kernel, [C_out, C_in, K, K], K odd.
        styles: Scale per sample and input channel, [N, C_in], near 1 at initialisation.
        up: 1, or 2 to enlarge the image with a transposed convolution.
        resample_filter: FIR filter [F, F] of sum 1, needed where ``up`` is 2.
        padding: Zeros on every side where ``up`` is 1; None takes K // 2, which keeps the size.
        demodulate: Off for torgb.
        impl: "shared" scales activations around one dense convolution; "grouped" gives every
            sample its own kernel; "auto" is "shared": a 32 px training step is 1.8x as fast
            on two cores, and exported weights stay constants. Where no gradient is wanted on
            the CPU, "auto" makes torgb's convolution a product of matrices.
    Returns:
        [N, C_out, H·up, W·up] (other padding: H + 2·padding − K + 1), dtype of x.
    Raises:
        ShapeError: styles disagrees with x on N or with weight on C_in.
    Guarantees: twice differentiable; arguments unchanged; a sample does not depend on its batch.
    """
    if impl not in IMPLEMENTATIONS:
        raise unknown_name("impl", impl, IMPLEMENTATIONS)
    check_styles(x, weight, styles)
    how = _How(up, resample_filter, weight.shape[-1] // 2 if padding is None else padding)
    is_plain = impl == "auto" and not demodulate and how.up == 1 and how.padding == 0
    if is_plain and weight.shape[-1] == 1 and is_cpu_inference(x, styles):
        return _projection(x, weight, styles)
    convolve = _grouped if impl == "grouped" else _shared
    return convolve(x, weight, styles, how, demodulate)


def check_styles(x: Tensor, weight: Tensor, styles: Tensor) -> None:
    """Raise ShapeError unless styles has a row per sample and a column per input channel."""
    if styles.shape != (x.shape[0], weight.shape[1]):
        raise ShapeError(
            f"styles must be [{x.shape[0]}, {weight.shape[1]}], got {list(styles.shape)}"
        )


def is_cpu_inference(x: Tensor, styles: Tensor) -> bool:
    """Say whether a layer may go the way that is chosen for speed on the CPU alone.

    No derivative follows, nothing traces or maps the call, and the arithmetic is float32's: what
    is trained, exported or compiled stays the plain composition.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch._C._functorch.is_functorch_wrapped_tensor(styles)
    )


def demodulation_coefficients(weight: Tensor, styles: Tensor) -> Tensor:
    """Return the inverse norm of each sample's modulated output filters: [N, C_out]."""
    energy = weight.square().sum(dim=(2, 3))  # [C_out, C_in]
    return (styles.square() @ energy.t() + 1e-8).rsqrt()


class _How(NamedTuple):
    up: int
    kernel: Tensor | None
    padding: int


def _convolve(x: Tensor, weight: Tensor, how: _How, groups: int = 1) -> Tensor:
    if how.up == 1:
        return conv2d(x, weight, padding=how.padding, groups=groups)
    if how.kernel is None:
        raise ShapeError("resample_filter must be given where up is 2")
    return conv2d_up(x, weight, how.kernel, groups=groups)


def _shared(x: Tensor, weight: Tensor, styles: Tensor, how: _How, demodulate: bool) -> Tensor:
    x = _convolve(x * styles[:, :, None, None].to(x.dtype), weight.to(x.dtype), how)
    if demodulate:
        x = x * demodulation_coefficients(weight, styles)[:, :, None, None].to(x.dtype)
    return x


def _grouped(x: Tensor, weight: Tensor, styles: Tensor, how: _How, demodulate: bool) -> Tensor:
    batch, out_channels = x.shape[0], weight.shape[0]
    kernels = weight[None] * styles[:, None, :, None, None]  # [N, C_out, C_in, K, K]
    if demodulate:
        kernels = kernels * demodulation_coefficients(weight, styles)[:, :, None, None, None]
    x = x.reshape(1, -1, *x.shape[2:])
    x = _convolve(x, kernels.flatten(0, 1).to(x.dtype), how, groups=batch)
    return x.reshape(batch, out_channels, *x.shape[2:])


def _projection(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """Convolve with a 1x1 kernel of each sample's own: one product of matrices, one pass over x.

    In channels_last it takes 3 ms at 128 x 256 x 256, where scaling and convolving takes 22; in
    NCHW the product would take 100.
    """
    if not x.is_contiguous(memory_format=torch.channels_last):
        return _shared(x, weight, styles, _How(1, None, 0), demodulate=False)
    kernels = weight.flatten(1) * styles[:, None, :]  # [N, C_out, C_in]
    pixels = x.flatten(2).transpose(1, 2)  # [N, H * W, C_in], a view
    return (pixels @ kernels.transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
