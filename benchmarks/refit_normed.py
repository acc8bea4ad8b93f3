"""Does fitting what pruning left help networks with norms? Distances to the teacher.

Trains a small teacher of each family, unless the folder has it, prunes it by ``l1-out``, distills
if asked to, and measures l1 to the teacher and fd to real images, with latents and images that
neither training nor fit saw.

    python benchmarks/refit_normed.py faces64.zip -o out            # all three, 4x fewer MACs
    python benchmarks/refit_normed.py faces64.zip sngan -o out --errors
    python benchmarks/refit_normed.py faces64.zip sngan -o out --teacher-steps 1000 --distill 300
"""

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import figures
import torch
import train_sngan
import train_translators
import translator_data
from arms import UNSEEN, timed
from refit import STARTS

import ganc
from ganc.data.dataset import open_dataset
from ganc.data.images import to_float

SPEEDUP = 4.0
ARMS = ("sliced", "layers", "layers and together")
METRICS = ("l1", "fd")
COUNT = 2000
"""Faces that translators' sets are made of."""


class Case(NamedTuple):
    """A teacher, what its fits look at, what it is measured with, and how it is distilled.

    Attributes:
        fit: Settings of ``ganc.prune`` that a fit needs.
        unseen: Generator → settings of ``ganc.evaluate``.
        distill: Settings of ``ganc.distill``.
    """

    teacher: ganc.Model
    fit: dict[str, Any]
    unseen: dict[str, dict[str, Any]]
    distill: dict[str, Any]


def sngan(faces: Path, out: Path, steps: int) -> Case:
    """Return an SN-GAN of faces of 32 px."""
    done, small = out / "sngan" / train_sngan.RESULT, out / "faces32"
    if not done.exists():
        if not small.exists():
            translator_data.write_folder(small, _images(faces, 32))
        fresh = train_sngan.new_model(width=32)
        train_sngan.train(fresh, None, out / "sngan", small, steps, train_sngan.TRAINING)
    return Case(
        ganc.load(done), {},
        {"generator": {"samples": 1000, "seed": UNSEEN, "data": small}},
        {
            "data": small, "recipe": "sngan", "channels_last": True,
            "overrides": train_sngan.TRAINING | train_sngan.DISTANCES,
        },
    )  # fmt: skip


def translator(name: str, faces: Path, out: Path, steps: int) -> Case:
    """Return a translator of ``train_translators``."""
    task = train_translators.TASKS[name]
    resolution = task.config["img_resolution"]
    sets, done = out / f"sets{resolution}", out / name / "student.safetensors"
    if not sets.exists():
        images = _images(faces, resolution)
        translator_data.make_sets(images, sets)
        drawn = translator_data.edges(images[: len(images) * 9 // 10])
        translator_data.write_folder(sets / "edges2faces-train" / "A", drawn)
    if not done.exists():
        train_translators.train(
            None, None, out / name, architecture=task.architecture, config=task.config,
            data=sets / task.data, overrides=task.overrides, steps=steps,
        )  # fmt: skip
    fit = {"data": sets / "edges2faces-train" / "A"}
    if name == "cyclegan":
        fit = {f: sets / task.data / part for f, part in (("data", "trainA"), ("data_b", "trainB"))}
    unseen = {
        network: {"input": sets / source, "data": sets / goal, "network": network}
        for network, (source, goal) in task.tests.items()
    }
    overrides = {**task.overrides, **train_translators.ARMS["and the teacher's"]}
    distill = {"data": sets / task.data, "overrides": overrides}
    return Case(ganc.load(done), fit, unseen, distill)


def _images(faces: Path, resolution: int) -> torch.Tensor:
    dataset = open_dataset(faces, resolution=resolution, channels=3, resize=True)
    return to_float(torch.stack([dataset.image(i) for i in range(min(COUNT, len(dataset)))]))


class Bench(NamedTuple):
    """How starts are compared.

    Attributes:
        out: Gets the runs.
        distill: Steps; 0 leaves distillation out.
        seeds: Of fit and distillation.
        shows_errors: Whether each layer's error is printed.
        figures_file: See ``figures``.
    """

    out: Path
    distill: int
    seeds: Sequence[int]
    shows_errors: bool
    figures_file: Path | None

    def compare(self, name: str, case: Case) -> None:
        """Print each start's distances, and those of its distillation."""
        self.report(case, METRICS[1:], case.teacher, family=name, start="teacher")
        scores = ganc.score(case.teacher, "l1-out")
        for start, seed in product(ARMS, self.seeds):
            what = {"family": name, "start": start, "seed": seed}
            settings = STARTS[start].settings
            fit = {**settings, **case.fit, "seed": seed} if settings else {}
            student, seconds, cpu = timed(
                partial(ganc.prune, case.teacher, scores, speedup=SPEEDUP, **fit)
            )
            took = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
            self.report(case, METRICS, student, **what, **took)
            if settings and self.shows_errors:
                for layer, error in student.provenance[-1]["settings"]["errors"].items():
                    print(f"    {layer:28s} {error[0]:.4f} → {error[1]:.4f}")
            if self.distill:
                run = self.out / f"{name} {start} {seed}"
                ganc.distill(
                    student, case.teacher, run, steps=self.distill, seed=seed, device="cpu",
                    **case.distill,
                )  # fmt: skip
                trained = ganc.load(run / "student.safetensors")
                self.report(case, METRICS, trained, **what, distilled=self.distill)

    def report(
        self, case: Case, metrics: Sequence[str], model: ganc.Model, **what: str | float
    ) -> None:
        """Print what a model measures, each of its generators."""
        found = {}
        for network, given in case.unseen.items():
            values = ganc.evaluate(model, metrics, teacher=case.teacher, **given)["metrics"]
            found |= {f"{network} {metric}": values[metric] for metric in metrics}
        figures.record(self.figures_file, "refit_normed", **what, **found)
        print(*what.values(), *(f"{n} {v:.4g}" for n, v in found.items()), sep="  ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faces", type=Path, help="folder or zip of square RGB faces")
    parser.add_argument("families", nargs="*", default=["sngan", *train_translators.TASKS])
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder, gone on with")
    parser.add_argument("--teacher-steps", type=int, default=300)
    parser.add_argument("--distill", type=int, default=0, metavar="STEPS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--errors", action="store_true", help="each layer's as well")
    figures.add_option(parser)
    given = parser.parse_args()
    given.out.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    bench = Bench(given.out, given.distill, given.seeds, given.errors, given.figures)
    for name in given.families:
        make = sngan if name == "sngan" else partial(translator, name)
        bench.compare(name, make(given.faces, given.out, given.teacher_steps))


if __name__ == "__main__":
    main()
