"""A run: its parts put together, from a student or from a checkpoint, and its way to disk."""

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganc import collectives
from ganc.checkpoints.store import load
from ganc.content.request import MaskRequest, MaskSource
from ganc.content.sources import open_masks
from ganc.data.grid import save_image
from ganc.distillation import kinds, run_folder
from ganc.distillation.draws import Draws
from ganc.distillation.evaluations import EvalRequest, EvaluationLog
from ganc.distillation.execution import Execution
from ganc.distillation.metrics import MetricsLog
from ganc.distillation.reals import TEACHER, Reals
from ganc.distillation.recipes import Recipe
from ganc.distillation.run_folder import DataIdentity, Identity, RunState, Snapshot
from ganc.distillation.schedule import Schedule
from ganc.distillation.settings import TrainingSettings
from ganc.distillation.trainer import Distance, Parts, Trainer
from ganc.errors import (
    CheckpointError,
    InputError,
    MissingDependencyError,
    UsageError,
    WeightsError,
)
from ganc.families import TRANSLATION
from ganc.models.model import Model
from ganc.models.network import ImageGenerator
from ganc.perceptual.channels import check_channels
from ganc.perceptual.distance import check_side, load_perceptual
from ganc.progress import Progress, Warn
from ganc.version import __version__

ModelSource = Model | str | Path
"""A model, or the checkpoint that holds it."""


@dataclass(frozen=True)
class Means:
    """What a run works with, beside its networks and settings.

    Attributes:
        perceptual, masks: See ``Parts``.
        execution: Device, precision, clock.
        progress, warn: Told what happens.
    """

    perceptual: Distance | None
    masks: MaskSource | None
    execution: Execution
    progress: Progress
    warn: Warn


@dataclass(frozen=True)
class TrainingRun:
    """A run in progress. Only the first of several processes writes.

    Attributes:
        folder: See ``run_folder``.
        settings: What decides its losses.
        trainer: The networks and the optimisers.
        reals: The real images.
        identity: Hashes of student, teacher, data and their labels, and the teacher's path: what a
            resume checks and finds again.
        provenance: Of the student to be.
    """

    folder: Path
    settings: TrainingSettings
    trainer: Trainer[Any]
    reals: Reals
    identity: Identity
    provenance: list[dict[str, Any]]

    def save(
        self,
        step: int,
        schedule: Schedule,
        losses: Mapping[str, float],
        evaluations: EvaluationLog,
    ) -> None:
        """Write a checkpoint, then the student that it holds.

        Args:
            step: Steps done.
            schedule: Says which checkpoints stay; a resumed run has it unless told otherwise.
            losses: Last known values.
            evaluations: Say which checkpoints are the best.
        """
        if collectives.rank():
            return
        trainer = self.trainer
        state: RunState = {
            "step": step,
            "steps": schedule.steps,
            "schedule": schedule.to_json(),
            "images": step * self.settings.recipe.reals_per_step,
            "losses": dict(losses),
            "settings": self.settings.to_json(),  # type: ignore[typeddict-item]
            "identity": self.identity,
            "ganc": __version__,
        }
        snapshot = Snapshot(
            student=_with_provenance(trainer.student, self.provenance),
            ema=_with_provenance(trainer.ema, self.provenance),
            optimizers=trainer.g.state() | trainer.d.state(),
            trainer=trainer.state(),
            state=state,
        )
        best = evaluations.best(schedule.keep_best, [*run_folder.steps(self.folder), step])
        run_folder.save_snapshot(self.folder, snapshot, schedule.keep_last, best)
        self.export(step)

    def export(self, step: int) -> None:
        """Write the running average as the student, with the discriminators."""
        if collectives.rank():
            return
        run_folder.export_student(self.folder, self.result(step))

    def result(self, step: int) -> Model:
        """Return the student as it is exported."""
        provenance = copy.deepcopy(self.provenance)
        provenance[-1]["steps"] = step
        networks = dict(self.trainer.student.networks()) | dict(self.trainer.ema.networks())
        return Model(**networks, provenance=provenance)

    def to_evaluate(self, step: int, settings: Mapping[str, Any]) -> EvalRequest:
        """Return what there is to evaluate now."""
        chosen = self.settings
        is_plain = chosen.recipe.kind != TRANSLATION and chosen.data != TEACHER
        data = chosen.data if is_plain else None
        return EvalRequest(self.result(step), self.trainer.teacher, data, chosen.resize, settings)

    def sample(self, step: int, log: MetricsLog) -> None:
        """Write the teacher | student grid of a step."""
        if collectives.rank():
            return
        samples = self.folder / run_folder.SAMPLES
        samples.mkdir(exist_ok=True)
        row = kinds.ROWS[self.settings.recipe.kind]
        image = row.grid(self.trainer, self.reals, self.settings.seed)
        save_image(image, samples / f"{step}.png", force=True)
        log.add_images(step, image)


