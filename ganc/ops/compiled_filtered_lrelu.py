"""``filtered_lrelu`` as compiled operators that autograd and torch.compile see through.

The operators: the function, its derivative, and the derivative's own in the gradient that it takes,
which is the function's tangent: leaky ReLU is made of straight lines, so that nothing else has a
second derivative. The fine grid is never in memory: the derivatives compute again from x which of
its pixels were positive.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from ganc.ops.operators import Operators

MAX_TAPS = 32
FACTORS = (1, 2, 4)


def build_for(
    impl: str,
    x: Tensor,
    bias: Tensor,
    up_filter: Tensor,
    down_filter: Tensor,
    up: int,
    down: int,
    padding: tuple[int, int],
) -> bool:
    """Build the operators if a call is for them; see ``Operators.build_for``."""
    unfit = _unfit(x, bias, (up_filter, down_filter), (up, down), padding)
    return OPERATORS.build_for(impl, unfit, x, bias)


def _unfit(
    x: Tensor,
    bias: Tensor,
    filters: tuple[Tensor, Tensor],
    factors: tuple[int, int],
    padding: tuple[int, int],
) -> str | None:
    """Return what the operators do not take; None if they take all."""
    if x.ndim != 4 or bias.shape != x.shape[1:2]:
        return "x must be [N, C, H, W] and bias [C]"
    if any(factor not in FACTORS for factor in factors):
        return f"up and down must be in {FACTORS}, got {factors}"
    if any(f.ndim != 1 or len(f) > MAX_TAPS for f in filters):
        return f"filters must be separable, of at most {MAX_TAPS} taps"
    if any(f.requires_grad or f.device != x.device for f in filters):
        return "filters must be constant, and on x's device"
    lost = len(filters[0]) - 1 - sum(padding)
    is_large = all(side * factors[0] - lost >= len(filters[1]) for side in x.shape[2:])
    return None if is_large else "x must be larger"


def filtered_lrelu(
    x: Tensor,
    bias: Tensor,
    up_filter: Tensor,
    down_filter: Tensor,
    up: int,
    down: int,
    padding: tuple[int, int],
    slope: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """Call the operator; see ``ganc.ops.filtered_lrelu`` for the arguments, none is checked.

    Returns:
        In the memory format of x. The kernels work plane by plane: channels_last is copied.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        lowered = torch.get_autocast_dtype(device)  # as the composition's convolutions do
        x, bias = x.to(lowered), bias.to(lowered)
    result: Tensor = torch.ops.ganc.filtered_lrelu(
        x, bias, up_filter, down_filter, up, down, *padding, slope, gain, clamp
    )
    return result


@functools.cache
def register() -> None:
    """Tell torch what the loaded operators give and how they are differentiated."""
    torch.library.register_fake("ganc::filtered_lrelu", _fake)
    torch.library.register_fake("ganc::filtered_lrelu_grad", _fake_grad)
    torch.library.register_fake("ganc::filtered_lrelu_tangent", _fake_tangent)
    for name, backward in (("", _backward), ("_grad", _backward_grad), ("_tangent", _to_grad)):
        save = _save if name == "" else _save_second
        torch.library.register_autograd(f"ganc::filtered_lrelu{name}", backward, setup_context=save)


OPERATORS = Operators("filtered_lrelu", register)


def _empty(x: Tensor, sides: list[Any]) -> Tensor:
    is_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    shape = [*x.shape[:2], *sides]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _fake(
    x: Tensor, bias: Tensor, up_filter: Tensor, down_filter: Tensor, up: int, down: int,
    pad0: int, pad1: int, *rule: Any,
) -> Tensor:  # fmt: skip
    lost = len(up_filter) + len(down_filter) - 1 - pad0 - pad1
    return _empty(x, [(side * up - lost) // down + 1 for side in x.shape[2:]])


def _fake_grad(dy: Tensor, x: Tensor, *others: Any) -> Tensor:
    return _empty(x, list(x.shape[2:]))


def _fake_tangent(ddx: Tensor, x: Tensor, *others: Any) -> Tensor:
    return _fake(x, *others)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.rule = inputs[4:]


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx = torch.ops.ganc.filtered_lrelu_grad(dy, *ctx.saved_tensors, *ctx.rule)
    db = dx.sum(dim=(0, 2, 3)) if ctx.needs_input_grad[1] else None
    return dx, db, *(None,) * 9


def _save_second(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _save(ctx, inputs[1:], output)  # both are linear in what comes first


def _backward_grad(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    to_dy = torch.ops.ganc.filtered_lrelu_tangent(ddx, *ctx.saved_tensors, *ctx.rule)
    return to_dy, *(None,) * 11


def _to_grad(ctx: Any, ddy: Tensor) -> tuple[Tensor | None, ...]:
    to_ddx = torch.ops.ganc.filtered_lrelu_grad(ddy, *ctx.saved_tensors, *ctx.rule)
    return to_ddx, *(None,) * 11
