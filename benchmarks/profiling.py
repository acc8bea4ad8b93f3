"""Where time goes: the dearest kernels, what each kind of operation takes, waits for the device.

Kernels belong to the operation that launched them; those of a backward pass to the operation whose
derivative they compute, so that ``upfirdn2d`` means its forward and all its backward passes.
"""

import contextlib
import functools
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd import DeviceType

from ganc.ops.bias_act import bias_act
from ganc.ops.filtered_lrelu import filtered_lrelu
from ganc.ops.upfirdn2d import upfirdn2d

TOP = 10
_PREFIX = "benchmark: "
_LABELLED = {"filtered_lrelu": filtered_lrelu, "upfirdn2d": upfirdn2d, "bias_act": bias_act}
"""What gets a share of its own; one inside another counts for the outer one."""

_KERNEL_KINDS = {
    "layout changes inside convolutions": ("nchwtonhwc", "nhwctonchw"),
    "copies": ("memcpy", "memset"),
}
_OPERATION_KINDS = {
    "optimiser": ("optimizer.", "_fused_adam", "_foreach_add"),
    "weight average": ("_foreach_lerp",),
    "convolutions": ("conv",),
    "products of matrices": ("::mm", "::addmm", "::bmm", "::matmul", "::linear"),
    "copies": ("::copy_", "::clone", "::contiguous", "::cat", "::fill_", "::zero_"),
    "random numbers": ("::normal_", "::uniform_", "::randn"),
}
_OTHER = "element-wise, reductions, rest"
_ENGINE = "autograd::engine"
_BACKWARD = 1  # at::RecordScope::BACKWARD_FUNCTION


@contextlib.contextmanager
def replaced(function: Callable[..., Any], other: Callable[..., Any]) -> Iterator[None]:
    """Let every module of ganc call another function meanwhile."""
    places = [
        (module, name)
        for key, module in list(sys.modules.items())
        if key.startswith("ganc.")
        for name, value in list(vars(module).items())
        if value is function
    ]
    for module, name in places:
        setattr(module, name, other)
    try:
        yield
    finally:
        for module, name in places:
            setattr(module, name, function)


@contextlib.contextmanager
def labelled() -> Iterator[None]:
    """Let a profiler see ganc's operations by name."""
    with contextlib.ExitStack() as stack:
        for name, function in _LABELLED.items():
            stack.enter_context(replaced(function, _recorded(name, function)))
        yield


def _recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function(_PREFIX + name):
            return function(*args, **kwargs)

    return run


