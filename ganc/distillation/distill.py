"""Distillation: from a student and its teacher to a run folder with a trained student."""

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch

from ganc import collectives
from ganc.devices import resolve_device
from ganc.distillation import run_folder
from ganc.distillation.evaluations import Evaluate, EvaluationLog
from ganc.distillation.execution import Execution, PhaseTimes
from ganc.distillation.loop import Session, Watchers
from ganc.distillation.metrics import MetricsLog
from ganc.distillation.monitor import Observer, unobserved
from ganc.distillation.networks import (
    check_pair,
    check_trainable,
    new_student,
    starting_model,
)
from ganc.distillation.options import (
    CHOICES,
    INITS,
    SCHEDULE,
    DistillOptions,
    DistillSettings,
)
from ganc.distillation.recipes import Recipe
from ganc.distillation.run import (
    ModelSource,
    TrainingRun,
    check_perceptual,
    new_run,
    open_means,
    open_model,
    resumed_run,
)
from ganc.distillation.run_folder import Snapshot
from ganc.distillation.schedule import Best, Schedule, resolve_schedule
from ganc.distillation.settings import Choices, TrainingSettings, new_settings, resumed_settings
from ganc.errors import UsageError, unknown_name
from ganc.files import write_error
from ganc.models.model import Model
from ganc.options import options_of
from ganc.progress import Progress, Warn, ignore, silent
from ganc.stop import catch_signals


@dataclass(frozen=True)
class DistillResult:
    """What a run gave.

    Attributes:
        output: The run folder; ``student.safetensors`` in it is the result.
        steps: Steps done in all.
        losses: Last known value of every loss.
        seconds: What this call spent training.
        evaluation: Values of the last evaluation, with its ``step``; empty without evaluations.
        best: Folders of the checkpoints that ``keep_best`` keeps, best first.
        profile: Phase → "calls", "seconds", "seconds_per_call", "share"; None without a profile.
    """

    output: str
    steps: int
    losses: dict[str, float]
    seconds: float
    evaluation: dict[str, float]
    best: list[str]
    profile: dict[str, dict[str, float]] | None


def distill(
    student: ModelSource | None,
    teacher: ModelSource | None,
    out: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    recipe: str | Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    evaluate: Evaluate | None = None,
    eval_settings: Mapping[str, Any] | None = None,
    keep_best: Best | None = None,
    on_log: Observer = unobserved,
    progress: Progress = silent,
    warn: Warn = ignore,
    **settings: Unpack[DistillSettings],
) -> DistillResult:
    """Train a student to give its teacher's images; without a teacher, train it as a plain GAN.

    Started by ``torchrun`` (see ``launch.process_group``), the processes share each batch out and
    the first one writes; the losses are those of one process with the same batch.

    Args:
        student: Where to start from, usually a pruned teacher. Not needed to resume, nor with
            ``architecture``.
        teacher: What to learn from, or None. To resume it is found again where it was read from a
            file.
        out: The run folder; new or empty, unless a run in it is resumed.
        config: Of a new student, with ``architecture``: see ``networks.new_student``.
        recipe, overrides: See ``settings.Choices``.
        device: Where to train.
        evaluate: Called in the first process with the student as it would be exported, at the
            start, every ``eval_every`` steps and at the end.
        eval_settings, keep_best: See ``Schedule``. None: as the run has it, else the default there.
        on_log: Told where the run is whenever losses were fetched.
        progress, warn: Told what happens.
        settings: See ``DistillOptions``.
    Returns:
        The result; the run folder holds the rest.
    Raises:
        UsageError, InputError: Before anything is trained: settings, models, data or weights that
            cannot serve; a folder in use; a resumed run with other settings.
        ComputationError: A loss is not finite; the last good checkpoint is named.
        OutputError: The disk is full; the checkpoints before are untouched.
        Interrupted: Ctrl-C or SIGTERM came; the state was saved.
        TypeError: A setting is not known.
    Guarantees: On the CPU a resumed run has the very losses of one that was never interrupted. The
        models passed in are not changed.
    """
    options, folder = options_of(DistillOptions, settings), Path(out)
    execution = Execution(
        resolve_device(device), options.precision, options.channels_last, options.compile,
        options.cuda_graphs, PhaseTimes() if options.profile else None,
    )  # fmt: skip
    planned = options.of(SCHEDULE) | {"eval_settings": eval_settings, "keep_best": keep_best}
    choices = Choices(recipe, overrides or {}, **options.of(CHOICES))
    choices.check()
    request = StudentRequest(student, config or {}, options)
    with run_folder.hold(folder):
        snapshot = _open_folder(folder, options.resume, warn)
        request.check(is_resumed=snapshot is not None)
        schedule = resolve_schedule(planned, snapshot.state["schedule"] if snapshot else {})
        _check_schedule(schedule, snapshot, evaluate)
        path = _absolute(teacher) or (
            snapshot.state["identity"]["teacher_path"] if snapshot else None
        )
        loaded = _open_teacher(teacher or path, snapshot)
        origin = request.open(loaded)
        pupil = origin or (snapshot.student if snapshot else None)
        assert pupil is not None  # a run that is not resumed names its student
        _check_models(pupil, loaded)  # before weights are fetched that could not serve
        resolved = _settings(choices, snapshot, folder, pupil.architecture, loaded is not None)
        check_perceptual(resolved.recipe, pupil.generator)
        means = open_means(resolved.recipe, execution, options.offline, progress, warn)
        if snapshot:
            run = resumed_run(folder, resolved, snapshot, origin, loaded, means)
        else:
            start = starting_model(
                pupil,
                loaded,
                resolved.seed,
                options.init or resolved.recipe.init,
                warn,
                unpaired=options.unpaired,
                discriminators=resolved.recipe.discriminator_start,
            )
            run = new_run(folder, resolved, pupil, start, loaded, path, means)
        return _train(run, snapshot, schedule, Watchers(evaluate, on_log, progress), out)


