"""A small report: a teacher, two pruned students, numbers as ``ganc.evaluate`` returns them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ganc.models.model import Model
from ganc.pruning.plan import prune
from ganc.report.entry import Entry
from ganc.report.page import write_page
from ganc.scoring.score import score
from tests.conftest import make_model

NASTY = """<script>alert(1)</script> & "small" 'one' ${x} {{ y }}"""


def document(model: Model, metrics: Mapping[str, float], **more: Any) -> dict[str, Any]:
    """Return what ``ganc.evaluate`` returns, with some numbers."""
    return {
        "metrics": {"macs": model.macs(), "params": model.params(), **metrics},
        "settings": {
            "samples": 8, "seed": 0, "truncation_psi": 1.0, "network": "generator",
            "model": {"architecture": model.architecture, "content_hash": model.content_hash()},
            "data": {"path": "faces.zip", "images": 20},
            "protocols": {"macs": {}, "fd": {"features": "effnet-lite0", "generated": 8}},
        },
        "requirements": [],
        "teacher_metrics": {},
        **more,
    }  # fmt: skip


@pytest.fixture(scope="session")
def entries() -> list[Entry]:
    """Students first: the report has to put the teacher in front."""
    teacher = make_model()
    scores = score(teacher, "l1-out")
    half, tenth = prune(teacher, scores, prune_ratio=0.5), prune(teacher, scores, prune_ratio=0.9)
    met = {"expr": "fd<=9", "value": 12.5, "bound": 9.0, "met": False}
    sets = {"precision": 0.5, "recall": 0.25}
    return [
        Entry(NASTY, tenth, document(tenth, {"fd": 20.0, "fd-ci95": 0.5, "l1": 0.3, **sets})),
        Entry("half", half, document(half, {"fd": 12.5, "l1": 0.2, **sets, "made-up": 7.0},
                                     std={"fd": 0.75}, requirements=[met])),
        Entry("big", teacher, document(teacher, {"fd": 8.0, **sets}), is_teacher=True),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a report into a folder of its own."""

    def run(*arguments: Any, **options: Any) -> Path:
        path = tmp_path_factory.mktemp("report") / "report.html"
        write_page(path, *arguments, title=NASTY, device="cpu", **options)
        return path

    return run


@pytest.fixture(scope="session")
def page(entries: list[Entry], write: Callable[..., Path]) -> Path:
    return write(entries)