class Costs:
    """Microseconds of the device by kernel, and by kind of operation.

    Args:
        is_labelled: Give ganc's operations shares of their own. Not where some are compiled: they
            would be compiled anew.

    Attributes:
        kernels, calls: By name; on the CPU they are operations, in their own time.
        kinds: By kind; they add up to what the operations launched.
    """

    def __init__(self, device: torch.device, *, is_labelled: bool = True) -> None:
        self.is_cuda, self.is_labelled = device.type == "cuda", is_labelled
        self.kernels, self.calls, self.kinds = (Counter[str]() for _ in range(3))

    def add(self, run: Callable[[], Any], weight: float = 1.0) -> None:
        """Profile a call, and count it ``weight`` times."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.is_cuda:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        labels = labelled() if self.is_labelled else contextlib.nullcontext()
        with labels, torch.profiler.profile(activities=activities, acc_events=True) as profile:
            run()
            if self.is_cuda:
                torch.cuda.synchronize()
        self.count(list(profile.events()), weight)

    def count(self, events: list[Any], weight: float) -> None:
        """Add up the events of a profile."""
        marks = {e.name for e in events if e.is_user_annotation}
        operations = [e for e in events if e.device_type == DeviceType.CPU]
        # Nodes of the graph share a number with the operations that made them; the last operation
        # of a number is the one that used it up.
        makers = {
            (e.thread, e.sequence_nr): e
            for e in operations
            if e.sequence_nr >= 0 and e.scope != _BACKWARD and not e.name.startswith(_ENGINE)
        }
        for event in operations:
            for name, spent in self._launched(event, marks):
                self.kinds[_kind(event, name, makers)] += weight * spent
        ran = events if self.is_cuda else operations
        for event in ran:
            if event.name in marks or (self.is_cuda and event.device_type == DeviceType.CPU):
                continue
            spent = event.time_range.elapsed_us() if self.is_cuda else event.self_cpu_time_total
            self.kernels[event.name] += weight * spent
            self.calls[event.name] += weight

    def _launched(self, event: Any, marks: set[str]) -> list[tuple[str, float]]:
        if not self.is_cuda:
            return [] if event.name in marks else [(event.name, event.self_cpu_time_total)]
        return [(k.name, k.duration) for k in event.kernels if k.name not in marks]

    @property
    def total(self) -> float:
        """Microseconds of all kernels."""
        return sum(self.kernels.values())

    def shares(self) -> dict[str, float]:
        """Return kind → share of the total, largest first; empty where no kernel was seen."""
        if not self.total:
            return {}
        kinds = dict(self.kinds.most_common())
        kinds["launched by no operation"] = max(0.0, self.total - sum(kinds.values()))
        return {name: spent / self.total for name, spent in kinds.items() if spent > 0}

    def lines(self) -> list[str]:
        """Return markdown tables: kinds, and the dearest kernels."""
        if not self.total:
            return ["The profiler saw no kernels.", ""]
        what = "kernel" if self.is_cuda else "operation"
        lines = ["| kind | share |", "|---|---|"]
        lines += [f"| {name} | {share:.1%} |" for name, share in self.shares().items()]
        lines += ["", f"| {what} | calls | ms | share |", "|---|---|---|---|"]
        lines += [
            f"| `{name[:100]}` | {self.calls[name]:.4g} | {spent / 1e3:.3f}"
            f" | {spent / self.total:.1%} |"
            for name, spent in self.kernels.most_common(TOP)
        ]
        return [*lines, ""]

    def figures(self) -> dict[str, Any]:
        """Return the same as JSON data."""
        return {
            "device_ms": self.total / 1e3,
            "shares": self.shares(),
            "kernels": [
                {"name": name, "calls": self.calls[name], "ms": spent / 1e3}
                for name, spent in self.kernels.most_common(TOP)
            ],
        }


def _kind(event: Any, kernel: str, makers: dict[tuple[int, int], Any]) -> str:
    """Return what a kernel is for: by ganc's operation around it, by its name, by torch's."""
    chain = _chain(event, makers)
    labels = [e.name.removeprefix(_PREFIX) for e in chain if e.name.startswith(_PREFIX)]
    if labels:
        return str(labels[-1])
    names = [event.name.lower(), *(e.name.lower() for e in chain if e.is_user_annotation)]
    by_kernel = _match(_KERNEL_KINDS, [kernel.lower()])
    return by_kernel or _match(_OPERATION_KINDS, names) or _OTHER


def _match(kinds: dict[str, tuple[str, ...]], names: list[str]) -> str | None:
    return next(
        (kind for kind, parts in kinds.items() for n in names if any(p in n for p in parts)), None
    )


def _chain(event: Any, makers: dict[tuple[int, int], Any]) -> list[Any]:
    """Return an event and all around it, outwards, through derivatives to what they are of."""
    chain, seen = [], set()
    at = event
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        chain.append(at)
        is_node = at.scope == _BACKWARD and at.sequence_nr >= 0
        maker = makers.get((at.fwd_thread, at.sequence_nr)) if is_node else None
        at = at.cpu_parent if maker is None else maker
    return chain


def waits(run: Callable[[], Any], device: torch.device) -> Counter[str]:
    """Return where a call makes the host wait for the device: "file:line" → times. CUDA only."""
    if device.type != "cuda":
        return Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [w for w in caught if "synchronizing CUDA operation" in str(w.message)]
    return Counter("/".join(w.filename.split("/")[-2:]) + f":{w.lineno}" for w in found)
