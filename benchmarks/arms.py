"""Tables of students: arms × seeds × steps, measured alike, one JSON line each, gone on with.

An arm is a start, which is pruned from the teacher and perhaps fitted, and how it is distilled.
Students are measured with latents that neither fit nor distillation saw. Seconds are of the scores,
of the pruning with its fit, or of the distillation up to there.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import figures
import torch

import ganc

EFFNET = {"perceptual": "effnet-lite0", "perceptual_resolution": 64}
"""A perceptual term that takes half the time of the recipe's own at 32 px."""
UNSEEN = 1000
"""Seed of the samples that are measured."""
TO_TEACHER = ("l1", "psnr", "lpips", "perceptual", "irs-kept")
"""Metrics that the teacher itself has none of."""
RESULTS = "results.jsonl"
Change = Callable[[], contextlib.AbstractContextManager[None]]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Start:
    """How a student comes to be.

    Attributes:
        scores: How channels are scored; of a model on the way anew.
        settings: Of ``ganc.prune``.
        stages: MACs of the models on the way, each fitted to the teacher.
        macs: What is left.
        change: What no setting says.
    """

    scores: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[float, ...] = ()
    macs: float = 3.93e6
    change: Change = contextlib.nullcontext


@dataclass(frozen=True)
class Training:
    """How a start is distilled.

    Attributes:
        recipe: Its name; None for the family's own.
        overrides: Numbers that differ from it.
        init: See ``ganc.distill``; None: as the recipe has it.
        on_real: Whether the discriminator learns from the real images; if not, from the teacher's.
        alone: Whether a CycleGAN's directions are distilled each by itself.
    """

    recipe: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    on_real: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Subject:
    """A teacher, and what its students learn from and are measured by.

    Attributes:
        teacher: Is pruned and distilled from.
        real: Images for a discriminator; what ``ganc.distill`` takes as data.
        metrics: Of every student.
        samples: How many are measured.
        views: What stands before a metric's name → settings of ``ganc.evaluate`` that differ from
            ``real`` as data; a CycleGAN has a view of each direction.
    """

    teacher: ganc.Model
    real: Path
    metrics: Sequence[str]
    samples: int
    views: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})

    @property
    def columns(self) -> list[str]:
        """Return the names of all numbers of a student."""
        return [f"{view}{name}" for view in self.views for name in self.metrics]


class Run(NamedTuple):
    """One measurement: an arm, its seed, and the steps of distillation before it."""

    arm: str
    seed: int
    steps: int


