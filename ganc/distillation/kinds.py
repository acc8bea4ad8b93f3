"""The table of kinds of training: which trainer, which data, which picture."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ganc.distillation.grid import sample_grid, translation_grid
from ganc.distillation.pair_batches import open_sides
from ganc.distillation.reals import Reals, open_reals
from ganc.distillation.settings import TrainingSettings
from ganc.distillation.trainer import Parts, Trainer
from ganc.distillation.trainers.cyclegan import CycleTrainer
from ganc.distillation.trainers.one_way import OneWayTrainer
from ganc.distillation.trainers.sngan import SnganTrainer
from ganc.distillation.trainers.style import StyleTrainer
from ganc.families import SNGAN, STYLE, TRANSLATION
from ganc.progress import Progress, Warn


class TrainingKind(NamedTuple):
    """What a run of one kind is made of.

    Attributes:
        trainer: How a step goes.
        open_batches: Where a step's real images come from.
        grid: The picture of teacher and student.
    """

    trainer: Callable[[Parts], Trainer[Any]]
    open_batches: Callable[[Trainer[Any], TrainingSettings, Progress, Warn], Reals]
    grid: Callable[[Trainer[Any], Reals, int], Tensor]


def _open_images(
    trainer: Trainer[Any], settings: TrainingSettings, progress: Progress, warn: Warn
) -> Reals:
    teacher = None if trainer.teacher is None else trainer.teacher.generator
    return open_reals(
        settings.data, trainer.student.generator, teacher, settings.recipe, trainer.draws,
        resize=settings.resize, progress=progress, warn=warn,
    )  # fmt: skip


def _samples(trainer: Trainer[Any], reals: Reals, seed: int) -> Tensor:
    teacher = None if trainer.teacher is None else trainer.teacher.generator
    return sample_grid(teacher, trainer.ema.generator, seed, reals.labels)


def _translation_trainer(parts: Parts) -> Trainer[Any]:
    is_cycle = parts.student.generator_b is not None
    return CycleTrainer(parts) if is_cycle else OneWayTrainer(parts)


def _open_sides(
    trainer: Trainer[Any], settings: TrainingSettings, progress: Progress, warn: Warn
) -> Reals:
    is_paired = isinstance(trainer, OneWayTrainer) and trainer.is_paired
    return open_sides(
        settings, trainer.student.generator, trainer.draws,
        is_paired=is_paired, progress=progress, warn=warn,
    )  # fmt: skip


def _translations(trainer: Trainer[Any], reals: Any, seed: int) -> Tensor:
    sources = {"generator": reals.examples.a, "generator_b": reals.examples.b}
    return translation_grid(
        [
            (sources[name], getattr(trainer.teacher, name, None), getattr(trainer.ema, name))
            for name, _ in trainer.ema.networks()
        ]
    )


ROWS: dict[str, TrainingKind] = {
    STYLE: TrainingKind(StyleTrainer, _open_images, _samples),
    SNGAN: TrainingKind(SnganTrainer, _open_images, _samples),
    TRANSLATION: TrainingKind(_translation_trainer, _open_sides, _translations),
}
