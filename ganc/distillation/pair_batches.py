"""The images of a translator's run: aligned pairs, or two sets of their own."""

import contextlib
import hashlib
from collections.abc import Generator as Yields
from typing import NamedTuple

import torch
from torch import Tensor

from ganc.data.images import to_float
from ganc.data.pairs import open_pairs, open_unpaired
from ganc.data.stream import TrainingStream, UsableImages, prefetch, usable_images, usage
from ganc.devices import sent
from ganc.distillation.draws import Draws
from ganc.distillation.recipes import Recipe
from ganc.distillation.settings import TrainingSettings
from ganc.models.network import Translator
from ganc.progress import Progress, Warn

_EXAMPLES = 6


class SideBatch(NamedTuple):
    """Images of both sides in [-1, 1]: [N, C_a, H, W] and [N, C_b, H, W].

    The first generator translates from A to B; image i of B is the translation of image i of A
    where the data are pairs.
    """

    a: Tensor
    b: Tensor

    def swapped(self) -> "SideBatch":
        """Return the sides the other way round."""
        return SideBatch(self.b, self.a)


class PairBatches:
    """Aligned pairs, read ahead on threads.

    Args:
        channels_a: Of a pair's channels, so many are side A's.
        swap: Translate from B to A.
    Attributes:
        examples: The first few pairs, for pictures.
    """

    labels = None

    def __init__(
        self, pairs: UsableImages, channels_a: int, recipe: Recipe, draws: Draws, *, swap: bool
    ) -> None:
        self.content_hash = pairs.dataset.content_hash
        self.record = usage(pairs)
        self.draws, self.channels_a, self.swap = draws, channels_a, swap
        self.stream = TrainingStream(
            pairs, seed=draws.seed, batch=recipe.batch, mirror=recipe.mirror
        )
        self.examples = self._batch(_first(pairs))

    def batches(self, start: int, stop: int) -> Yields[SideBatch, None, None]:
        rank, world = self.draws.rank, self.draws.world
        for images, _ in prefetch(self.stream, start, stop, rank=rank, world=world):
            yield self._batch(images)

    def _batch(self, images: Tensor) -> SideBatch:
        images = _on(self.draws, images)
        batch = SideBatch(images[:, : self.channels_a], images[:, self.channels_a :])
        return batch.swapped() if self.swap else batch


class UnpairedBatches:
    """Two sets, each drawn in an order of its own, read ahead on threads.

    Attributes:
        examples: The first few images of both, for pictures.
    """

    labels = None

    def __init__(
        self, a: UsableImages, b: UsableImages, recipe: Recipe, draws: Draws, *, swap: bool
    ) -> None:
        hashes = f"{a.dataset.content_hash}\n{b.dataset.content_hash}"
        self.content_hash = hashlib.sha256(hashes.encode()).hexdigest()
        self.record = usage(a, b)
        self.draws, self.swap = draws, swap
        self.streams = [
            TrainingStream(
                side, seed=draws.seed, batch=recipe.batch, mirror=recipe.mirror, stream=name
            )
            for side, name in ((a, "data"), (b, "data_b"))
        ]
        self.examples = self._batch(_first(a), _first(b))

    def batches(self, start: int, stop: int) -> Yields[SideBatch, None, None]:
        rank, world = self.draws.rank, self.draws.world
        with contextlib.ExitStack() as stack:
            a, b = (
                stack.enter_context(
                    contextlib.closing(prefetch(s, start, stop, rank=rank, world=world))
                )
                for s in self.streams
            )
            for (images_a, _), (images_b, _) in zip(a, b, strict=True):
                yield self._batch(images_a, images_b)

    def _batch(self, a: Tensor, b: Tensor) -> SideBatch:
        batch = SideBatch(_on(self.draws, a), _on(self.draws, b))
        return batch.swapped() if self.swap else batch


def open_sides(
    settings: TrainingSettings,
    generator: Translator,
    draws: Draws,
    *,
    is_paired: bool,
    progress: Progress,
    warn: Warn,
) -> PairBatches | UnpairedBatches:
    """Open the images of a run.

    Args:
        settings: Names them, and says from which side to which to translate.
        generator: Translates them: says the sizes.
        is_paired: Whether they have to be pairs.
    Raises:
        InputError, DataError: The data are none, are of another layout, or cannot serve.
    """
    channels = (generator.in_channels, generator.img_channels)
    if settings.swap:
        channels = (generator.img_channels, generator.in_channels)
    size, resize = generator.img_resolution, settings.resize
    if is_paired:
        pairs = open_pairs(
            settings.data, settings.data_b, channels=channels, resolution=size, resize=resize,
            warn=warn,
        )  # fmt: skip
        images = usable_images(pairs, warn=warn, progress=progress)
        return PairBatches(images, channels[0], settings.recipe, draws, swap=settings.swap)
    sides = open_unpaired(
        settings.data, settings.data_b, channels=channels, resolution=size, resize=resize,
        warn=warn,
    )  # fmt: skip
    a, b = (usable_images(side, warn=warn, progress=progress) for side in sides)
    return UnpairedBatches(a, b, settings.recipe, draws, swap=settings.swap)


def _first(images: UsableImages) -> Tensor:
    return torch.stack([images[i][0] for i in range(min(_EXAMPLES, len(images)))])


def _on(draws: Draws, images: Tensor) -> Tensor:
    return to_float(sent(images, draws.device))
