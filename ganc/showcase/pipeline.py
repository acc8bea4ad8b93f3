"""``ganc.demo``: score, prune, distill, evaluate and export the embedded teacher."""

import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch

from ganc.checkpoints.store import load, save
from ganc.data.grid import save_grid, zoom_for
from ganc.devices import resolve_device
from ganc.distillation.loop import distill
from ganc.errors import OutputError
from ganc.evaluation.evaluate import evaluate
from ganc.exporters.export import export
from ganc.models.model import Model
from ganc.models.sampling import sample
from ganc.progress import Progress, Warn, ignore, silent
from ganc.pruning import prune
from ganc.scoring.score import score

TEACHER = "faces32.safetensors"
REAL = "faces32-real.zip"
METRICS = ("macs", "params", "latency", "fd", "perceptual-diversity")
IMAGES_PER_ROW = 16

_T = TypeVar("_T")


def demo(
    out: str | Path = "ganc-demo",
    *,
    speedup: float = 10.0,
    score_samples: int = 250,
    steps: int = 600,
    eval_samples: int = 1000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: Progress = silent,
    warn: Warn = ignore,
) -> dict[str, Any]:
    """Run the whole pipeline on the embedded face teacher; minutes on two CPU cores.

    Args:
        out: Folder for everything it makes; new or empty.
        speedup: How many times fewer MACs the student has.
        score_samples: Latents for the diversity scores.
        steps: Distillation steps.
        eval_samples: Images for fd, pairs for diversity.
        seed: Of every draw.
        device: Where it runs.
        progress, warn: Told what happens.
    Returns:
        JSON data: "models" {"teacher" | "pruned" | "distilled": {metric: value}}, "outputs"
        {name: path}, "seconds" {step: time}, "settings".
    Raises:
        OutputError: ``out`` holds something already.
        MissingDependencyError: The extras ``export`` and ``offline`` are not installed.
    """
    folder = Path(out)
    clock = _Clock(resolve_device(device), progress, warn)
    _prepare(folder)
    with resources.as_file(resources.files("ganc.showcase")) as carried:
        return _run(
            folder, carried, clock,
            {"speedup": speedup, "score_samples": score_samples, "steps": steps,
             "eval_samples": eval_samples, "seed": seed},
        )  # fmt: skip


class _Clock:
    """The device and reporters that every step takes, and the time each one took."""

    def __init__(self, device: torch.device, progress: Progress, warn: Warn) -> None:
        self.common = {"device": device, "progress": progress}
        self.warn = warn
        self.seconds: dict[str, float] = {}

    def __call__(self, step: str, run: Callable[[], _T]) -> _T:
        start = time.perf_counter()
        result = run()
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start
        return result


def _prepare(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists already", "name another folder with -o, or remove it")
    folder.mkdir(parents=True, exist_ok=True)


def _run(folder: Path, carried: Path, clock: _Clock, settings: dict[str, Any]) -> dict[str, Any]:
    seed = settings["seed"]
    paths = {
        "teacher": folder / "teacher.safetensors",
        "scores": folder / "teacher.diversity.scores.safetensors",
        "pruned": folder / "pruned.safetensors",
        "run": folder / "run",
        "distilled": folder / "run" / "student.safetensors",
        "onnx": folder / "student.onnx",
        "images": folder / "images.png",
    }
    teacher = load(carried / TEACHER)
    save(teacher, paths["teacher"])
    scores = clock(
        "score",
        lambda: score(teacher, "diversity", samples=settings["score_samples"], seed=seed,
                      **clock.common),
    )  # fmt: skip
    scores.save(paths["scores"])
    pruned = clock("prune", lambda: prune(teacher, scores, speedup=settings["speedup"]))
    save(pruned, paths["pruned"])
    # effnet-lite0 stands in for LPIPS: its weights come with the extra `offline`.
    clock(
        "distill",
        lambda: distill(pruned, teacher, paths["run"], steps=settings["steps"], seed=seed,
                        overrides={"perceptual": "effnet-lite0"}, warn=clock.warn, **clock.common),
    )  # fmt: skip
    models = {"teacher": teacher, "pruned": pruned, "distilled": load(paths["distilled"])}
    measured = {
        name: clock("eval", lambda model=model: _measure(model, carried / REAL, clock, settings))
        for name, model in models.items()
    }
    clock("export", lambda: export(models["distilled"], paths["onnx"]))
    clock("images", lambda: _show(models, paths["images"], seed))
    return {
        "models": measured,
        "outputs": {name: str(path) for name, path in paths.items()},
        "seconds": clock.seconds,
        "settings": {**settings, "device": str(clock.common["device"]), "features": "effnet-lite0"},
    }


def _measure(
    model: Model, real: Path, clock: _Clock, settings: dict[str, Any]
) -> dict[str, float | None]:
    result = evaluate(
        model, METRICS, data=real, samples=settings["eval_samples"], seed=settings["seed"],
        **clock.common,
    )  # fmt: skip
    metrics: dict[str, float | None] = result["metrics"]
    return metrics


def _show(models: dict[str, Model], path: Path, seed: int) -> None:
    """Write one row of images per model, the same latents in every column."""
    rows = [sample(model, IMAGES_PER_ROW, seed=seed) for model in models.values()]
    zoom = zoom_for(rows[0].shape[-1], at_least=64)
    save_grid(torch.cat(rows), path, columns=IMAGES_PER_ROW, zoom=zoom)
