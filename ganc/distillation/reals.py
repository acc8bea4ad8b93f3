"""The real images of a run: the teacher's own samples, or a data set."""

from collections.abc import Generator as Yields
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.data.dataset import open_dataset
from ganc.data.images import to_float
from ganc.data.label_tables import fitting_table
from ganc.data.stream import TrainingStream, UsableImages, prefetch, usable_images, usage
from ganc.devices import sent
from ganc.distillation.draws import Draws, draw_inputs
from ganc.distillation.recipes import Recipe
from ganc.errors import UsageError
from ganc.models.labels import LabelTable
from ganc.models.network import LatentGenerator
from ganc.progress import Progress, Warn

TEACHER = "teacher"
"""``data`` that stands for the teacher's own samples."""


class RealBatch(NamedTuple):
    """Images [N, C, H, W] in [-1, 1], labels [N, D_c] or None, both on the device."""

    images: Tensor
    c: Tensor | None


class Reals(Protocol):
    """A source of a step's real images; those of step s depend on (seed, s) alone.

    They are ``Recipe.reals_per_step``: one batch for each step of the discriminator, in order.

    Attributes:
        content_hash: Names the images.
        record: What the run's provenance tells of them beside that.
    """

    content_hash: str
    record: dict[str, Any]

    @property
    def labels(self) -> LabelTable | None:
        """The labels of a data set's images; None where the networks read none."""

    def batches(self, start: int, stop: int) -> Yields[Any, None, None]:
        """Yield what this process sees at the steps [start, stop)."""
        ...


class TeacherSamples:
    """Real images drawn by the teacher: random noise, no style mixing, uniform labels.

    Nothing is quantised or clamped: the student learns the teacher's range as well.
    """

    content_hash, labels = TEACHER, None

    def __init__(self, teacher: LatentGenerator, recipe: Recipe, draws: Draws) -> None:
        self.teacher, self.recipe, self.draws = teacher, recipe, draws
        self.record: dict[str, Any] = {}

    def batches(self, start: int, stop: int) -> Yields[RealBatch, None, None]:
        turns = self.recipe.d_steps
        for step in range(start, stop):
            images, c = zip(*(self._batch(step * turns + i) for i in range(turns)), strict=True)
            yield RealBatch(torch.cat(images), torch.cat(c) if self.teacher.c_dim else None)

    @torch.no_grad()
    def _batch(self, turn: int) -> RealBatch:
        """Draw what one step of the discriminator reads."""
        label, flip = self.draws.uniform("distill.real.choices", turn, 2).unbind(dim=1)
        c = None
        if self.teacher.c_dim:
            classes = (label * self.teacher.c_dim).long()
            c = F.one_hot(classes, self.teacher.c_dim).float()
        z, noise = draw_inputs(self.draws, "distill.real", turn, self.teacher)
        images = self.teacher(z, c, noise=noise)
        if self.recipe.mirror:
            images = torch.where((flip < 0.5)[:, None, None, None], images.flip(-1), images)
        return RealBatch(images, c)


class DatasetImages:
    """Real images from a folder or zip, read ahead on threads.

    Args:
        labels: Of all its images, where the networks take any.
        c_dim: Size of the labels that these take.
    """

    def __init__(
        self,
        images: UsableImages,
        recipe: Recipe,
        draws: Draws,
        *,
        labels: LabelTable | None,
        c_dim: int,
    ) -> None:
        self.content_hash = images.dataset.content_hash
        self.record = usage(images)
        self.draws, self.labels, self.c_dim = draws, labels, c_dim
        self.stream = TrainingStream(
            images, seed=draws.seed, batch=recipe.reals_per_step, mirror=recipe.mirror
        )

    def batches(self, start: int, stop: int) -> Yields[RealBatch, None, None]:
        device, rank, world = self.draws.device, self.draws.rank, self.draws.world
        for images, labels in prefetch(self.stream, start, stop, rank=rank, world=world):
            c = None
            if self.labels is not None:  # the set may lack the highest classes
                c = sent(F.pad(labels, (0, self.c_dim - labels.shape[1])), device)
            yield RealBatch(to_float(sent(images, device)), c)


def open_reals(
    data: str,
    generator: LatentGenerator,
    teacher: LatentGenerator | None,
    recipe: Recipe,
    draws: Draws,
    *,
    resize: bool,
    progress: Progress,
    warn: Warn,
) -> Reals:
    """Open what ``data`` names: ``TEACHER``, or a folder or zip of images.

    Args:
        generator: Says the sizes. Labels are read where it takes any.
        teacher: Draws the images of ``TEACHER``.
    Raises:
        UsageError: The teacher's samples are asked for, and there is no teacher.
        DataError: The set cannot serve, or its labels do not fit the networks.
    """
    if data == TEACHER:
        if teacher is None:
            raise UsageError(
                "without --teacher the run needs real images",
                "pass --data with a folder or zip of images",
            )
        return TeacherSamples(teacher, recipe, draws)
    dataset = open_dataset(
        data, resolution=generator.img_resolution, channels=generator.img_channels,
        resize=resize, use_labels=generator.c_dim > 0, warn=warn,
    )  # fmt: skip
    labels = None
    if dataset.labels is not None:
        way_out = None if teacher is None else "or pass --data teacher"
        labels = fitting_table(dataset.labels, generator.c_dim, dataset.source.path, way_out)
    images = usable_images(dataset, warn=warn, progress=progress)
    return DatasetImages(images, recipe, draws, labels=labels, c_dim=generator.c_dim)
