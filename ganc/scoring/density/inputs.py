"""The training inputs of one side: what its generator turns into the manifold of its images."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ganc.data.dataset import ImageDataset
from ganc.data.images import to_float
from ganc.data.opening import image_names
from ganc.data.pairs import is_double, open_pairs, open_parts, open_side
from ganc.data.sources import Source
from ganc.data.stream import ImageSet, UsableImages, usable_images
from ganc.errors import DataError, UsageError
from ganc.models.network import ImageGenerator, LatentGenerator, Translator
from ganc.models.sampling import latent_inputs
from ganc.scoring.request import ScoreRequest


class InputBatch(NamedTuple):
    """Some inputs on a generator's device.

    Attributes:
        run: Runs the generator on them, with gradient: [N, img_channels, H, W].
        condition: What a discriminator of pairs sees in front of the image, [N, C, H, W], or None.
        labels: [N, D_c], or None.
    """

    run: Callable[[], Tensor]
    condition: Tensor | None
    labels: Tensor | None


class TrainingInputs(ABC):
    """Inputs by number; input i is the same every time.

    Attributes:
        count: How many there are.
        content_hash: SHA-256 that names them.
        where: What errors call them.
    """

    count: int
    content_hash: str
    where: str

    @abstractmethod
    def feed(self, indices: Sequence[int], device: torch.device) -> InputBatch:
        """Bring some inputs to a device."""


class TrainingLatents(TrainingInputs):
    """The first ``count`` latents of a seed, with their labels and noise."""

    def __init__(self, generator: LatentGenerator, request: ScoreRequest) -> None:
        self.generator, self.request = generator, request
        self.count = request.samples
        key = f"latents/{request.seed}/{request.noise_mode}"
        self.content_hash = hashlib.sha256(key.encode()).hexdigest()
        self.where = f"the latents of seed {request.seed}"

    def feed(self, indices: Sequence[int], device: torch.device) -> InputBatch:
        generator = self.generator
        drawn = latent_inputs(
            generator, indices, self.request.seed, noise_mode=self.request.noise_mode
        ).to(device)

        def run() -> Tensor:
            images: Tensor = generator(
                drawn.z, drawn.c, noise_mode=drawn.noise_mode, noise=drawn.noise
            )
            return images

        return InputBatch(run, None, drawn.c)


class TrainingImages(TrainingInputs):
    """The images that a translator was trained to translate.

    Args:
        images: All of them; of pairs the whole pictures.
        channels: Which of a picture's channels are the input.
        is_shown: Whether the discriminator sees the input.
    """

    def __init__(
        self, generator: Translator, images: UsableImages, channels: slice, *, is_shown: bool
    ) -> None:
        self.generator, self.images = generator, images
        self.channels, self.is_shown = channels, is_shown
        self.count = len(images)
        key = f"{images.dataset.content_hash}/{channels.start}/{channels.stop}"
        self.content_hash = hashlib.sha256(key.encode()).hexdigest()
        self.where = str(images.dataset.source.path)

    def feed(self, indices: Sequence[int], device: torch.device) -> InputBatch:
        pixels = torch.stack([self.images[i][0][self.channels] for i in indices])
        x, generator = to_float(pixels.to(device)), self.generator

        def run() -> Tensor:
            images: Tensor = generator(x)
            return images

        return InputBatch(run, x if self.is_shown else None, None)


def open_training_inputs(
    network: str, generator: ImageGenerator, request: ScoreRequest, *, judges_pairs: bool
) -> TrainingInputs:
    """Open the inputs of one side of a model, at most ``request.samples`` where those are latents.

    A translator takes them from ``request.data``: a set of inputs, pairs side by side, or the
    folders of both sides. The other half of a pair is not looked at: the manifold is made of the
    translator's own images. A discriminator of pairs sees the input in front of them.

    Raises:
        UsageError: Images are given to a generator that takes latents, or none to a translator.
        InputError, DataError: They are not there, or cannot serve.
    """
    if isinstance(generator, LatentGenerator):
        if request.data is not None or request.data_b is not None:
            raise UsageError("--data goes with translators, the model starts from latents")
        return TrainingLatents(generator, request)
    assert isinstance(generator, Translator)
    if request.data is None:
        raise UsageError(
            "method density needs the images that the translator was trained on",
            "add --data with a folder or zip of images",
        )
    is_b = (network == "generator_b") != request.swap
    dataset, channels = _open_images(network, generator, request, is_b=is_b)
    images = usable_images(dataset, warn=request.warn, progress=request.progress)
    return TrainingImages(generator, images, channels, is_shown=judges_pairs)


def _open_images(
    network: str, generator: Translator, request: ScoreRequest, *, is_b: bool
) -> tuple[ImageSet, slice]:
    """Return the pictures that hold the inputs, and which of their channels are those."""
    assert request.data is not None
    resolution, resize = generator.img_resolution, request.resize
    source = _source(request.data, request, resolution, is_b=is_b)
    names = image_names(source)
    if not is_double(source, names[0]):
        _check_is_own(network, source, request)
        count = generator.in_channels
        return ImageDataset(source, names, resolution, count, resize, None), slice(0, count)
    own, other = generator.in_channels, generator.img_channels
    channels = (other, own) if is_b else (own, other)
    pairs = open_pairs(
        request.data, channels=channels, resolution=resolution, resize=resize, warn=request.warn
    )
    return pairs, slice(other, other + own) if is_b else slice(0, own)


def _source(
    data: str | os.PathLike[str], request: ScoreRequest, resolution: int, *, is_b: bool
) -> Source:
    """Return the files of one side, or the set where it has no sides."""
    if request.data_b is not None:
        side = request.data_b if is_b else data
        return open_side(side, resolution, request.resize, request.warn)
    parts = open_parts(data, resolution, request.resize, request.warn)
    return parts[is_b] if isinstance(parts, tuple) else parts


def _check_is_own(network: str, source: Source, request: ScoreRequest) -> None:
    """Refuse to give both directions of a CycleGAN one set of inputs."""
    if network == "generator_b" and source.path == Path(str(request.data)):
        raise DataError(
            f"{source.path}: one set of images, a CycleGAN's two directions need two (A/ and B/, or"
            " trainA/ and trainB/)",
            "pass the other side as --data-b, or score --network generator alone",
        )
