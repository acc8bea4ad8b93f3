"""ganc: make trained GANs small and fast without losing their quality and diversity.

The public API is resolved on first use, so that importing the package loads no torch::

    model = ganc.load("faces.pt")
    scores = ganc.score(model, "diversity", samples=1000)
    student = ganc.prune(model, scores, macs=4.1e9)
    ganc.save(student, "student.safetensors")
"""

import importlib
from typing import TYPE_CHECKING, Any

from ganc.version import __version__ as __version__

if TYPE_CHECKING:
    from ganc.checkpoints.describe import info as info
    from ganc.checkpoints.store import load as load
    from ganc.checkpoints.store import save as save
    from ganc.diagnosis import doctor as doctor
    from ganc.distillation.distill import distill as distill
    from ganc.evaluation.comparison import compare_results as compare_results
    from ganc.evaluation.evaluate import evaluate as evaluate
    from ganc.exporters.export import export as export
    from ganc.models.model import Model as Model
    from ganc.pruning.plan import prune as prune
    from ganc.report.report import write_report as write_report
    from ganc.sampling import sample as sample
    from ganc.scores import Scores as Scores
    from ganc.scoring.compare import compare_scores as compare_scores
    from ganc.scoring.score import score as score
    from ganc.showcase.pipeline import demo as demo
    from ganc.weights.check import verify_weights as verify_weights
    from ganc.weights.manage import fetch_weights as fetch_weights
    from ganc.weights.manage import list_weights as list_weights

_PUBLIC = {
    "compare_results": "ganc.evaluation.comparison",
    "compare_scores": "ganc.scoring.compare",
    "demo": "ganc.showcase.pipeline",
    "distill": "ganc.distillation.distill",
    "doctor": "ganc.diagnosis",
    "evaluate": "ganc.evaluation.evaluate",
    "export": "ganc.exporters.export",
    "fetch_weights": "ganc.weights.manage",
    "info": "ganc.checkpoints.describe",
    "list_weights": "ganc.weights.manage",
    "load": "ganc.checkpoints.store",
    "sample": "ganc.sampling",
    "save": "ganc.checkpoints.store",
    "score": "ganc.scoring.score",
    "prune": "ganc.pruning.plan",
    "verify_weights": "ganc.weights.check",
    "write_report": "ganc.report.report",
    "Model": "ganc.models.model",
    "Scores": "ganc.scores",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ganc' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
