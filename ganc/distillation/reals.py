"""The real images of a run: the teacher's own samples, or a data set."""

from collections.abc import Generator as Yields
from typing import Protocol

import torch
from torch import Tensor

from ganc.data.dataset import open_dataset
from ganc.data.images import to_float
from ganc.data.stream import TrainingStream, UsableImages, prefetch, usable_images
from ganc.distillation.draws import Draws, draw_latents
from ganc.distillation.recipes import Recipe
from ganc.errors import DataError
from ganc.models.stylegan2 import Generator
from ganc.progress import Progress, Warn

TEACHER = "teacher"
"""``data`` that stands for the teacher's own samples."""

RealBatch = tuple[Tensor, Tensor | None]
"""Images [N, C, H, W] in [-1, 1], labels [N, D_c] or None, both on the device."""


class Reals(Protocol):
    """A source of real images whose step s depends on (seed, s) alone."""

    content_hash: str

    def batches(self, start: int, stop: int) -> Yields[RealBatch, None, None]:
        """Yield the batches of steps [start, stop)."""
        ...


class TeacherSamples:
    """Real images drawn by the teacher: random noise, no style mixing, uniform labels.

    Nothing is quantised or clamped: the student learns the teacher's range as well.
    """

    content_hash = TEACHER

    def __init__(self, teacher: Generator, draws: Draws, mirror: bool) -> None:
        self.teacher, self.draws, self.mirror = teacher, draws, mirror

    def batches(self, start: int, stop: int) -> Yields[RealBatch, None, None]:
        for step in range(start, stop):
            yield self._batch(step)

    @torch.no_grad()
    def _batch(self, step: int) -> RealBatch:
        label, flip = self.draws.uniform("distill.real.choices", step, 2).unbind(dim=1)
        c = None
        if self.teacher.c_dim:
            classes = (label * self.teacher.c_dim).long()
            c = torch.nn.functional.one_hot(classes, self.teacher.c_dim).float()
        latents = draw_latents(
            self.draws, "distill.real", step,
            z_dim=self.teacher.z_dim, num_ws=self.teacher.num_ws,
            noise_shapes=self.teacher.noise_shapes(), mixing_prob=0.0, c=c,
        )  # fmt: skip
        images = self.teacher(latents.z[:, 0], c, noise=latents.noise)
        if self.mirror:
            images = torch.where((flip < 0.5)[:, None, None, None], images.flip(-1), images)
        return images, c


class DatasetImages:
    """Real images from a folder or zip, read ahead on threads."""

    def __init__(
        self, images: UsableImages, recipe: Recipe, seed: int, device: torch.device
    ) -> None:
        self.content_hash = images.dataset.content_hash
        self.device, self.has_labels = device, images.dataset.label_dim > 0
        self.stream = TrainingStream(images, seed=seed, batch=recipe.batch, mirror=recipe.mirror)

    def batches(self, start: int, stop: int) -> Yields[RealBatch, None, None]:
        for images, labels in prefetch(self.stream, start, stop):
            c = labels.to(self.device, non_blocking=True) if self.has_labels else None
            yield to_float(images.to(self.device, non_blocking=True)), c


def open_reals(
    data: str,
    teacher: Generator,
    recipe: Recipe,
    draws: Draws,
    *,
    resize: bool,
    progress: Progress,
    warn: Warn,
) -> Reals:
    """Open what ``data`` names: ``TEACHER``, or a folder or zip of images.

    Labels are read where the networks take them.

    Raises:
        DataError: The set cannot serve, or its labels are of another size than the networks'.
    """
    if data == TEACHER:
        return TeacherSamples(teacher, draws, recipe.mirror)
    dataset = open_dataset(
        data, resolution=teacher.img_resolution, channels=teacher.img_channels,
        resize=resize, use_labels=teacher.c_dim > 0,
    )  # fmt: skip
    if dataset.label_dim != teacher.c_dim:
        raise DataError(
            f"{data}: labels are of size {dataset.label_dim}, the networks take {teacher.c_dim}",
            "label the set for this model in dataset.json, or use --data teacher",
        )
    images = usable_images(dataset, warn=warn, progress=progress)
    return DatasetImages(images, recipe, draws.seed, draws.device)
