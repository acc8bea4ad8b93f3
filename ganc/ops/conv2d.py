"""Convolutions whose gradients are differentiated as fast as they are computed.

torch differentiates the gradient of a kernel by a convolution whose kernel is a whole image, for
which cuDNN has no fast way: an H100 takes four milliseconds for what takes a tenth of one.
Regularisers of gradients (R1, path length) do that for every layer. A convolution is linear in its
features and in its kernel, so all its derivatives, of any order, are the same three operations: the
convolution, its adjoint, and the sum over pixels that gives a kernel.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_kernels_are_constant = False
# A switch of the process: on CUDA gradients are computed in another thread.


def conv2d(
    x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """Return ``F.conv2d``: [N, C_in, H, W] and [C_out, C_in / groups, K, K] → [N, C_out, …]."""
    if not _is_differentiated(x, weight):
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=groups)
    return _convolve(x, weight, _Rule(stride, padding, groups, is_transposed=False))


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int = 1, groups: int = 1) -> Tensor:
    """Return ``F.conv_transpose2d``: weight is [C_in, C_out / groups, K, K]."""
    if not _is_differentiated(x, weight):
        return F.conv_transpose2d(x, weight, stride=stride, groups=groups)
    return _convolve(x, weight, _Rule(stride, 0, groups, is_transposed=True))


@contextlib.contextmanager
def constant_kernels() -> Iterator[None]:
    """Compute no gradients of kernels meanwhile: for a gradient with respect to features alone.

    torch asks a function that is defined in Python for all its gradients, wanted or not.
    """
    global _kernels_are_constant
    before, _kernels_are_constant = _kernels_are_constant, True
    try:
        yield
    finally:
        _kernels_are_constant = before


def _is_differentiated(x: Tensor, weight: Tensor) -> bool:
    """Say whether gradients may be differentiated: not in half precision, compiled or mapped.

    On the CPU torch's own way is as fast.
    """
    return (
        _is_slow_otherwise(x)
        and torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch._C._functorch.is_functorch_wrapped_tensor(weight)
    )


def _is_slow_otherwise(x: Tensor) -> bool:
    return x.is_cuda


class _Rule(NamedTuple):
    """What ``torch.convolution`` is told beside tensors."""

    stride: int
    padding: int
    groups: int
    is_transposed: bool
    output_padding: tuple[int, int] = (0, 0)

    def arguments(self) -> tuple[Any, ...]:
        return (
            [self.stride] * 2, [self.padding] * 2, [1, 1], self.is_transposed,
            list(self.output_padding), self.groups,
        )  # fmt: skip

    def adjoint(self, x: Tensor, y: Tensor, weight: Tensor) -> "_Rule":
        """Return the rule that takes gradients of y to gradients of x."""
        if self.is_transposed:
            return self._replace(is_transposed=False, output_padding=(0, 0))
        height, width = (
            x.shape[i] - ((y.shape[i] - 1) * self.stride - 2 * self.padding + weight.shape[i])
            for i in (2, 3)
        )
        return self._replace(is_transposed=True, output_padding=(height, width))


def _convolve(x: Tensor, weight: Tensor, rule: _Rule) -> Tensor:
    y: Tensor = _Convolution.apply(x, weight, rule)
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rule: _Rule) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rule = rule
        return torch.convolution(x, weight, None, *rule.arguments())

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = _convolve(dy, weight, ctx.rule.adjoint(x, dy, weight))
        if ctx.needs_input_grad[1] and not _kernels_are_constant:
            dw = _KernelGradient.apply(dy, x, weight, ctx.rule)
        return dx, dw, None


class _KernelGradient(torch.autograd.Function):
    """(gradient of y, x) → gradient of the kernel, linear in both; of weight the shape is read."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, x: Tensor, weight: Tensor, rule: _Rule) -> Tensor:
        ctx.save_for_backward(dy, x)
        ctx.rule = rule
        gradients = torch.ops.aten.convolution_backward(
            dy, x, weight, None, *rule.arguments(), [False, True, False]
        )
        return gradients[1]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        dy, x = ctx.saved_tensors
        to_dy = to_x = None
        if ctx.needs_input_grad[0]:
            to_dy = _convolve(x, direction, ctx.rule)
        if ctx.needs_input_grad[1]:
            to_x = _convolve(dy, direction, ctx.rule.adjoint(x, dy, direction))
        return to_dy, to_x, None, None