class Bench:
    """The folder of one table.

    Args:
        folder: Gets results, pruned models and runs.
        name: Of the benchmark, in the file of figures.
        starts: By name.
        arms: By name: a start's name, and how it is distilled. A start's own name is an arm, too:
            with 0 steps the start is measured.
        subject: Whose students they are.
        figures_file: See ``figures``.
        means: How runs are computed: ``device``, and what else ``distill`` may be told of it.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        starts: Mapping[str, Start],
        arms: Mapping[str, tuple[str, Training]],
        subject: Subject,
        figures_file: Path | None,
        means: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.name, self.starts, self.arms = folder, name, starts, arms
        self.subject, self.teacher, self.figures_file = subject, subject.teacher, figures_file
        self.means = {"device": "cpu"} if means is None else dict(means)

    def measure(self, run: Run) -> None:
        """Do a run, unless there is a line of it."""
        if run in results(self.folder):
            return
        made, seconds, cpu_seconds = self.distilled(run) if run.steps else self.started(run)
        found = self.evaluate(made, self.subject.metrics, teacher=self.teacher)
        self.write(run, {**found, "seconds": seconds, "cpu_seconds": cpu_seconds})

    def measure_teacher(self) -> None:
        """Measure the teacher, as far as that makes sense."""
        run = Run("teacher", 0, 0)
        own = [name for name in self.subject.metrics if name not in TO_TEACHER]
        if run not in results(self.folder):
            self.write(run, self.evaluate(self.teacher, own))

    def started(self, run: Run) -> tuple[ganc.Model, float, float]:
        """Return a start, and what it took; saved for its distillation."""
        start = self.starts[run.arm]
        settings: dict[str, Any] = dict(start.settings)
        settings |= {"seed": run.seed, "device": self.device} if settings else {}
        scores = self.scores(start.scores, run.seed)

        def prune() -> ganc.Model:
            model, own = self.teacher, scores
            with start.change():
                for macs in start.stages:
                    model = ganc.prune(model, own, macs=macs, teacher=self.teacher, **settings)
                    own = ganc.score(model, **start.scores, seed=run.seed, device=self.device)
                fitted = {"teacher": self.teacher} if start.stages else {}
                return ganc.prune(model, own, macs=start.macs, **fitted, **settings)

        made = timed(prune)
        ganc.save(made[0], start_path(self.folder, run), force=True)
        return made

    def scores(self, how: Mapping[str, Any], seed: int) -> ganc.Scores:
        """Return the teacher's scores, made once."""
        path = self.folder / f"{seed}.{how['method']}.scores.safetensors"
        if not path.exists():
            make = partial(ganc.score, self.teacher, **how, seed=seed, device=self.device)
            scores, seconds, cpu_seconds = timed(make)
            scores.save(path, force=True)
            took = {"seconds": seconds, "cpu_seconds": cpu_seconds}
            self.write(Run(f"{how['method']} scores", seed, 0), took)
        return ganc.Scores.load(path)

    def distilled(self, run: Run) -> tuple[ganc.Model, float, float]:
        """Return a start after some steps; fewer steps that are there already are gone on from."""
        start, training = self.arms[run.arm]
        pruned = start_path(self.folder, Run(start, run.seed, 0))
        if not pruned.exists():
            self.measure(Run(start, run.seed, 0))
        if not pruned.exists():  # measured, then removed
            self.started(Run(start, run.seed, 0))
        distill = self.each_alone if training.alone else self.trained
        out = self.folder / f"{run.arm} {run.seed}"
        return timed(partial(distill, run, training, out, ganc.load(pruned), self.teacher))

    def trained(
        self, run: Run, training: Training, out: Path, student: ganc.Model, teacher: ganc.Model,
        **data: Any,
    ) -> ganc.Model:  # fmt: skip
        """Return a student after a run's steps in a folder of its own."""
        result = out / "student.safetensors"
        if result.exists():
            ganc.distill(None, teacher, out, steps=run.steps, resume="latest", **self.means)
            return ganc.load(result)
        given: dict[str, Any] = {} if training.init is None else {"init": training.init}
        given |= {"data": self.subject.real, **data} if training.on_real else {}
        ganc.distill(
            student, teacher, out, steps=run.steps, seed=run.seed, recipe=training.recipe,
            overrides=training.overrides, **given, **self.means,
        )  # fmt: skip
        return ganc.load(result)

    def each_alone(
        self, run: Run, training: Training, out: Path, student: ganc.Model, teacher: ganc.Model
    ) -> ganc.Model:
        """Return a CycleGAN of which each direction was trained by itself."""
        there, back = (
            self.trained(
                run, training, Path(f"{out}{suffix}"), _direction(student, suffix),
                _direction(teacher, suffix), swap=bool(suffix),
            )
            for suffix in ("", "_b")
        )  # fmt: skip
        return ganc.Model(there.generator, there.discriminator, back.generator, back.discriminator)

    @property
    def device(self) -> str:
        """Return what everything runs on."""
        return str(self.means["device"])

    def evaluate(
        self, model: ganc.Model, metrics: Sequence[str], **settings: Any
    ) -> dict[str, float]:
        """Return a model's metrics, of all views."""
        found = {}
        for view, own in self.subject.views.items():
            given = {"data": self.subject.real, **own, **settings}
            result = ganc.evaluate(
                model,
                metrics,
                samples=self.subject.samples,
                seed=UNSEEN,
                device=self.device,
                **given,
            )
            found |= {f"{view}{name}": value for name, value in result["metrics"].items()}
        return found

    def write(self, run: Run, values: Mapping[str, float]) -> None:
        """Keep and print what a run gave."""
        with (self.folder / RESULTS).open("a") as file:
            file.write(json.dumps(run._asdict() | values) + "\n")
        figures.record(self.figures_file, self.name, **run._asdict(), **values)
        print(*run, *(f"{name} {value:.4g}" for name, value in values.items()), flush=True)


