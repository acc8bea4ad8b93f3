"""A tiny teacher and a student sliced from it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ganc.checkpoints.native import build_model
from ganc.distillation.distill import DistillResult, distill
from ganc.groups import slice_tensors
from ganc.models.model import Model
from tests.conftest import make_model


def pruned(model: Model) -> Model:
    """Drop the last channel of every generator group, and the discriminator."""
    groups = [g for g in model.groups if not g.name.startswith("discriminator")]
    keep = {group.name: list(range(group.width - 1)) for group in groups}
    tensors = slice_tensors(Model(model.generator).tensors(), groups, keep)
    config = Model(model.generator).config | {"widths": {n: len(k) for n, k in keep.items()}}
    return build_model(model.architecture, config, tensors, [{"command": "prune"}])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Train on one thread: tensors this small gain nothing from two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def teacher() -> Model:
    return make_model()


@pytest.fixture
def student(teacher: Model) -> Model:
    return pruned(teacher)


@pytest.fixture
def train(teacher: Model, student: Model, tmp_path: Path) -> Callable[..., DistillResult]:
    """Run a few small steps in ``tmp_path / name``; every argument can be replaced."""

    def run(name: str = "run", *, steps: int | None = 4, **other: Any) -> DistillResult:
        numbers = {"batch": 4, "perceptual": "none", "r1_interval": 3, "pl_interval": 2}
        overrides = numbers | other.pop("overrides", {})
        models = {"student": student, "teacher": teacher} | other
        return distill(
            models.pop("student"), models.pop("teacher"), tmp_path / name, steps=steps,
            overrides=overrides, device="cpu", **models,
        )  # fmt: skip

    return run
