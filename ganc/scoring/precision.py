"""How exact the arithmetic of a score is."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from ganc.devices import fp32_precision
from ganc.errors import UsageError, unknown_name

PRECISIONS = ("fp32", "tf32", "bf16")
"""IEEE float32; products of 10-bit mantissas on tensor cores; autocast to bfloat16."""


def check_precision(name: str, device: torch.device) -> None:
    """Check that a device computes so.

    Raises:
        UsageError: The name is none of ``PRECISIONS``, or the device has no TF32.
    """
    if name not in PRECISIONS:
        raise unknown_name("--precision", name, PRECISIONS)
    if name == "tf32" and device.type != "cuda":
        raise UsageError(
            f"--precision tf32 is for CUDA devices, the device is {device.type}",
            "leave it out, or take --precision bf16",
        )


def arithmetic(name: str) -> AbstractContextManager[None]:
    """Let CUDA multiply float32 with TF32 where that is asked for, and else exactly."""
    return fp32_precision("tf32" if name == "tf32" else "ieee")


def reduced(name: str, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass: autocast to bfloat16 where that is asked for."""
    # No cache: its copies of weights would outlive the level of `torch.func` they were made in.
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=name == "bf16", cache_enabled=False
    )


def keep_norms_exact(network: nn.Module) -> None:
    """Let the batch norms of one's own network read float32, also under autocast.

    ``torch.vmap`` hands a batch norm in eval mode its statistics alone, and torch refuses to mix
    them with a bfloat16 input.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(_widened)


def _widened(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    (x,) = inputs
    return (x.to(torch.promote_types(x.dtype, torch.float32)),)