def _direction(model: ganc.Model, suffix: str) -> ganc.Model:
    """Return one direction of a CycleGAN; "_b" is the way back."""
    names = (f"{name}{suffix}" for name in ("generator", "discriminator"))
    return ganc.Model(*(getattr(model, name) for name in names), provenance=model.provenance)


def timed(work: Callable[[], Made]) -> tuple[Made, float, float]:
    """Return what work gives, its seconds by the wall and of the CPU."""
    start, cpu_start = time.perf_counter(), time.process_time()
    made = work()
    return made, time.perf_counter() - start, time.process_time() - cpu_start


def runs(arms: Sequence[str], seeds: Sequence[int], steps: Sequence[int]) -> Iterator[Run]:
    """Yield all runs, those first of which a part says most: one seed, all arms, then the rest.

    The longer distillations of a seed follow when the shorter ones of all seeds are there.
    """
    first, *others = seeds
    for part, lengths in (([first], steps[:2]), (others, steps[:2]), (seeds, steps[2:])):
        for length in lengths:
            yield from (Run(arm, seed, length) for seed in part for arm in arms)


def start_path(folder: Path, run: Run) -> Path:
    """Return where a start is kept."""
    return folder / f"{run.arm} {run.seed}.safetensors"


def measure_all(make: Callable[[], Bench], wanted: Sequence[Run], jobs: int) -> int:
    """Do runs; several at a time go by length, so that no two write to one folder.

    Args:
        make: Returns the bench; pickled for each process.
        wanted: In order.
        jobs: Processes; 1: this one.
    Returns:
        How many failed; their errors are printed.
    """
    if jobs == 1:
        bench = make()
        for run in wanted:
            bench.measure(run)
        return 0
    failed = 0
    spawn = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(jobs, spawn, _open, (make,)) as pool:
        for _, part in itertools.groupby(sorted(wanted, key=_steps), _steps):
            failed += sum(pool.map(_measure, part))
    return failed


def _steps(run: Run) -> int:
    return run.steps


_opened: list[Bench] = []
"""A process's own."""


def _open(make: Callable[[], Bench]) -> None:
    torch.set_num_threads(1)
    _opened.append(make())


def _measure(run: Run) -> bool:
    """Do a run in a process of the pool; tell whether it failed."""
    try:
        _opened[0].measure(run)
    except Exception:  # one arm's fault must not end the table
        print(*run, "failed:", traceback.format_exc(), file=sys.stderr, flush=True)
        return True
    return False


def results(folder: Path) -> dict[Run, dict[str, float]]:
    """Return what was measured so far."""
    path, found = folder / RESULTS, {}
    for line in path.read_text().splitlines() if path.exists() else []:
        values = json.loads(line)
        found[Run(*(values.pop(name) for name in Run._fields))] = values
    return found


def table(
    found: Mapping[Run, Mapping[str, float]], order: Sequence[str], metrics: Sequence[str]
) -> list[str]:
    """Return a Markdown table: a row per arm and length, a cell's numbers in order of seeds.

    Args:
        order: Of the arms.
        metrics: The columns behind the seconds.
    """
    columns = ("seconds", "cpu_seconds", *metrics)
    lines = [
        "| arm | steps | seeds | " + " | ".join(columns) + " |",
        "|---" * (3 + len(columns)) + "|",
    ]
    order = ["teacher", *order]
    for steps, arm in sorted({(r.steps, order.index(r.arm)) for r in found if r.arm in order}):
        own = {r.seed: found[r] for r in sorted(found) if (r.arm, r.steps) == (order[arm], steps)}
        cells = [_cell([v[name] for v in own.values() if name in v]) for name in columns]
        lines.append(
            f"| {order[arm]} | {steps} | {', '.join(map(str, own))} | {' | '.join(cells)} |"
        )
    return lines


def _cell(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values)
    return f"**{statistics.fmean(values):.4g}** ({shown})" if len(values) > 1 else shown


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what every table's command takes."""
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder, gone on with")
    parser.add_argument("--data", type=Path, help="real images; default: those of the package")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[300], help="ascending")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--table", action="store_true", help="run nothing")
    figures.add_option(parser)
