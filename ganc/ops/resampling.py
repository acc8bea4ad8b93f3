"""``upfirdn2d`` as one operator that autograd, torch.compile and torch.export see through.

Its derivative is the operator itself: up and down swapped, the filter flipped.
"""

import functools
import logging
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ganc.ops import extension
from ganc.ops.operators import Operators, memory_format

MIN_CAPABILITY = (8, 0)
"""The oldest GPUs that Triton is made for."""

_log = logging.getLogger("ganc")


def build_for(
    impl: str, x: Tensor, kernel: Tensor, up: int, down: int, padding: tuple[int, int]
) -> bool:
    """Build the operator if a call is for it; see ``Operators.build_for``."""
    return OPERATORS.build_for(impl, _unfit(x, kernel, up, down, padding), x)


def _unfit(x: Tensor, kernel: Tensor, up: int, down: int, padding: tuple[int, int]) -> str | None:
    """Return what the operator does not take; None if it takes all."""
    if kernel.requires_grad or not kernel.is_floating_point() or kernel.numel() == 0:
        return "kernel must be constant, of a floating type, and have taps"
    if kernel.device != x.device:
        return "kernel must be on x's device"
    if min(_size(x, kernel, up, down, padding)) < 1:
        return "x must be larger"  # in "auto" plain torch says so
    is_mapped = torch._C._functorch.is_functorch_wrapped_tensor
    if not torch.compiler.is_compiling() and is_mapped(kernel):
        return "torch.func maps kernel"
    return None


def build_or_warn(device_type: str) -> bool:
    """Start Triton, which builds its helper; say whether it works, and log why not."""
    reason = build_obstacle()
    if reason not in (None, extension.OFF):
        _log.warning("warning: no Triton kernels, plain torch instead: %s", reason)
    return reason is None


def state(device_type: str) -> str:
    """Say in one line what resamples on a kind of device, and why."""
    if device_type != extension.CUDA:
        return "plain torch; the Triton kernels are for CUDA"
    reason = build_obstacle()
    return "Triton kernels" if reason is None else f"plain torch; {reason}"


def build_obstacle() -> str | None:
    """Start Triton; return what keeps the kernels from the GPUs here, None if they work.

    Triton compiles its own helper with a C compiler when it first looks at a GPU.
    """
    if extension.is_off():
        return extension.OFF
    try:
        import triton

        triton.runtime.driver.active.get_current_target()
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"Triton does not work here: {error}"
    found = min(map(torch.cuda.get_device_capability, range(torch.cuda.device_count())))
    if found < MIN_CAPABILITY:
        return f"Triton takes GPUs from sm_80 on, found sm_{found[0]}{found[1]}"
    return None


def upfirdn2d(
    x: Tensor, kernel: Tensor, *, up: int, down: int, padding: tuple[int, int], gain: float
) -> Tensor:
    """Call the operator; see ``ganc.ops.upfirdn2d`` for the arguments, none of which is checked."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(x.device.type))  # as a convolution would
    run: Callable[..., Tensor] = torch.ops.ganc.upfirdn2d
    height, width = _size(x, kernel, up, down, padding)
    start = padding[0]
    if kernel.ndim == 2:
        size = (height, width)
        return run(x, kernel, (up, up), (down, down), (start, start), size, False, gain)
    along_rows = (kernel[None], (1, up), (1, down), (0, start))
    across_rows = (kernel[:, None], (up, 1), (down, 1), (start, 0))
    # Along rows is the slower pass of the two: it gets the smaller image.
    if up >= down:
        x = run(x, *along_rows, (x.shape[2], width), False, gain)
        return run(x, *across_rows, (height, width), False, 1.0)
    x = run(x, *across_rows, (height, x.shape[3]), False, gain)
    return run(x, *along_rows, (height, width), False, 1.0)


def _size(x: Tensor, kernel: Tensor, up: int, down: int, padding: tuple[int, int]) -> list[int]:
    """Return the height and width of the result."""
    taps = (kernel.shape[0], kernel.shape[-1])
    return [
        (side * up + sum(padding) - k) // down + 1
        for side, k in zip(x.shape[2:], taps, strict=True)
    ]


@functools.cache
def register() -> torch.library.Library:
    """Tell torch the operator, what it gives and how it is differentiated.

    Its arguments, rows before columns: x [N, C, H, W]; taps [K_h, K_w]; factors up and down; pixels
    of padding before the first; height and width of the result, which say what comes after the
    last; whether the taps lie as in a correlation; a factor on the result.
    """
    from ganc.ops.upfirdn2d_triton import launch

    library = torch.library.Library("ganc", "FRAGMENT")
    library.define(
        "upfirdn2d(Tensor x, Tensor taps, int[2] up, int[2] down, SymInt[2] before,"
        " SymInt[2] size, bool flip, float gain) -> Tensor"
    )
    library.impl("upfirdn2d", launch, "CUDA")
    torch.library.register_fake("ganc::upfirdn2d", _fake, lib=library)
    torch.library.register_autograd("ganc::upfirdn2d", _backward, setup_context=_save, lib=library)
    return library


OPERATORS = Operators("upfirdn2d", register, build_or_warn, lambda device_type: build_obstacle())


def _fake(x: Tensor, taps: Tensor, up: Any, down: Any, before: Any, size: Sequence[int],
          flip: bool, gain: float) -> Tensor:  # fmt: skip
    return torch.empty(
        (*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=memory_format(x)
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, taps, *ctx.rule = inputs
    ctx.size = x.shape[2:]
    ctx.save_for_backward(taps)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (taps,) = ctx.saved_tensors
    up, down, before, _, flip, gain = ctx.rule
    mirrored = [k - 1 - b for k, b in zip(taps.shape, before, strict=True)]
    dx = torch.ops.ganc.upfirdn2d(dy, taps, down, up, mirrored, ctx.size, not flip, gain)
    return dx, None, None, None, None, None, None, None
