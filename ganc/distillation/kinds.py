"""The table of kinds of training: which trainer, which data, which picture."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ganc.distillation.grid import sample_grid
from ganc.distillation.reals import Reals, open_reals
from ganc.distillation.recipes import STYLE
from ganc.distillation.settings import Settings
from ganc.distillation.style import StyleTrainer
from ganc.distillation.trainer import Trainer
from ganc.progress import Progress, Warn


class Kind(NamedTuple):
    """What a run of one kind is made of.

    Attributes:
        trainer: How a step goes.
        open_batches: Where a step's real images come from.
        grid: The picture of teacher and student.
    """

    trainer: type[Trainer[Any]]
    open_batches: Callable[[Trainer[Any], Settings, Progress, Warn], Reals]
    grid: Callable[[Trainer[Any], Reals, int], Tensor]


def _open_images(
    trainer: Trainer[Any], settings: Settings, progress: Progress, warn: Warn
) -> Reals:
    teacher = None if trainer.teacher is None else trainer.teacher.generator
    return open_reals(
        settings.data, trainer.student.generator, teacher, settings.recipe, trainer.draws,
        resize=settings.resize, progress=progress, warn=warn,
    )  # fmt: skip


def _samples(trainer: Trainer[Any], reals: Reals, seed: int) -> Tensor:
    teacher = None if trainer.teacher is None else trainer.teacher.generator
    return sample_grid(teacher, trainer.ema.generator, seed)


ROWS: dict[str, Kind] = {
    STYLE: Kind(StyleTrainer, _open_images, _samples),
}
