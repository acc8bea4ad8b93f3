"""What the compiled operators share: who computes a call, and telling torch about them."""

from collections.abc import Callable

import torch
from torch import Tensor

from ganc.errors import UsageError, unknown_name
from ganc.ops import extension

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

IMPLS = ("auto", "ref", "cuda")
"""Who computes a call: the operators where they can, plain torch, the operators or an error."""


class Operators:
    """A function's compiled operators.

    Args:
        name: The function's, for errors.
        register: Tells torch what the operators give and how they are differentiated; may be called
            again.
        build_or_warn, build_obstacle: What builds them, see ``extension``; None takes its own.

    Attributes:
        working: Kind of device → whether they work on it, of those that were asked for.
    """

    def __init__(
        self,
        name: str,
        register: Callable[[], object],
        build_or_warn: Callable[[str], bool] | None = None,
        build_obstacle: Callable[[str], str | None] | None = None,
    ) -> None:
        self.name, self._register = name, register
        self._build_or_warn, self._build_obstacle = build_or_warn, build_obstacle
        self.working: dict[str, bool] = {}

    def build_for(self, impl: str, unfit: str | None, x: Tensor, *others: Tensor) -> bool:
        """Build and load the operators if a call is for them; say whether they compute it.

        They take tensors on CUDA, all of one type. Functions that ``torch.func`` maps get plain
        torch. So do functions that are traced before the operators are loaded: tracing builds
        nothing, as a compiler does not run inside another.

        Args:
            impl: One of ``IMPLS``.
            unfit: What they do not take of the call's other arguments; None if they take all.
        Raises:
            UsageError: impl is not known; or it is "cuda", and something stands in the way.
        """
        if impl not in IMPLS:
            raise unknown_name("impl", impl, IMPLS)
        if impl == "ref":
            return False
        reason = _unfit(x, others) or unfit
        if impl == "cuda":
            reason = reason or self._obstacle(x.device.type)
            if reason is not None:
                raise UsageError(
                    f'{self.name}(impl="cuda") cannot run: {reason}',
                    'impl="auto" takes plain torch there',
                )
        return reason is None and self.build_on(x.device.type)

    def build_on(self, device_type: str) -> bool:
        """Build and register them for a kind of device when first asked; say whether they work."""
        if torch.compiler.is_compiling():
            return self.working.get(device_type, False)
        if device_type not in self.working:
            works = (self._build_or_warn or extension.build_or_warn)(device_type)
            if works:
                self._register()
            self.working[device_type] = works
        return self.working[device_type]

    def _obstacle(self, device_type: str) -> str | None:
        """Build them; return what keeps them from a kind of device, None if they work."""
        if self.working.get(device_type):
            return None
        if torch.compiler.is_compiling():
            return "its operators are not loaded, and tracing builds nothing; call it once before"
        return (self._build_obstacle or extension.build_obstacle)(device_type)


def _unfit(x: Tensor, others: tuple[Tensor, ...]) -> str | None:
    """Return what the operators do not take of a call's tensors; None if they take all."""
    if x.device.type != extension.CUDA:
        return f"x must be on cuda, got {x.device.type}"
    if x.dtype not in DTYPES:
        return f"x must be of a floating type, got {x.dtype}"
    if any(other.dtype != x.dtype or other.device != x.device for other in others):
        return "all tensors must be of x's type and device"
    is_mapped = torch._C._functorch.is_functorch_wrapped_tensor
    return "torch.func maps x" if not torch.compiler.is_compiling() and is_mapped(x) else None


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the format of the result; of a view, what its channels' stride suggests."""
    if x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format
