"""Distillation: from a student and its teacher to a run folder with a trained student."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganc import collectives
from ganc.devices import resolve_device
from ganc.distillation import run_folder
from ganc.distillation.execution import Execution
from ganc.distillation.metrics import MetricsLog
from ganc.distillation.networks import (
    INITS,
    PRUNED,
    check_pair,
    check_trainable,
    new_generator,
    starting_model,
)
from ganc.distillation.recipes import Recipe
from ganc.distillation.run import (
    Run,
    Source,
    new_run,
    open_means,
    open_model,
    resumed_run,
)
from ganc.distillation.run_folder import Snapshot
from ganc.distillation.settings import Choices, Settings, new_settings, resumed_settings
from ganc.distillation.stop import StopRequest, catch_signals
from ganc.errors import ComputationError, Interrupted, UsageError, unknown_name
from ganc.files import write_error
from ganc.models.model import Model
from ganc.progress import Progress, Warn, ignore, silent

DEFAULT_STEPS = 10_000


@dataclass(frozen=True)
class DistillResult:
    """What a run gave.

    Attributes:
        output: The run folder; ``student.safetensors`` in it is the result.
        steps: Steps done in all.
        losses: Last known value of every loss.
        seconds: What this call spent training.
    """

    output: str
    steps: int
    losses: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Schedule:
    """How long to train and how often to do what; none of it changes a loss.

    Attributes:
        steps: Steps in all, those before a resume included.
        save_every: Steps between two checkpoints.
        sample_every: Steps between two sample grids.
        log_every: Steps whose losses are fetched from the device together.
        keep_last: Checkpoints that stay.
    """

    steps: int
    save_every: int
    sample_every: int
    log_every: int
    keep_last: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value} is below 1")


def distill(
    student: Source | None,
    teacher: Source | None,
    out: str | Path,
    *,
    architecture: str | None = None,
    config: Mapping[str, Any] | None = None,
    init: str = PRUNED,
    steps: int | None = None,
    recipe: str | Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    data_b: str | Path | None = None,
    swap: bool | None = None,
    seed: int | None = None,
    resize: bool | None = None,
    resume: str | Path | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
    offline: bool = False,
    save_every: int = 1000,
    sample_every: int = 500,
    log_every: int = 10,
    keep_last: int = 3,
    progress: Progress = silent,
    warn: Warn = ignore,
) -> DistillResult:
    """Train a student to give its teacher's images; without a teacher, train it as a plain GAN.

    Started by ``torchrun`` (see ``parallel.process_group``), the processes share each batch out and
    the first one writes; the losses are those of one process with the same batch.

    Args:
        student: Where to start from, usually a pruned teacher. Not needed to resume, nor with
            ``architecture``.
        teacher: What to learn from, or None. To resume it is found again where it was read from a
            file.
        out: The run folder; new or empty, unless a run in it is resumed.
        architecture, config: A new student instead: see ``networks.new_generator``.
        init: "pruned" starts from the student's weights, "scratch" from random ones.
        steps: Steps in all. None: as the run was started with, else ``DEFAULT_STEPS``.
        recipe, overrides, data, data_b, swap, seed, resize: See ``settings.Choices``.
        resume: "latest", or the folder of one of the run's checkpoints.
        device: Where to train.
        precision: See ``Execution``.
        offline: Never fetch the weights of a perceptual or mask network.
        save_every, sample_every, log_every, keep_last: See ``Schedule``.
        progress, warn: Told what happens.
    Returns:
        The result; the run folder holds the rest.
    Raises:
        UsageError, InputError: Before anything is trained: settings, models, data or weights that
            cannot serve; a folder in use; a resumed run with other settings.
        ComputationError: A loss is not finite; the last good checkpoint is named.
        OutputError: The disk is full; the checkpoints before are untouched.
        Interrupted: Ctrl-C or SIGTERM came; the state was saved.
    Guarantees: On the CPU a resumed run has the very losses of one that was never interrupted. The
        models passed in are not changed.
    """
    folder, execution = Path(out), Execution(resolve_device(device), precision)
    choices = Choices(recipe, overrides or {}, seed, data, data_b, swap, resize)
    choices.check()
    request = StudentRequest(student, architecture, config or {}, init)
    with run_folder.hold(folder):
        snapshot = _open_folder(folder, resume, warn)
        request.check(is_resumed=snapshot is not None)
        wanted = steps or (snapshot.state["steps"] if snapshot else DEFAULT_STEPS)
        schedule = Schedule(wanted, save_every, sample_every, log_every, keep_last)
        _check_steps(schedule, snapshot)
        path = _absolute(teacher) or (
            snapshot.state["identity"]["teacher_path"] if snapshot else None
        )
        loaded = _open_teacher(teacher or path, snapshot)
        origin = request.open(loaded, seed or 0)
        pupil = origin or (snapshot.student if snapshot else None)
        assert pupil is not None  # a run that is not resumed names its student
        _check_models(pupil, loaded)  # before weights are fetched that could not serve
        settings = _settings(choices, snapshot, folder, pupil.architecture, loaded is not None)
        means = open_means(settings.recipe, execution, offline, progress, warn)
        if snapshot:
            run = resumed_run(folder, settings, snapshot, origin, loaded, means)
        else:
            start = starting_model(pupil, loaded, settings.seed, init, warn)
            run = new_run(folder, settings, pupil, start, loaded, path, means)
        return _train(run, snapshot, schedule, progress, out)


@dataclass(frozen=True)
class StudentRequest:
    """How the student was named: by a checkpoint, or as a new generator.

    Attributes:
        student, architecture, config, init: See ``distill``.
    """

    student: Source | None
    architecture: str | None
    config: Mapping[str, Any]
    init: str

    def check(self, *, is_resumed: bool) -> None:
        """Find contradictions before anything is loaded.

        Raises:
            UsageError: None or two students are named, or a value is not known.
        """
        if self.init not in INITS:
            raise unknown_name("--init", self.init, INITS)
        if self.config and self.architecture is None:
            raise UsageError("--set and --resolution describe a new student", "add --architecture")
        if self.student is not None and self.architecture is not None:
            raise UsageError(
                "STUDENT and --architecture both name a student",
                "drop one; --init scratch trains the architecture of STUDENT from random weights",
            )
        if self.student is None and self.architecture is None and not is_resumed:
            raise UsageError(
                "a student is needed to distill",
                "name its checkpoint, or pass --resume or --architecture",
            )

    def open(self, teacher: Model | None, seed: int) -> Model | None:
        """Return the model that was named, or a new one; None where a run goes on with its own."""
        if self.student is not None:
            return open_model(self.student)
        if self.architecture is None:
            return None
        return Model(new_generator(self.architecture, self.config, teacher, seed))


def _open_teacher(source: Source | None, snapshot: Snapshot | None) -> Model | None:
    needs_one = snapshot is not None and snapshot.state["identity"]["teacher"] is not None
    if source is None and needs_one:
        raise UsageError("a teacher is needed to go on with this run", "pass --teacher CKPT")
    return None if source is None else open_model(source)


def _check_models(student: Model, teacher: Model | None) -> None:
    if teacher is None:
        check_trainable("student", student)
    else:
        check_pair(student, teacher)


def _open_folder(folder: Path, resume: str | Path | None, warn: Warn) -> Snapshot | None:
    snapshot = None
    if resume is None:
        run_folder.check_unused(folder)
    else:
        snapshot = run_folder.load_snapshot(folder, resume, warn)
    collectives.barrier()  # nobody writes what another has yet to look at
    return snapshot


def _settings(
    choices: Choices,
    snapshot: Snapshot | None,
    folder: Path,
    architecture: str,
    has_teacher: bool,
) -> Settings:
    if snapshot is None:
        return new_settings(choices, architecture, has_teacher=has_teacher)
    saved = snapshot.state["settings"]
    return resumed_settings(choices, saved, str(folder), architecture, has_teacher=has_teacher)


def _check_steps(schedule: Schedule, snapshot: Snapshot | None) -> None:
    if snapshot and snapshot.step > schedule.steps:
        raise UsageError(
            f"--steps {schedule.steps} is less than the {snapshot.step} that the run has done",
            "--steps counts from the start of the run",
        )


def _absolute(source: Source | None) -> str | None:
    return str(Path(source).resolve()) if isinstance(source, str | Path) else None


def _train(
    run: Run, snapshot: Snapshot | None, schedule: Schedule, progress: Progress, out: str | Path
) -> DistillResult:
    """Train from a run's state to the last step, with everything that has to be open meanwhile."""
    start, losses = (snapshot.step, snapshot.state["losses"]) if snapshot else (0, {})
    began = time.perf_counter()
    run_folder.check_space(run.folder, run.trainer.student, schedule.keep_last)
    try:
        run_folder.prepare(run.folder, run.settings.recipe.to_json(), start)
        if snapshot is None:
            run.save(0, schedule.steps, {}, schedule.keep_last)
        else:
            run.export(start)
        with (
            contextlib.closing(MetricsLog(run.folder, start, losses)) as log,
            catch_signals() as stop,
        ):
            run.sample(start, log)
            _steps(run, start, schedule, log, stop, progress)
    except OSError as error:
        raise write_error(run.folder, error) from error
    return DistillResult(str(out), schedule.steps, log.last, time.perf_counter() - began)


