"""From a device's name to a device that is there, and how exactly it multiplies."""

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from ganc.errors import InputError, UsageError


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:N"; "auto" prefers CUDA.

    Raises:
        UsageError: The name is none of these.
        InputError: The device is not there.
    """
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise UsageError(f"--device `{name}` is not known; allowed: auto, cpu, cuda, cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices",
            "use --device auto or --device cpu",
        )
    return torch.device(name)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a CPU tensor on a device; the host goes on while it is copied.

    CUDA copies pageable memory only after everything that was launched before: pinned memory first.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor where the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@contextmanager
def fp32_precision(precision: Literal["ieee", "tf32"]) -> Iterator[None]:
    """Choose how CUDA multiplies float32: exactly, or with TF32, factors of 10-bit mantissas.

    torch by itself takes TF32 for convolutions and not for matrix products. Its switches belong to
    the process: they are what they were afterwards.
    """
    cudnn: Any = torch.backends.cudnn  # whose `conv` the stubs do not know
    switches = (torch.backends.cuda.matmul, cudnn.conv)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = precision
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def exact_float32() -> AbstractContextManager[None]:
    """Multiply float32 exactly on CUDA too.

    Differences between nearly equal images drown in products of 10-bit mantissas.
    """
    return fp32_precision("ieee")


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Leave autocast where rounding to bfloat16 would spoil a number; "meta" does not know it.

    Where there is none to leave nothing is done, so that exported graphs show nothing of it.
    """
    kind = device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
