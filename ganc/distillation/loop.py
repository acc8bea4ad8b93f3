"""Distillation: from a sliced student and its teacher to a run folder with a trained student."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganc.devices import resolve_device
from ganc.distillation import run_folder
from ganc.distillation.metrics import MetricsLog
from ganc.distillation.networks import check_pair
from ganc.distillation.recipes import Recipe
from ganc.distillation.run import (
    Run,
    Source,
    new_run,
    open_model,
    open_perceptual,
    resumed_run,
)
from ganc.distillation.run_folder import Snapshot
from ganc.distillation.settings import Choices, Settings, new_settings, resumed_settings
from ganc.distillation.stop import StopRequest, catch_signals
from ganc.errors import ComputationError, Interrupted, UsageError
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
    steps: int | None = None,
    recipe: str | Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    seed: int | None = None,
    freeze_mapping: bool | None = None,
    resize: bool | None = None,
    resume: str | Path | None = None,
    device: str | torch.device = "auto",
    offline: bool = False,
    save_every: int = 1000,
    sample_every: int = 500,
    log_every: int = 10,
    keep_last: int = 3,
    progress: Progress = silent,
    warn: Warn = ignore,
) -> DistillResult:
    """Train a student to give its teacher's images.

    Args:
        student: Where to start from, usually a pruned teacher. Not needed to resume.
        teacher: What to learn from. To resume it is found again where it was read from a file.
        out: The run folder; new or empty, unless a run in it is resumed.
        steps: Steps in all. None: as the run was started with, else ``DEFAULT_STEPS``.
        recipe, overrides, data, seed, freeze_mapping, resize: See ``settings.Choices``.
        resume: "latest", or the folder of one of the run's checkpoints.
        device: Where to train.
        offline: Never fetch the perceptual network's weights.
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
    folder, place = Path(out), resolve_device(device)
    choices = Choices(recipe, overrides or {}, seed, data, freeze_mapping, resize)
    with run_folder.hold(folder):
        snapshot = _open_folder(folder, resume, warn)
        settings = _settings(choices, snapshot, folder)
        wanted = steps or (snapshot.state["steps"] if snapshot else DEFAULT_STEPS)
        schedule = Schedule(wanted, save_every, sample_every, log_every, keep_last)
        _check_steps(schedule, snapshot)
        saved = snapshot.state["identity"]["teacher_path"] if snapshot else None
        found = _required(teacher or saved, "teacher", "pass --teacher CKPT")
        start = student or (snapshot.student if snapshot else None)
        start = _required(start, "student", "name its checkpoint, or pass --resume")
        pupil, loaded = open_model(start), open_model(found)
        check_pair(pupil, loaded)  # before weights are fetched that could not serve
        perceptual = open_perceptual(settings.recipe, place, offline, progress)
        if snapshot:
            same = None if student is None else pupil
            run = resumed_run(
                folder, settings, snapshot, same, loaded, perceptual, place, progress, warn
            )
        else:
            path = _absolute(found)
            run = new_run(folder, settings, pupil, loaded, path, perceptual, place, progress, warn)
        return _train(run, snapshot, schedule, progress, out)


def _open_folder(folder: Path, resume: str | Path | None, warn: Warn) -> Snapshot | None:
    if resume is None:
        run_folder.check_unused(folder)
        return None
    return run_folder.load_snapshot(folder, resume, warn)


def _settings(choices: Choices, snapshot: Snapshot | None, folder: Path) -> Settings:
    if snapshot is None:
        return new_settings(choices)
    return resumed_settings(choices, snapshot.state["settings"], str(folder))


def _check_steps(schedule: Schedule, snapshot: Snapshot | None) -> None:
    if snapshot and snapshot.step > schedule.steps:
        raise UsageError(
            f"--steps {schedule.steps} is less than the {snapshot.step} that the run has done",
            "--steps counts from the start of the run",
        )


def _required(source: Source | None, what: str, hint: str) -> Source:
    """Find that a model was not named, before anything is loaded or fetched."""
    if source is None:
        raise UsageError(f"a {what} is needed to distill", hint)
    return source


def _absolute(source: Source | None) -> str | None:
    return str(Path(source).resolve()) if isinstance(source, str | Path) else None


def _train(
    run: Run, snapshot: Snapshot | None, schedule: Schedule, progress: Progress, out: str | Path
) -> DistillResult:
    """Train from a run's state to the last step, with everything that has to be open meanwhile."""
    start, losses = (snapshot.step, snapshot.state["losses"]) if snapshot else (0, {})
    began = time.perf_counter()
    trainer = run.trainer
    run_folder.check_space(
        run.folder, Model(trainer.generator, trainer.discriminator), schedule.keep_last
    )
    try:
        run_folder.prepare(run.folder, run.settings.recipe.to_json())
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
        for step, (real, c) in enumerate(batches, start):
            losses = run.trainer.step(step, real, c)
            done, clock, before = step + 1, time.perf_counter(), clock
            log.add(done, done * run.settings.recipe.batch, clock - before, losses)
            _after_step(run, done, schedule, log, stop)
            progress("distilling", done, schedule.steps)


def _after_step(
    run: Run, done: int, schedule: Schedule, log: MetricsLog, stop: StopRequest
) -> None:
    """Do what is due after a step: losses are looked at before a checkpoint is written."""
    is_last = done == schedule.steps or stop.exit_code is not None
    is_saved = is_last or done % schedule.save_every == 0
    is_sampled = is_last or done % schedule.sample_every == 0
    if is_saved or is_sampled or done % schedule.log_every == 0:
        _flush(log, run.folder)
    if is_sampled:
        run.sample(done, log)
    if is_saved:
        run.save(done, schedule.steps, log.last, schedule.keep_last)
    if stop.exit_code is not None:
        raise Interrupted(
            f"interrupted at step {done} of {schedule.steps}; the state was saved",
            stop.exit_code,
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
