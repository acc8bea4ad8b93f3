"""From a device's name to a device that is there."""

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