def _with_provenance(model: Model, provenance: list[dict[str, Any]]) -> Model:
    return Model(**dict(model.networks()), provenance=provenance)


def open_means(
    recipe: Recipe, execution: Execution, offline: bool, progress: Progress, warn: Warn
) -> Means:
    """Load the networks that the recipe's terms need.

    Raises:
        UsageError: The mask source is not known, or gives masks of given samples only.
        WeightsError, MissingDependencyError: One cannot be had; the hint names the alternatives.
    """
    masks = None
    if recipe.content != "none" and (recipe.l1_weight or recipe.uses_perceptual):
        if recipe.content.startswith("masks:"):
            raise UsageError(
                "--content masks:DIR holds masks of given samples, training draws new ones",
                "pass --content center, torchvision:CLASS, bisenet or module:function",
            )
        request = MaskRequest(recipe.batch, execution.device, progress, offline)
        masks = open_masks(recipe.content, request)
    perceptual = open_perceptual(recipe, execution.device, offline, progress)
    return Means(perceptual, masks, execution, progress, warn)


def check_perceptual(recipe: Recipe, generator: ImageGenerator) -> None:
    """Refuse images that the perceptual term cannot compare, before any weights are looked for.

    Raises:
        InputError: They have the wrong channels, or are too small.
    """
    if not recipe.uses_perceptual:
        return
    name, side = recipe.perceptual, generator.img_resolution
    check_channels(f"--perceptual {name}", generator.img_channels, "pass --perceptual none")
    check_side(
        "the perceptual term", name, min(side, recipe.perceptual_max_resolution),
        resolution=recipe.perceptual_resolution or None,
        way_out="pass --perceptual effnet-lite0, which takes any size, or none",
    )  # fmt: skip


def open_perceptual(
    recipe: Recipe, device: torch.device, offline: bool, progress: Progress
) -> Distance | None:
    """Load the network of the perceptual term, or nothing where the recipe has no such term.

    Raises:
        WeightsError, MissingDependencyError: It cannot be had; the hint names the alternatives.
    """
    if not recipe.uses_perceptual:
        return None
    try:
        return load_perceptual(
            recipe.perceptual, device=device, offline=offline, progress=progress,
            resolution=recipe.perceptual_resolution or None,
        )  # fmt: skip
    except (WeightsError, MissingDependencyError) as error:
        others = "|".join(n for n in ("effnet-lite0", "none") if n != recipe.perceptual)
        hint = f"pass --perceptual {others}, which needs no download"
        raise type(error)(error.message, f"{error.hint}; or {hint}") from error


def open_model(source: ModelSource) -> Model:
    """Return a model as it was given, or load it."""
    return source if isinstance(source, Model) else load(source)


