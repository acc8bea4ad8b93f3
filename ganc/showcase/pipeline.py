"""``ganc.demo``: score, prune, distill, evaluate, export and show the embedded teacher."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from ganc.checkpoints.store import load, save
from ganc.data.grid import save_grid, zoom_for
from ganc.devices import resolve_device
from ganc.distillation.distill import distill
from ganc.errors import OutputError
from ganc.evaluation.evaluate import evaluate
from ganc.exporters.export import export, resolve
from ganc.exporters.format import ExportSettings
from ganc.extras import require
from ganc.models.model import Model
from ganc.perceptual.features import load_features
from ganc.progress import Progress, Warn, ignore, silent
from ganc.pruning.plan import prune
from ganc.report.entry import Entry
from ganc.report.page import write_page
from ganc.sampling import sample
from ganc.scoring.score import score
from ganc.showcase.settings import DemoSettings
from ganc.weights.cache import weights_path

TEACHER = "faces32.safetensors"
REAL = "faces32-real.zip"
WEIGHTS = ("alexnet", "vgg16")
"""Of ``lpips-diversity``, and of distillation's LPIPS."""
METRICS = ("macs", "params", "latency", "fd", "lpips-diversity")
IMAGES_PER_ROW = 16
OUTPUTS = {
    "teacher": "teacher.safetensors",
    "pruned": "pruned.safetensors",
    "fitted": "fitted.safetensors",
    "distilled": "run/student.safetensors",
    "onnx": "student.onnx",
    "images": "images.png",
    "report": "report.html",
}


def demo(
    out: str | Path = "ganc-demo",
    settings: DemoSettings | None = None,
    *,
    device: str | torch.device = "auto",
    progress: Progress = silent,
    warn: Warn = ignore,
) -> dict[str, Any]:
    """Run the whole pipeline on the embedded face teacher; minutes on two CPU cores.

    Args:
        out: Folder for everything it makes; new or empty.
        settings: None takes the defaults.
        device: Where it runs.
        progress, warn: Told what happens.
    Returns:
        JSON data: "models" {"teacher" | "pruned" | "fitted" | "distilled": {metric: value}},
        "outputs" {name: path}, "seconds" {step: time}, "settings".
    Raises:
        OutputError: ``out`` holds something already.
        MissingDependencyError: The extras ``export``, ``offline`` and ``plot`` are not installed.
    """
    folder, settings = Path(out), settings or DemoSettings()
    check_packages(progress)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists already", "name another folder with -o, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    with resources.as_file(resources.files("ganc.showcase")) as carried:
        run = _Demo(folder, carried, settings, resolve_device(device), progress, warn)
        return run.run()


def check_packages(progress: Progress = silent) -> None:
    """Find a missing extra, and weights that cannot be fetched, now and not after minutes.

    Raises:
        MissingDependencyError, WeightsError: It is named, with the command that installs it.
    """
    load_features("effnet-lite0")
    for name in WEIGHTS:
        weights_path(name, progress=progress)
    resolve(ExportSettings("onnx", None, "fp32", None))
    require("plot")


@dataclass
class _Demo:
    folder: Path
    carried: Path
    settings: DemoSettings
    device: torch.device
    progress: Progress
    warn: Warn
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        teacher = load(self.carried / TEACHER)
        pruned, fitted = self.prune(teacher)
        distilled = self.distill(fitted, teacher)
        models = {
            "teacher": teacher, "pruned": pruned, "fitted": fitted, "distilled": distilled,
        }  # fmt: skip
        with self.timed("eval"):
            results = {name: self.measure(model) for name, model in models.items()}
        with self.timed("export"):
            export(models["distilled"], self.folder / "student.onnx")
        self.show(models)
        with self.timed("report"):
            self.report(models, results)
        return {
            "models": {name: result["metrics"] for name, result in results.items()},
            "outputs": {name: str(self.folder / path) for name, path in OUTPUTS.items()},
            "seconds": self.seconds,
            "settings": {
                **asdict(self.settings), "device": str(self.device), "features": "effnet-lite0"
            },
        }  # fmt: skip

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - start

    def prune(self, teacher: Model) -> tuple[Model, Model]:
        """Return what slicing leaves, and the same fitted."""
        save(teacher, self.folder / "teacher.safetensors")
        with self.timed("score"):
            scores = score(
                teacher, "rebuild", samples=self.settings.score_samples, seed=self.settings.seed,
                device=self.device, progress=self.progress,
            )  # fmt: skip
        scores.save(self.folder / "teacher.rebuild.scores.safetensors")
        with self.timed("prune"):
            pruned = prune(teacher, scores, speedup=self.settings.speedup)
            save(pruned, self.folder / "pruned.safetensors")
        with self.timed("refit"):
            fitted = prune(
                teacher, scores, speedup=self.settings.speedup, refit=True,
                refit_steps=self.settings.refit_steps, seed=self.settings.seed, device=self.device,
                progress=self.progress,
            )  # fmt: skip
            save(fitted, self.folder / "fitted.safetensors")
        return pruned, fitted

    def distill(self, fitted: Model, teacher: Model) -> Model:
        with self.timed("distill"):
            distill(
                fitted, teacher, self.folder / "run", steps=self.settings.steps,
                seed=self.settings.seed, device=self.device, progress=self.progress,
                warn=self.warn,
            )  # fmt: skip
        return load(self.folder / "run" / "student.safetensors")

    def measure(self, model: Model) -> dict[str, Any]:
        return evaluate(
            model, METRICS, data=self.carried / REAL, samples=self.settings.eval_samples,
            seed=self.settings.seed, device=self.device, progress=self.progress,
        )  # fmt: skip

    def show(self, models: dict[str, Model]) -> None:
        """Write one row of images per model, the same latents in every column."""
        rows = [
            sample(model, IMAGES_PER_ROW, seed=self.settings.seed, device=self.device)
            for model in models.values()
        ]
        zoom = zoom_for(rows[0].shape[-1], at_least=64)
        save_grid(torch.cat(rows), self.folder / "images.png", columns=IMAGES_PER_ROW, zoom=zoom)

    def report(self, models: dict[str, Model], results: dict[str, dict[str, Any]]) -> None:
        """Write the page that shows all of it."""
        entries = [
            Entry(name, model, {"checkpoint": OUTPUTS[name], **results[name]}, name == "teacher")
            for name, model in models.items()
        ]
        write_page(
            self.folder / OUTPUTS["report"], entries, title="ganc demo: a small face generator",
            seed=self.settings.seed, device=self.device, progress=self.progress,
        )  # fmt: skip
