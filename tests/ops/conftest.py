"""The compiled operators, built once for all tests of a run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ganc.ops import compiled_bias_act, compiled_filtered_lrelu, extension

FUSED = (compiled_bias_act, compiled_filtered_lrelu)


@pytest.fixture(scope="session")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the operators into a cache of their own, which processes share, and load them."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "operators"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANC_CACHE", str(folder))
        extension.build_and_load(extension.CUDA if torch.cuda.is_available() else extension.CPU)
    for module in FUSED:
        module.register()
    return folder


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fill memory that nothing was written to with NaN, so that an element left out shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the functions choose their operators on the CPU, as they do on CUDA."""
    monkeypatch.setattr(extension, "CUDA", extension.CPU)
    monkeypatch.setattr(extension, "build_or_warn", lambda device_type: True)
    for module in FUSED:
        monkeypatch.setattr(module.OPERATORS, "working", {})
