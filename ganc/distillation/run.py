"""A run: its parts put together, from a student or from a checkpoint, and its way to disk."""

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganc.checkpoints.store import load
from ganc.data.grid import save_image
from ganc.distillation import grid, networks, run_folder
from ganc.distillation.draws import Draws
from ganc.distillation.metrics import MetricsLog
from ganc.distillation.reals import TEACHER, Reals, open_reals
from ganc.distillation.recipes import Recipe
from ganc.distillation.run_folder import Snapshot
from ganc.distillation.settings import Settings
from ganc.distillation.trainer import Distance, Trainer, optimizer_tensors, restore_optimizer
from ganc.errors import InputError, MissingDependencyError, WeightsError
from ganc.models.model import Model
from ganc.perceptual.distance import load_perceptual
from ganc.progress import Progress, Warn
from ganc.version import __version__

Source = Model | str | Path
"""A model, or the checkpoint that holds it."""


@dataclass(frozen=True)
class Run:
    """A run in progress.

    Attributes:
        folder: See ``run_folder``.
        settings: What decides its losses.
        trainer: The networks and the optimisers.
        reals: The real images.
        identity: Hashes of student, teacher and data, and the teacher's path: what a resume checks
            and finds again.
        provenance: Of the student to be.
    """

    folder: Path
    settings: Settings
    trainer: Trainer
    reals: Reals
    identity: dict[str, Any]
    provenance: list[dict[str, Any]]

    def save(self, step: int, target_steps: int, losses: Mapping[str, float], keep: int) -> None:
        """Write a checkpoint, then the student that it holds.

        Args:
            step: Steps done.
            target_steps: Steps that were asked for in all.
            losses: Last known values.
            keep: Checkpoints that stay.
        """
        trainer = self.trainer
        state = {
            "step": step,
            "steps": target_steps,
            "images": step * self.settings.recipe.batch,
            "pl_mean": float(trainer.pl_mean),
            "losses": dict(losses),
            "settings": self.settings.to_json(),
            "identity": self.identity,
            "ganc": __version__,
        }
        snapshot = Snapshot(
            student=self._model(trainer.generator, self.provenance),
            ema=self._model(trainer.ema, self.provenance, with_discriminator=False),
            g_optimizer=optimizer_tensors(trainer.g_optimizer, trainer.generator),
            d_optimizer=optimizer_tensors(trainer.d_optimizer, trainer.discriminator),
            state=state,
        )
        run_folder.save_snapshot(self.folder, snapshot, keep)
        self.export(step)

    def export(self, step: int) -> None:
        """Write the running average as the student."""
        provenance = copy.deepcopy(self.provenance)
        provenance[-1]["steps"] = step
        run_folder.export_student(self.folder, self._model(self.trainer.ema, provenance))

    def sample(self, step: int, log: MetricsLog) -> None:
        """Write the teacher | student grid of a step."""
        samples = self.folder / run_folder.SAMPLES
        samples.mkdir(exist_ok=True)
        image = grid.sample_grid(self.trainer.teacher, self.trainer.ema, self.settings.seed)
        save_image(image, samples / f"{step}.png", force=True)
        log.add_images(step, image)

    def _model(
        self, generator: Any, provenance: list[dict[str, Any]], *, with_discriminator: bool = True
    ) -> Model:
        discriminator = self.trainer.discriminator if with_discriminator else None
        return Model(generator, discriminator, provenance=provenance)


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


def open_model(source: Source) -> Model:
    """Return a model as it was given, or load it."""
    return source if isinstance(source, Model) else load(source)


def new_run(
    folder: Path,
    settings: Settings,
    student: Model,
    teacher: Model,
    teacher_path: str | None,
    perceptual: Distance | None,
    device: torch.device,
    progress: Progress,
    warn: Warn,
) -> Run:
    """Put a run together at step 0, of a pair that fits. The models passed in are not changed."""
    generator = networks.starting_generator(student, teacher, warn)
    discriminator = networks.starting_discriminator(student, teacher, settings.seed, warn)
    start = Model(generator, discriminator)
    trainer = _trainer(settings, start, copy.deepcopy(generator), teacher, perceptual, device)
    reals = _reals(settings, trainer, progress, warn)
    with contextlib.closing(reals.batches(0, 1)) as batches:
        trainer.start_path_length(next(batches)[1])
    identity = {
        "teacher_path": teacher_path,
        "student": student.content_hash(),
        "teacher": teacher.content_hash(),
        "data": reals.content_hash,
    }
    provenance = student.with_step(
        "distill",
        recipe=settings.recipe.to_json(),
        seed=settings.seed,
        data=TEACHER if settings.data == TEACHER else Path(settings.data).name,
        data_hash=identity["data"],
        teacher=identity["teacher"],
        freeze_mapping=settings.freeze_mapping,
    )
    return Run(folder, settings, trainer, reals, identity, provenance)


def resumed_run(
    folder: Path,
    settings: Settings,
    snapshot: Snapshot,
    student: Model | None,
    teacher: Model,
    perceptual: Distance | None,
    device: torch.device,
    progress: Progress,
    warn: Warn,
) -> Run:
    """Put a run together as a checkpoint has it.

    Raises:
        InputError: Teacher, data or student (where one is given) are not the run's.
    """
    trainer = _trainer(
        settings, snapshot.student, snapshot.ema.generator, teacher, perceptual, device
    )
    restore_optimizer(trainer.g_optimizer, trainer.generator, snapshot.g_optimizer)
    restore_optimizer(trainer.d_optimizer, trainer.discriminator, snapshot.d_optimizer)
    trainer.pl_mean.fill_(snapshot.state["pl_mean"])
    reals = _reals(settings, trainer, progress, warn)
    identity = snapshot.state["identity"]
    found = {"teacher": teacher.content_hash(), "data": reals.content_hash}
    if student is not None:
        found["student"] = student.content_hash()
    other = [name for name, value in found.items() if value != identity[name]]
    if other:
        raise InputError(
            f"{folder} was started with another {' and another '.join(other)} than given here",
            "pass the same ones, or start a new run with another -o",
        )
    return Run(folder, settings, trainer, reals, identity, snapshot.student.provenance)


def _trainer(
    settings: Settings,
    student: Model,
    ema: Any,
    teacher: Model,
    perceptual: Distance | None,
    device: torch.device,
) -> Trainer:
    return Trainer(
        student.generator.to(device),
        ema.to(device),
        student.discriminator.to(device),
        copy.deepcopy(teacher.generator).to(device),
        recipe=settings.recipe,
        draws=Draws(settings.seed, settings.recipe.batch, device),
        perceptual=perceptual,
        freeze_mapping=settings.freeze_mapping,
    )


def _reals(settings: Settings, trainer: Trainer, progress: Progress, warn: Warn) -> Reals:
    return open_reals(
        settings.data, trainer.teacher, settings.recipe, trainer.draws,
        resize=settings.resize, progress=progress, warn=warn,
    )  # fmt: skip
