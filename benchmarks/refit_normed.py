"""Does fitting what pruning left help networks with norms? L1 to the teacher, sliced and fitted.

Trains a small teacher of each family, unless the folder has it, prunes it by ``l1-out``, and
measures with latents and images that neither training nor fit saw.

    python benchmarks/refit_normed.py faces64.zip -o out            # all three, 4x fewer MACs
    python benchmarks/refit_normed.py faces64.zip sngan -o out --errors
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import figures
import torch
import train_sngan
import train_translators
import translator_data
from refit import STARTS, UNSEEN, timed

import ganc
from ganc.data.dataset import open_dataset
from ganc.data.images import to_float

SPEEDUP = 4.0
ARMS = ("sliced", "layers", "layers and together")
STEPS = 300
"""Of a teacher's training: minutes on one thread."""
COUNT = 2000
"""Faces that translators' sets are made of."""


class Case(NamedTuple):
    """A teacher, what its fits look at, and what it is measured with.

    Attributes:
        fit: Settings of ``ganc.prune`` that a fit needs.
        unseen: Generator → settings of ``ganc.evaluate``.
    """

    teacher: ganc.Model
    fit: dict[str, Any]
    unseen: dict[str, dict[str, Any]]


def sngan(faces: Path, out: Path) -> Case:
    """Return an SN-GAN of faces of 32 px."""
    done = out / "sngan" / train_sngan.RESULT
    if not done.exists():
        small = out / "faces32"
        if not small.exists():
            translator_data.write_folder(small, _images(faces, 32))
        fresh = train_sngan.new_model(width=32)
        train_sngan.train(fresh, None, out / "sngan", small, STEPS, train_sngan.TRAINING)
    return Case(ganc.load(done), {}, {"generator": {"samples": 500, "seed": UNSEEN}})


def translator(name: str, faces: Path, out: Path) -> Case:
    """Return a translator of ``train_translators``."""
    task = replace(train_translators.TASKS[name], steps=STEPS)
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
            data=sets / task.data, overrides=task.overrides, steps=STEPS,
        )  # fmt: skip
    fit = {"data": sets / "edges2faces-train" / "A"}
    if name == "cyclegan":
        fit = {f: sets / task.data / part for f, part in (("data", "trainA"), ("data_b", "trainB"))}
    unseen = {
        network: {"input": sets / source, "network": network}
        for network, (source, _) in task.tests.items()
    }
    return Case(ganc.load(done), fit, unseen)


def _images(faces: Path, resolution: int) -> torch.Tensor:
    dataset = open_dataset(faces, resolution=resolution, channels=3, resize=True)
    return to_float(torch.stack([dataset.image(i) for i in range(min(COUNT, len(dataset)))]))


def compare(name: str, case: Case, *, shows_errors: bool, figures_file: Path | None) -> None:
    """Print each arm's distance to its teacher."""
    scores = ganc.score(case.teacher, "l1-out")
    for arm, settings in ((name, STARTS[name].settings) for name in ARMS):
        fit = {**settings, **case.fit} if settings else {}
        student, seconds, cpu = timed(
            lambda fit=fit: ganc.prune(case.teacher, scores, speedup=SPEEDUP, **fit)
        )
        found = {
            network: ganc.evaluate(student, ["l1"], teacher=case.teacher, **given)["metrics"]["l1"]
            for network, given in case.unseen.items()
        }
        figures.record(figures_file, "refit_normed", family=name, arm=arm, seconds=seconds, **found)
        shown = "  ".join(f"{network} {value:.4f}" for network, value in found.items())
        print(
            f"{name:9s} {arm:20s} {seconds:6.1f} s ({cpu:.1f} of the CPU)  l1 {shown}", flush=True
        )
        if settings and shows_errors:
            for layer, error in student.provenance[-1]["settings"]["errors"].items():
                print(f"    {layer:28s} {error[0]:.4f} → {error[1]:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faces", type=Path, help="folder or zip of square RGB faces")
    parser.add_argument("families", nargs="*", default=["sngan", *train_translators.TASKS])
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder, gone on with")
    parser.add_argument("--errors", action="store_true", help="each layer's as well")
    figures.add_option(parser)
    given = parser.parse_args()
    given.out.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for name in given.families:
        make = sngan if name == "sngan" else lambda *place, name=name: translator(name, *place)
        case = make(given.faces, given.out)
        compare(name, case, shows_errors=given.errors, figures_file=given.figures)


if __name__ == "__main__":
    main()
