"""Train, prune and distill small translators: pix2pix (edges → faces), CycleGAN (faces ↔ sketches).

Every step is one call of the public API. The sets come from ``translator_data.py``. The output
folder gets a run folder per training, with pictures of it in ``samples/``; the numbers that are
printed are of images that no training saw.

    python benchmarks/train_translators.py faces64.zip -o out            # both, one after the other
    python benchmarks/train_translators.py faces64.zip -o out pix2pix

Started again with the same folder, every training goes on where it was.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from translator_data import make_sets

import ganc
from ganc.data.dataset import open_dataset
from ganc.data.images import to_float
from ganc.models.model import Model

SPEEDUP = 3.5


@dataclass(frozen=True)
class Task:
    """How to train one teacher, and what to judge it by.

    Attributes:
        architecture, config, overrides, steps: Of the teacher; see ``ganc.distill``.
        student_steps: Steps of a distillation.
        data: The set within the folder that ``translator_data.make_sets`` writes.
        tests: Network → the images that it gets, and those that it should give.
    """

    architecture: str
    config: Mapping[str, Any]
    overrides: Mapping[str, Any]
    steps: int
    student_steps: int
    data: str
    tests: Mapping[str, tuple[str, str]]


TASKS = {
    "pix2pix": Task(
        "unet_translator",
        {"img_resolution": 64, "num_downs": 4, "base_width": 12, "in_channels": 1},
        {"batch": 8, "lr": 1e-3}, 2000, 400,
        "edges2faces.zip", {"generator": ("edges2faces-test/A", "edges2faces-test/B")},
    ),
    "cyclegan": Task(
        "resnet_translator",
        {"img_resolution": 32, "num_blocks": 3, "base_width": 10},
        {"batch": 4, "lr": 5e-4}, 3000, 500,
        "faces2sketches",
        {
            "generator": ("faces2sketches/testA", "faces2sketches/testB"),
            "generator_b": ("faces2sketches/testB", "faces2sketches/testA"),
        },
    ),
}  # fmt: skip

ARMS: dict[str, dict[str, float]] = {
    "task losses": {},
    "and the teacher's": {"l1_weight": 10.0, "feature_weight": 1.0},
}
"""What a student learns from → recipe numbers beside those of its teacher's training."""


def sets(faces: Path, out: Path, resolution: int) -> Path:
    """Make the sets of one size, unless they are there."""
    folder = out / f"sets{resolution}"
    if not folder.exists():
        dataset = open_dataset(faces, resolution=resolution, channels=3, resize=True)
        images = torch.stack([dataset.image(i) for i in range(len(dataset))])
        make_sets(to_float(images), folder)
    return folder


def train(student: Model | None, teacher: Model | None, out: Path, **settings: Any) -> Model:
    """Return what a training gives; one that was stopped goes on."""
    start, steps = time.perf_counter(), settings["steps"]
    if out.exists():
        ganc.distill(None, teacher, out, resume="latest", steps=steps)
    else:
        ganc.distill(student, teacher, out, save_every=200, **settings)
    print(f"{out.name}: {steps} steps, {time.perf_counter() - start:.0f} s now", flush=True)
    return ganc.load(out / "student.safetensors")


def report(name: str, task: Task, folder: Path, model: Model, teacher: Model) -> None:
    """Print a model's cost and its distance to the teacher and to real images."""
    print(f"{name:18s} {model.macs() / 1e6:7.1f} M MACs {model.params() / 1e3:7.0f} k params")
    for network, (source, goal) in task.tests.items():
        result = ganc.evaluate(
            model, ["l1", "psnr", "fd"], teacher=teacher, input=folder / source,
            data=folder / goal, network=network, samples=len(list((folder / source).iterdir())),
        )  # fmt: skip
        shown = "  ".join(f"{key} {value:.4g}" for key, value in result["metrics"].items())
        print(f"    {network:12s} {shown}", flush=True)


def run(name: str, task: Task, faces: Path, out: Path) -> None:
    """Train, prune and distill one task."""
    folder = sets(faces, out, task.config["img_resolution"])
    data = folder / task.data
    teacher = train(
        None, None, out / name, architecture=task.architecture, config=task.config, data=data,
        overrides=task.overrides, steps=task.steps,
    )  # fmt: skip
    report("teacher", task, folder, teacher, teacher)
    pruned = ganc.prune(teacher, ganc.score(teacher, "l1-out"), speedup=SPEEDUP)
    report(f"pruned {SPEEDUP}x", task, folder, pruned, teacher)
    for number, (arm, weights) in enumerate(ARMS.items()):
        student = train(
            pruned, teacher, out / f"{name}-student{number}", data=data,
            overrides={**task.overrides, **weights}, steps=task.student_steps,
        )  # fmt: skip
        report(arm, task, folder, student, teacher)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder or zip of square RGB faces")
    parser.add_argument("tasks", nargs="*", default=[*TASKS], metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)
    for name in arguments.tasks:
        print(name, flush=True)
        run(name, TASKS[name], arguments.data, arguments.out)


if __name__ == "__main__":
    main()
