"""Bias, activation, gain and clamp as one operation. Source: design of StyleGAN2-ADA's layers."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.errors import ShapeError, unknown_name
from ganc.ops import compiled_bias_act


class Activation(NamedTuple):
    """An activation, the slope it takes, and the gain that keeps unit variance."""

    function: Callable[[Tensor, float], Tensor]
    alpha: float
    gain: float


_SQRT2 = 2**0.5

ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda x, alpha: x, 0.0, 1.0),
    "relu": Activation(lambda x, alpha: F.relu(x), 0.0, _SQRT2),
    "lrelu": Activation(F.leaky_relu, 0.2, _SQRT2),
    "tanh": Activation(lambda x, alpha: torch.tanh(x), 0.0, 1.0),
    "sigmoid": Activation(lambda x, alpha: torch.sigmoid(x), 0.0, 1.0),
    "elu": Activation(lambda x, alpha: F.elu(x), 0.0, 1.0),
    "selu": Activation(lambda x, alpha: F.selu(x), 0.0, 1.0),
    "softplus": Activation(lambda x, alpha: F.softplus(x), 0.0, 1.0),
    "swish": Activation(lambda x, alpha: torch.sigmoid(x) * x, 0.0, _SQRT2),
}


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Return ``clamp(act(x + bias) * gain)``.

    Args:
        x: Any shape and memory format.
        bias: [x.shape[dim]], or None.
        act: A name in ``ACTIVATIONS``.
        alpha: Slope of lrelu; None takes the activation's own.
        gain: None takes the activation's own, which keeps unit variance.
        clamp: Limit of the absolute value; None for none.
        impl: "auto" takes the kernel where it can run, which is built when first needed, and plain
            torch elsewhere; "ref" takes plain torch; "cuda" takes the kernel.
    Returns:
        Shape and dtype of x.
    Raises:
        ShapeError: bias is not one-dimensional or disagrees with x.
        UsageError: act or impl is not known; or impl is "cuda" and the kernel cannot run.
    Guarantees: twice differentiable; arguments unchanged.
    """
    if act not in ACTIVATIONS:
        raise unknown_name("activation", act, ACTIVATIONS)
    if bias is not None and bias.shape != (x.shape[dim],):
        raise ShapeError(f"bias must be [{x.shape[dim]}], got {list(bias.shape)}")
    slope = ACTIVATIONS[act].alpha if alpha is None else alpha
    if compiled_bias_act.build_for(impl, x, bias, slope):
        factor = ACTIVATIONS[act].gain if gain is None else gain
        return compiled_bias_act.bias_act(x, bias, dim, act, slope, factor, clamp)
    return bias_act_ref(x, bias, dim=dim, act=act, alpha=alpha, gain=gain, clamp=clamp)


def bias_act_ref(
    x: Tensor,
    bias: Tensor | None,
    *,
    dim: int,
    act: str,
    alpha: float | None,
    gain: float | None,
    clamp: float | None,
) -> Tensor:
    """Compute ``bias_act`` in plain torch, unchecked: the reference any kernel is held against."""
    spec = ACTIVATIONS[act]
    if bias is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        x = x + bias.reshape(shape)
    x = spec.function(x, spec.alpha if alpha is None else alpha)
    gain = spec.gain if gain is None else gain
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)