def _steps(
    run: Run,
    start: int,
    schedule: Schedule,
    log: MetricsLog,
    stop: StopRequest,
    progress: Progress,
) -> None:
    """Take the steps [start, schedule.steps)."""
    clock = time.perf_counter()
    with contextlib.closing(run.reals.batches(start, schedule.steps)) as batches:
        for step, batch in enumerate(batches, start):
            losses = run.trainer.step(step, batch)
            done, clock, before = step + 1, time.perf_counter(), clock
            log.add(done, done * run.settings.recipe.batch, clock - before, losses)
            _after_step(run, done, schedule, log, stop)
            progress("distilling", done, schedule.steps)


def _after_step(
    run: Run, done: int, schedule: Schedule, log: MetricsLog, stop: StopRequest
) -> None:
    """Do what is due after a step: losses are looked at before a checkpoint is written."""
    exit_code = collectives.largest(stop.exit_code or 0)  # the processes stop at the same step
    is_last = done == schedule.steps or exit_code > 0
    is_saved = is_last or done % schedule.save_every == 0
    is_sampled = is_last or done % schedule.sample_every == 0
    if is_saved or is_sampled or done % schedule.log_every == 0:
        _flush(log, run.folder)
    if is_sampled:
        run.sample(done, log)
    if is_saved:
        run.save(done, schedule.steps, log.last, schedule.keep_last)
    if exit_code:
        collectives.barrier()  # torchrun kills the others as soon as one ends: not while it saves
        raise Interrupted(
            f"interrupted at step {done} of {schedule.steps}; the state was saved",
            exit_code,
            f"ganc distill -o {run.folder} --resume latest",
        )


def _flush(log: MetricsLog, folder: Path) -> None:
    try:
        log.flush()
    except ComputationError as error:
        last = folder / run_folder.CHECKPOINTS / str(run_folder.steps(folder)[-1])
        raise ComputationError(
            f"{error}; last good checkpoint: {last}",
            "start a new run from it with a lower --lr, or on another device",
        ) from error
