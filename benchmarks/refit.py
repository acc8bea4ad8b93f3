"""Does fitting what pruning left help? Sliced and fitted starts of the embedded face teacher.

Every start has the same MACs, distills the same number of steps with the same seed, and is
measured against teacher and real images with latents that neither fit nor distillation saw.

    python benchmarks/refit.py -o out                             # 3 seeds, 300 steps
    python benchmarks/refit.py -o out --seeds 0 --steps 300 1000
    python benchmarks/refit.py -o out --starts sliced "two stages"
    python benchmarks/refit.py -o out --table                     # what is there so far

See ``arms`` for how an interrupted table goes on.
"""

import argparse
import contextlib
from collections.abc import Iterator
from functools import partial
from importlib import resources
from unittest import mock

import torch
from arms import EFFNET, Bench, Start, Subject, Training, add_options, results, runs, table

import ganc
from ganc.models.network import ImageGenerator
from ganc.models.sampling import Latents
from ganc.pruning.refit import joint, refit

DIVERSITY = {"method": "diversity", "samples": 1000}
REBUILD = {"method": "rebuild"}
FITTED = {"refit": True}


@contextlib.contextmanager
def all_move() -> Iterator[None]:
    """Let biases, noise strengths and the constant input move in the joint part as well."""

    def movable(student: ImageGenerator) -> list[torch.Tensor]:
        student.requires_grad_(False)
        names = dict(student.named_parameters())
        return [names[name].requires_grad_() for name in names if name.startswith("synthesis.")]

    with mock.patch.object(joint, "_movable", movable):
        yield


@contextlib.contextmanager
def truncated() -> Iterator[None]:
    """Fit to latents that are truncated."""
    with mock.patch.object(refit, "Latents", partial(Latents, truncation_psi=0.7)):
        yield


STARTS = {
    "sliced": Start(DIVERSITY),
    "layers": Start(DIVERSITY, {**FITTED, "refit_steps": 0}),
    "layers and together": Start(DIVERSITY, FITTED),
    "rebuild": Start(REBUILD, FITTED),
}
CHOICES = {
    "rebuild, global": Start(REBUILD, {**FITTED, "allocation": "global"}),
    "two stages": Start(REBUILD, FITTED, stages=(13e6,)),
    "three stages": Start(REBUILD, FITTED, stages=(19.3e6, 8.7e6)),
    "all move": Start(REBUILD, FITTED, change=all_move),
    "truncated 0.7": Start(REBUILD, FITTED, change=truncated),
    "256 samples": Start(REBUILD, {**FITTED, "refit_samples": 256}),
    "4096 samples": Start(REBUILD, {**FITTED, "refit_samples": 4096}),
    "3000 steps": Start(REBUILD, {**FITTED, "refit_steps": 3000}),
}
"""What may differ from ``rebuild``, one thing at a time."""
ALL = STARTS | CHOICES
METRICS = ("l1", "perceptual", "fd", "perceptual-diversity", "recall")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", nargs="+", choices=ALL, default=list(STARTS))
    add_options(parser)
    given = parser.parse_args()
    given.out.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    arms = {name: (name, Training(overrides=EFFNET)) for name in ALL}
    with resources.as_file(resources.files("ganc.showcase")) as carried:
        if not given.table:
            teacher = ganc.load(carried / "faces32.safetensors")
            real = given.data or carried / "faces32-real.zip"
            subject = Subject(teacher, real, METRICS, given.samples)
            bench = Bench(given.out, "refit", ALL, arms, subject, given.figures)
            bench.measure_teacher()
            for run in runs(given.starts, given.seeds, [0, *given.steps]):
                bench.measure(run)
    print(*table(results(given.out), list(ALL), METRICS), sep="\n")


if __name__ == "__main__":
    main()