@dataclass(frozen=True)
class StudentRequest:
    """How the student was named: by a checkpoint, or as a new generator.

    Attributes:
        student, config, options: See ``distill``.
    """

    student: ModelSource | None
    config: Mapping[str, Any]
    options: DistillOptions

    def check(self, *, is_resumed: bool) -> None:
        """Find contradictions before anything is loaded.

        Raises:
            UsageError: None or two students are named, or a value is not known.
        """
        init, architecture = self.options.init, self.options.architecture
        if init is not None and init not in INITS:
            raise unknown_name("--init", init, INITS)
        if self.config and architecture is None:
            raise UsageError("--set and --resolution describe a new student", "add --architecture")
        if self.student is not None and architecture is not None:
            raise UsageError(
                "STUDENT and --architecture both name a student",
                "drop one; --init scratch trains the architecture of STUDENT from random weights",
            )
        if self.student is None and architecture is None and not is_resumed:
            raise UsageError(
                "a student is needed to distill",
                "name its checkpoint, or pass --resume or --architecture",
            )

    def open(self, teacher: Model | None) -> Model | None:
        """Return the model that was named, or a new one; None where a run goes on with its own."""
        options = self.options
        if self.student is not None:
            return open_model(self.student)
        if options.architecture is None:
            return None
        return new_student(
            options.architecture, self.config, teacher, options.seed or 0,
            unpaired=options.unpaired,
        )  # fmt: skip


def _open_teacher(source: ModelSource | None, snapshot: Snapshot | None) -> Model | None:
    needs_one = snapshot is not None and snapshot.state["identity"]["teacher"] is not None
    if source is None and needs_one:
        raise UsageError("this run needs its teacher to continue", "pass --teacher CKPT")
    return None if source is None else open_model(source)


def _check_models(student: Model, teacher: Model | None) -> None:
    if teacher is None:
        check_trainable("student", student)
    else:
        check_pair(student, teacher)


def _open_folder(
    folder: Path, resume: str | os.PathLike[str] | None, warn: Warn
) -> Snapshot | None:
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
) -> TrainingSettings:
    if snapshot is None:
        return new_settings(choices, architecture, has_teacher=has_teacher)
    saved = snapshot.state["settings"]
    return resumed_settings(choices, saved, str(folder), architecture, has_teacher=has_teacher)


def _check_schedule(
    schedule: Schedule, snapshot: Snapshot | None, evaluate: Evaluate | None
) -> None:
    if schedule.eval_every and evaluate is None:
        raise UsageError(
            f"the run is evaluated every {schedule.eval_every} steps, but nothing says how",
            "pass evaluate, or eval_every=0",
        )
    if snapshot and snapshot.step > schedule.steps:
        raise UsageError(
            f"--steps {schedule.steps} is less than the {snapshot.step} that the run has done",
            "--steps counts from the start of the run",
        )


def _absolute(source: ModelSource | None) -> str | None:
    return str(Path(source).resolve()) if isinstance(source, str | Path) else None


def _train(
    run: TrainingRun,
    snapshot: Snapshot | None,
    schedule: Schedule,
    watchers: Watchers,
    out: str | Path,
) -> DistillResult:
    """Train from a run's state to the last step, with everything that has to be open meanwhile."""
    start, losses = (snapshot.step, snapshot.state["losses"]) if snapshot else (0, {})
    began = time.perf_counter()
    run_folder.check_space(run.folder, run.trainer.student, schedule.checkpoints)
    try:
        run_folder.prepare(run.folder, run.settings.recipe.to_json(), start)
        evaluations = EvaluationLog(run.folder, start)
        if snapshot is None:
            run.save(0, schedule, {}, evaluations)
        else:
            run.export(start)
        with (
            contextlib.closing(MetricsLog(run.folder, start, losses)) as log,
            catch_signals() as stop,
        ):
            Session(run, schedule, watchers, log, evaluations, stop).train(start)
    except OSError as error:
        raise write_error(run.folder, error) from error
    spent, times = time.perf_counter() - began, run.trainer.execution.times
    best = evaluations.best(schedule.keep_best, run_folder.steps(run.folder))
    return DistillResult(
        str(out),
        schedule.steps,
        log.last,
        spent,
        evaluations.last,
        [str(Path(out) / run_folder.CHECKPOINTS / str(step)) for step in best],
        times.to_json(spent) if times else None,
    )