def new_run(
    folder: Path,
    settings: TrainingSettings,
    origin: Model,
    start: Model,
    teacher: Model | None,
    teacher_path: str | None,
    means: Means,
) -> TrainingRun:
    """Put a run together at step 0.

    Args:
        origin: The model that the student was named by; its history goes on.
        start: The networks to train; they are the run's from here on.
    """
    trainer = _trainer(settings, start, _generators(start), teacher, means)
    reals = _open_batches(settings, trainer, means)
    with contextlib.closing(reals.batches(0, 1)) as batches:
        trainer.prepare(next(batches))
    identity: Identity = {
        "teacher_path": teacher_path,
        "student": origin.content_hash(),
        "teacher": None if teacher is None else teacher.content_hash(),
        **_data_identity(reals),
    }
    provenance = origin.with_step(
        "distill",
        recipe=settings.recipe.to_json(),
        seed=settings.seed,
        data=TEACHER if settings.data == TEACHER else Path(settings.data).name,
        data_hash=identity["data"],
        teacher=identity["teacher"],
        **reals.record,
    )
    return TrainingRun(folder, settings, trainer, reals, identity, provenance)


def resumed_run(
    folder: Path,
    settings: TrainingSettings,
    snapshot: Snapshot,
    origin: Model | None,
    teacher: Model | None,
    means: Means,
) -> TrainingRun:
    """Put a run together as a checkpoint has it.

    Args:
        origin: The student as it was named again, or None.
    Raises:
        InputError: Teacher, data or student (where one is given) are not the run's.
    """
    trainer = _trainer(settings, snapshot.student, snapshot.ema, teacher, means)
    try:
        for player in (trainer.g, trainer.d):
            player.restore(snapshot.optimizers)
        trainer.restore(snapshot.trainer)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: the state of its last checkpoint does not fit its networks: {error}",
            "resume an earlier one: --resume FOLDER/checkpoints/STEP",
        ) from error
    reals = _open_batches(settings, trainer, means)
    identity = snapshot.state["identity"]
    found: dict[str, object] = dict(_data_identity(reals))
    found |= {} if teacher is None else {"teacher": teacher.content_hash()}
    found |= {} if origin is None else {"student": origin.content_hash()}
    other = [name for name, value in found.items() if value != identity.get(name)]
    if other:
        raise InputError(
            f"{folder} was started with another {' and another '.join(other)} than given here",
            "pass the same ones, or start a new run with another -o",
        )
    return TrainingRun(folder, settings, trainer, reals, identity, snapshot.student.provenance)


def _data_identity(reals: Reals) -> DataIdentity:
    if reals.labels is None:
        return {"data": reals.content_hash}
    return {"data": reals.content_hash, "labelling": reals.labels.content_hash}


def _generators(model: Model) -> Model:
    """Return copies of a model's generators."""
    generators: dict[str, Any] = {
        n: copy.deepcopy(g) for n, g in model.networks() if n.startswith("generator")
    }
    return Model(**generators)


def _trainer(
    settings: TrainingSettings, student: Model, ema: Model, teacher: Model | None, means: Means
) -> Trainer[Any]:
    device, recipe = means.execution.device, settings.recipe
    frozen = None
    if teacher is not None:
        frozen = means.execution.place(_generators(teacher))
        means.execution.compile_calls(frozen)
    parts = Parts(
        student=means.execution.place(student),
        ema=means.execution.place(ema),
        teacher=frozen,
        recipe=recipe,
        draws=Draws(
            settings.seed, recipe.batch, device, collectives.rank(), collectives.world_size()
        ),
        perceptual=means.perceptual and means.execution.compiled(means.perceptual),
        masks=means.masks,
        execution=means.execution,
    )  # fmt: skip
    return kinds.ROWS[recipe.kind].trainer(parts)


def _open_batches(settings: TrainingSettings, trainer: Trainer[Any], means: Means) -> Reals:
    row = kinds.ROWS[settings.recipe.kind]
    return row.open_batches(trainer, settings, means.progress, means.warn)
