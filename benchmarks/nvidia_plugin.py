"""NVIDIA's CUDA operators, built from a checkout of NVlabs/stylegan3 that the user brings.

Only measured against; nothing of them is part of ganc.
"""

import functools
import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch

KINDS = {"filtered_lrelu": (".cpp", "_wr.cu", "_rd.cu", "_ns.cu")}
"""Operator → endings of its sources, where they are not these."""
USUAL = (".cpp", ".cu")


@functools.cache
def load_operator(folder: Path, name: str, **flags: Any) -> Any:
    """Build an operator's plugin and return its Python module.

    The checkout's own builder imports what it has built by name, which current pybind11 does not
    offer any more; so it is built here and handed over.

    Args:
        folder: The checkout.
        name: "bias_act", "upfirdn2d", or "filtered_lrelu", which takes minutes to compile.
    """
    from packaging import version
    from torch.utils import cpp_extension

    if importlib.util.find_spec("pkg_resources") is None:  # setuptools dropped what is imported
        stand_in = types.ModuleType("pkg_resources")
        stand_in.parse_version = version.parse  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = stand_in
    sys.path.insert(0, str(folder))
    custom_ops = importlib.import_module("torch_utils.custom_ops")
    operator = importlib.import_module(f"torch_utils.ops.{name}")
    endings = KINDS.get(name, USUAL)
    sources = [str(folder / "torch_utils" / "ops" / f"{name}{ending}") for ending in endings]
    built = cpp_extension.load(
        name=f"{name}_plugin", sources=sources, extra_cuda_cflags=["--use_fast_math"], **flags
    )
    custom_ops._cached_plugins[f"{name}_plugin"] = built
    assert operator._init()
    return operator


def main() -> None:
    """Build ahead of time: ``python benchmarks/nvidia_plugin.py bias_act FOLDER``."""
    name, folder = sys.argv[1:]
    load_operator(Path(folder), name)
    print(f"{name}: built for {torch.cuda.get_device_name()}")


if __name__ == "__main__":
    main()
