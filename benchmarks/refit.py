"""Does fitting what pruning left help? Sliced and fitted starts of the embedded face teacher.

Every start has the same MACs, distills the same number of steps with the same seed, and is
measured against teacher and real images with latents that neither fit nor distillation saw.

    python benchmarks/refit.py -o out                             # 3 seeds, 300 steps
    python benchmarks/refit.py -o out --seeds 0 --steps 300 1000
    python benchmarks/refit.py -o out --starts sliced "two stages"
    python benchmarks/refit.py -o out --table                     # what is there so far

Every measurement is a line of ``results.jsonl`` in the folder. What has one is not run again, so
that an interrupted run goes on. Seconds are of the pruning with its fit, or of the distillation.
"""

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest import mock

import figures
import torch

import ganc
from ganc.models.network import ImageGenerator
from ganc.models.sampling import Latents
from ganc.pruning.refit import joint, refit

MACS = 3.93e6
DIVERSITY = {"method": "diversity", "samples": 1000}
REBUILD = {"method": "rebuild"}


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


@dataclass(frozen=True)
class Start:
    """How a student comes to be.

    Attributes:
        scores: How channels are scored; of a model on the way anew.
        settings: Of ``ganc.prune``.
        stages: MACs of the models on the way, each fitted to the teacher.
        change: What no setting says.
    """

    scores: Mapping[str, Any] = field(default_factory=lambda: REBUILD)
    settings: Mapping[str, Any] = field(default_factory=lambda: {"refit": True})
    stages: tuple[float, ...] = ()
    change: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


STARTS = {
    "sliced": Start(DIVERSITY, {}),
    "layers": Start(DIVERSITY, {"refit": True, "refit_steps": 0}),
    "layers and together": Start(DIVERSITY),
    "rebuild": Start(),
}
CHOICES = {
    "rebuild, global": Start(settings={"refit": True, "allocation": "global"}),
    "two stages": Start(stages=(13e6,)),
    "three stages": Start(stages=(19.3e6, 8.7e6)),
    "all move": Start(change=all_move),
    "truncated 0.7": Start(change=truncated),
    "256 samples": Start(settings={"refit": True, "refit_samples": 256}),
    "4096 samples": Start(settings={"refit": True, "refit_samples": 4096}),
    "3000 steps": Start(settings={"refit": True, "refit_steps": 3000}),
}
"""What may differ from ``rebuild``, one thing at a time."""
ALL = STARTS | CHOICES
RECIPE = {"perceptual": "effnet-lite0", "perceptual_resolution": 64}
METRICS = ("l1", "perceptual", "fd", "perceptual-diversity", "recall")
TEACHER_METRICS = METRICS[2:]
UNSEEN = 1000
"""Seed of the samples that are measured."""
RESULTS = "results.jsonl"
Made = TypeVar("Made")


class Run(NamedTuple):
    """One measurement: a start, its seed, and the steps of distillation before it."""

    arm: str
    seed: int
    steps: int


