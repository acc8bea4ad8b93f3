"""What this installation can do: versions, devices, optional packages, the weights cache."""

import platform
import time
from importlib import metadata
from typing import Any

import torch

from ganc.devices import exact_float32, resolve_device
from ganc.errors import ComputationError
from ganc.extras import EXTRAS
from ganc.models.model import Model
from ganc.models.stylegan2 import Generator
from ganc.ops import extension, resampling
from ganc.sampling import sample
from ganc.user_cache import cache_folder
from ganc.version import __version__
from ganc.weights.manage import is_there
from ganc.weights.published import WEIGHTS

TOLERANCE = 1e-3
"""Largest difference to the CPU, exact float32 on images of nominal range [-1, 1]."""


def doctor(device: str | torch.device = "auto", build: bool = False) -> dict[str, Any]:
    """Look at the installation and check the device against the CPU on one tiny model.

    Args:
        device: Where models are to run.
        build: Compile the operators for the CPU first, where that was not done yet.
    Returns:
        JSON data: "ganc", "python", "torch", "threads", "cuda" (device names), "device",
        "device_error" (largest difference to the CPU), "kernels", "resampling" (what computes),
        "built" {"library", "sec", "for"} or null,
        "packages" {extra: {name: version or null}}, "cache" (folder), "weights" {name: whether it
        is there}.
    Raises:
        UsageError, InputError: The device is not known or not there.
        BuildError: There is no C++ compiler, or it failed.
        ComputationError: It computes other images than the CPU.
    """
    chosen = resolve_device(device)
    built = build_for_cpu() if build else None
    return {
        "ganc": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "device": str(chosen),
        "device_error": check_device(chosen),
        "kernels": extension.state(chosen.type),
        "resampling": resampling.state(chosen.type),
        "built": built,
        "packages": {
            extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()
        },
        "cache": str(cache_folder()),
        "weights": {name: is_there(name) for name in WEIGHTS},
    }


def build_for_cpu() -> dict[str, str | float]:
    """Compile the operators for the CPU if need be: the library, the seconds, what it is for."""
    start = time.monotonic()
    path = extension.build_for_cpu()
    return {
        "library": str(path),
        "sec": round(time.monotonic() - start, 1),
        "for": "filter, noise, bias and activation of StyleGAN2's layers in one pass on the CPU",
    }


def check_device(device: torch.device) -> float:
    """Compare a device with the CPU on a tiny random model.

    Returns:
        The largest absolute difference of four images.
    Raises:
        ComputationError: It is above ``TOLERANCE``, or not finite.
    """
    generator = Generator(16, 0, 16, 16, 3, mapping_kwargs={"num_layers": 2}, channel_max=16)
    model = Model(generator)
    on_cpu = sample(model, 4, device="cpu")
    with exact_float32():  # TF32, torch's choice for convolutions, would differ by up to 0.007
        there = sample(model, 4, device=device)
    error = (on_cpu - there).abs().max().item()
    if not error <= TOLERANCE:
        raise ComputationError(
            f"{device} computes other images than the CPU: they differ by {error:.3g}",
            "use --device cpu, and check the driver and the installation of torch",
        )
    return error


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
