"""What the compiled operators share: when they can be called, and telling torch about them."""

from collections.abc import Callable

import torch
from torch import Tensor

from ganc.ops import extension

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Operators:
    """A function's compiled operators.

    Args:
        register: Tells torch what the operators give and how they are differentiated; may be called
            again.
        is_ready: Says whether they work on a kind of device, and logs once why not; may build them.

    Attributes:
        working: Kind of device → whether they work on it, of those that were asked for.
    """

    def __init__(
        self, register: Callable[[], object], is_ready: Callable[[str], bool] | None = None
    ) -> None:
        self._register, self._is_ready = register, is_ready
        self.working: dict[str, bool] = {}

    def can_take(self, x: Tensor, *others: Tensor) -> bool:
        """Say whether the operators take tensors, here and now; builds them if need be.

        They take tensors on CUDA, all of one type. What maps a function (``torch.func``) meets
        plain torch, and so does what traces one before they have been loaded: a compiler does not
        run inside another.
        """
        if x.device.type != extension.CUDA or x.dtype not in DTYPES:
            return False
        if any(other.dtype != x.dtype or other.device != x.device for other in others):
            return False
        if torch.compiler.is_compiling():
            return self.working.get(x.device.type, False)
        is_mapped = torch._C._functorch.is_functorch_wrapped_tensor(x)
        return not is_mapped and self.work_on(x.device.type)

    def work_on(self, device_type: str) -> bool:
        """Say whether they work on a kind of device; builds and registers them when first asked."""
        if device_type not in self.working:
            is_ready = (self._is_ready or extension.is_ready)(device_type)
            if is_ready:
                self._register()
            self.working[device_type] = is_ready
        return self.working[device_type]