class Bench:
    """The folder of one table.

    Args:
        folder: Gets results, pruned models and runs.
        teacher: Is pruned and distilled from.
        real: Images to measure against.
        samples: How many are measured.
        figures_file: See ``figures``.
    """

    def __init__(
        self, folder: Path, teacher: ganc.Model, real: Path, samples: int, figures_file: Path | None
    ) -> None:
        self.folder, self.teacher, self.real, self.samples = folder, teacher, real, samples
        self.figures_file = figures_file

    def measure(self, run: Run) -> None:
        """Do a run, unless there is a line of it."""
        if run in results(self.folder):
            return
        model, seconds, cpu_seconds = (self.distilled if run.steps else self.pruned)(run)
        found = self.evaluate(model, METRICS, teacher=self.teacher)
        self.write(run, {**found, "seconds": seconds, "cpu_seconds": cpu_seconds})

    def measure_teacher(self) -> None:
        run = Run("teacher", 0, 0)
        if run not in results(self.folder):
            self.write(run, self.evaluate(self.teacher, TEACHER_METRICS))

    def pruned(self, run: Run) -> tuple[ganc.Model, float, float]:
        """Return the start of an arm, and what it took; saved for its distillation."""
        start = ALL[run.arm]
        settings = dict(start.settings) | ({"seed": run.seed} if start.settings else {})
        scores = self.scores(start.scores, run.seed)

        def prune() -> ganc.Model:
            model, own = self.teacher, scores
            with start.change():
                for macs in start.stages:
                    model = ganc.prune(model, own, macs=macs, teacher=self.teacher, **settings)
                    own = ganc.score(model, **start.scores, seed=run.seed)
                fitted = {"teacher": self.teacher} if start.stages else {}
                return ganc.prune(model, own, macs=MACS, **fitted, **settings)

        made = timed(prune)
        ganc.save(made[0], self.start(run), force=True)
        return made

    def scores(self, how: Mapping[str, Any], seed: int) -> ganc.Scores:
        """Return the teacher's scores, made once."""
        path = self.folder / f"{seed}.{how['method']}.scores.safetensors"
        if not path.exists():
            ganc.score(self.teacher, **how, seed=seed).save(path, force=True)
        return ganc.Scores.load(path)

    def distilled(self, run: Run) -> tuple[ganc.Model, float, float]:
        """Return a start after some steps; fewer steps that are there already are gone on from."""
        out = self.folder / f"{run.arm} {run.seed}"
        student = out / "student.safetensors"
        is_begun = student.exists()

        def distill() -> None:
            ganc.distill(
                None if is_begun else ganc.load(self.start(run)), self.teacher, out,
                steps=run.steps, seed=None if is_begun else run.seed,
                overrides=None if is_begun else RECIPE, resume="latest" if is_begun else None,
            )  # fmt: skip

        _, seconds, cpu_seconds = timed(distill)
        return ganc.load(student), seconds, cpu_seconds

    def start(self, run: Run) -> Path:
        return self.folder / f"{run.arm} {run.seed}.safetensors"

    def evaluate(
        self, model: ganc.Model, metrics: Sequence[str], **settings: Any
    ) -> dict[str, float]:
        found = ganc.evaluate(
            model, metrics, data=self.real, samples=self.samples, seed=UNSEEN, **settings
        )
        return dict(found["metrics"])

    def write(self, run: Run, values: Mapping[str, float]) -> None:
        with (self.folder / RESULTS).open("a") as file:
            file.write(json.dumps(run._asdict() | values) + "\n")
        figures.record(self.figures_file, "refit", **run._asdict(), **values)
        print(*run, *(f"{name} {value:.4g}" for name, value in values.items()), flush=True)


def timed(work: Callable[[], Made]) -> tuple[Made, float, float]:
    """Return what work gives, its seconds by the wall and of the CPU."""
    start, cpu_start = time.perf_counter(), time.process_time()
    made = work()
    return made, time.perf_counter() - start, time.process_time() - cpu_start


def runs(starts: Sequence[str], seeds: Sequence[int], steps: Sequence[int]) -> Iterator[Run]:
    """Yield all runs, those first of which a part says most: one seed, all starts, then the rest.

    The longer distillations of a seed follow when the shorter ones of all seeds are there.
    """
    first, *others = seeds
    for part, lengths in (([first], [0, steps[0]]), (others, [0, steps[0]]), (seeds, steps[1:])):
        for length in lengths:
            yield from (Run(arm, seed, length) for seed in part for arm in starts)


def results(folder: Path) -> dict[Run, dict[str, float]]:
    """Return what was measured so far."""
    path, found = folder / RESULTS, {}
    for line in path.read_text().splitlines() if path.exists() else []:
        values = json.loads(line)
        found[Run(*(values.pop(name) for name in Run._fields))] = values
    return found


def table(found: Mapping[Run, Mapping[str, float]]) -> list[str]:
    """Return a Markdown table: a row per start and length, a cell's numbers in order of seeds."""
    columns = ("seconds", "cpu_seconds", *METRICS)
    lines = [
        "| start | steps | seeds | " + " | ".join(columns) + " |",
        "|---" * (3 + len(columns)) + "|",
    ]
    order = ["teacher", *ALL]
    for steps, arm in sorted({(r.steps, order.index(r.arm)) for r in found}):
        own = {
            r.seed: found[r] for r in sorted(found) if (order.index(r.arm), r.steps) == (arm, steps)
        }
        cells = [_cell([v[name] for v in own.values() if name in v]) for name in columns]
        lines.append(
            f"| {order[arm]} | {steps} | {', '.join(map(str, own))} | {' | '.join(cells)} |"
        )
    return lines


def _cell(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values)
    return f"**{statistics.fmean(values):.4g}** ({shown})" if len(values) > 1 else shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder, gone on with")
    parser.add_argument("--data", type=Path, help="real images; default: those of the package")
    parser.add_argument("--starts", nargs="+", choices=ALL, default=list(STARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[300], help="ascending")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--table", action="store_true", help="run nothing")
    figures.add_option(parser)
    given = parser.parse_args()
    given.out.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    with resources.as_file(resources.files("ganc.showcase")) as carried:
        if not given.table:
            teacher = ganc.load(carried / "faces32.safetensors")
            real = given.data or carried / "faces32-real.zip"
            bench = Bench(given.out, teacher, real, given.samples, given.figures)
            bench.measure_teacher()
            for run in runs(given.starts, given.seeds, given.steps):
                bench.measure(run)
    print(*table(results(given.out)), sep="\n")


if __name__ == "__main__":
    main()
