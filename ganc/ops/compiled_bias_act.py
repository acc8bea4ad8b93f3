"""``bias_act`` as compiled operators that autograd, torch.compile and torch.export see through.

The operators: the function, its derivative (alone, or with its sum per channel, which is what the
bias gets), and the derivative's own. Activations made of straight lines save their output for the
backward pass, which the next layer keeps anyway; the others save their input.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from ganc.ops.operators import Operators

STRAIGHT = ("linear", "relu", "lrelu")
"""Activations whose slope shows in their output, and whose second derivative is zero."""


def build_for(impl: str, x: Tensor, bias: Tensor | None, alpha: float) -> bool:
    """Build the operators if a call is for them; see ``Operators.build_for``."""
    unfit = None
    if alpha < 0:
        unfit = f"alpha must be 0 or more, got {alpha}"
    elif x.ndim == 0:
        unfit = "x must have a dimension"
    others = () if bias is None else (bias,)
    return OPERATORS.build_for(impl, unfit, x, *others)


def bias_act(
    x: Tensor,
    bias: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """Call the operator; see ``ganc.ops.bias_act`` for the arguments, none of which is checked."""
    own = None if bias is None else bias.contiguous()
    result: Tensor = torch.ops.ganc.bias_act(x, own, dim % x.ndim, act, alpha, gain, clamp)
    return result


@functools.cache
def register() -> None:
    """Tell torch what the loaded operators give and how they are differentiated."""
    for name in ("bias_act", "bias_act_grad", "bias_act_grad_grad"):
        torch.library.register_fake(f"ganc::{name}", _fake)
    torch.library.register_fake("ganc::bias_act_grads", _fake_grads)
    torch.library.register_autograd("ganc::bias_act", _backward, setup_context=_save)
    torch.library.register_autograd("ganc::bias_act_grad", _backward_grad, setup_context=_save_grad)
    torch.library.register_autograd(
        "ganc::bias_act_grads", _backward_grads, setup_context=_save_grads
    )


OPERATORS = Operators("bias_act", register)


def _fake(first: Tensor, *others: Any) -> Tensor:
    # A result has the layout of the tensor that is walked: x, or what derivatives call ref.
    tensors = [first, *(other for other in others if isinstance(other, Tensor) and other.ndim > 1)]
    walked = tensors[-1] if tensors[-1].shape == first.shape else first
    return torch.empty_like(walked)


def _fake_grads(dy: Tensor, ref: Tensor, bias: Tensor | None, dim: int, *rule: Any) -> Any:
    return _fake(dy, ref), ref.new_empty(ref.shape[dim])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, *ctx.rule = inputs
    act = ctx.rule[1]
    ctx.save_for_backward(*((output, None) if act in STRAIGHT else (x, bias)))


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    ref, bias = ctx.saved_tensors
    db = None
    if ctx.needs_input_grad[1]:
        dx, db = torch.ops.ganc.bias_act_grads(dy, ref, bias, *ctx.rule)
    else:
        dx = torch.ops.ganc.bias_act_grad(dy, ref, bias, *ctx.rule)
    return dx, db, None, None, None, None, None


def _save_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, ref, bias, *ctx.rule = inputs
    ctx.save_for_backward(dy, ref, bias)


def _backward_grad(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    dy, ref, bias = ctx.saved_tensors
    dim, act, *_ = ctx.rule
    to_dy = torch.ops.ganc.bias_act_grad(ddx, ref, bias, *ctx.rule)
    to_ref = to_bias = None
    if act not in STRAIGHT and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
        to_ref = torch.ops.ganc.bias_act_grad_grad(ddx, dy, ref, bias, *ctx.rule)
        to_bias = _sum_but(to_ref, dim) if bias is not None else None
    return to_dy, to_ref, to_bias, None, None, None, None, None


def _save_grads(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # one of the two is often not asked for
    _save_grad(ctx, inputs, output[0])


def _backward_grads(ctx: Any, ddx: Tensor | None, ddb: Tensor | None) -> tuple[Tensor | None, ...]:
    dy, dim = ctx.saved_tensors[0], ctx.rule[0]
    total = None
    if ddb is not None:
        total = ddb.reshape([-1 if d == dim else 1 for d in range(dy.ndim)]).expand_as(dy)
    if ddx is not None:
        total = ddx if total is None else ddx + total
    return (None,) * 8 if total is None else _backward_grad(ctx, total)


def _sum_but(x: Tensor, dim: int) -> Tensor:
    """Sum over every dimension but one."""
    others = [d for d in range(x.ndim) if d != dim]
    return x.sum(dim=others) if others else x
