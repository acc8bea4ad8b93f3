"""Where a model's inputs come from, as a user asks for them: a seed, or ``--input``.

A translator's pictures may have any size that its network can take, rectangles included, but all
the same one: results are stacked, compared pixel by pixel and put into one grid.
"""

import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganc.data.dataset import content_hash
from ganc.data.images import CHANNELS, CheckSize, Size, decode_image, to_float
from ganc.data.levels import check_levels
from ganc.data.opening import image_names, open_images
from ganc.data.sources import Source
from ganc.errors import DataError, InputError, ShapeError, UsageError
from ganc.models.network import ImageGenerator, Translator
from ganc.models.sampling import Feed, ImageSource, InputSource, Latents
from ganc.progress import Warn, ignore

_FLAGS = {"noise_mode": "--noise-mode", "truncation_psi": "--truncation",
          "truncation_cutoff": "--truncation-cutoff", "labels": "--labels"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class ImageInputs(ImageSource):
    """The images of a file or set, in the order of their names. Made by ``open_inputs``.

    Image i of n is also image i + n: a picture has neighbours enough for any batch.

    Attributes:
        path: What was opened.
        source: Where the bytes come from.
        names: The images' names within the source, sorted.
        channels: 1, 3 or 4.
        resolution: The translator's own; what ``resize`` scales to.
        resize: Whether squares of another size are scaled.
    """

    path: Path
    source: Source
    names: list[str]
    channels: int
    resolution: int
    resize: bool

    @property
    def count(self) -> int:
        return len(self.names)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of every image: the first one's."""
        height, width = self._decode(0, None).shape[1:]
        return height, width

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 that names the images as they are yielded; see ``ImageDataset.content_hash``."""
        return content_hash(
            self.source, self.names, self.channels, self.resolution if self.resize else None
        )

    def name(self, index: int) -> str:
        return self.source.where(self.names[index % self.count])

    def pixels(self, generator: Translator, indices: range) -> Tensor:
        return to_float(torch.stack([self._image(i % self.count) for i in indices]))

    def feed(self, generator: Translator, indices: range) -> Feed:
        run = super().feed(generator, indices)

        def checked() -> Tensor:
            try:
                return run()
            except ShapeError as error:  # each network has its own rule about sizes
                raise DataError(f"{self.name(indices.start)}: {error}", self._way_out()) from error

        return checked

    def _image(self, index: int) -> Tensor:
        """Return one image, [C, H, W], uint8; raises as ``decode_image`` does."""
        height, width = self.size

        def check(size: Size) -> None:
            if size != (width, height):
                raise DataError(
                    f"{self.name(index)}: size {size[0]}x{size[1]}, the first image has"
                    f" {width}x{height}; all must have one size",
                    self._way_out(),
                )

        return self._decode(index, check)

    def _decode(self, index: int, check: CheckSize | None) -> Tensor:
        return decode_image(
            self.source.read(self.names[index]),
            self.name(index),
            channels=self.channels,
            resolution=self.resolution if self.resize else None,
            resize=self.resize,
            check=check,
        )

    def _way_out(self) -> str:
        return f"crop or pad it; --resize scales squares to {self.resolution}x{self.resolution}"


def open_inputs(
    path: str | os.PathLike[str],
    generator: Translator,
    *,
    resize: bool = False,
    warn: Warn = ignore,
) -> ImageInputs:
    """Open the images that a translator is to translate.

    Args:
        path: An image file, a folder (searched recursively), a zip or an LMDB.
        generator: Says channels and resolution.
        resize: Scale squares to the generator's ``img_resolution``; else the first image's size is
            everyone's.
        warn: Told what is left out, and of values that cannot be meant.
    Raises:
        InputError: The generator takes images that no file can hold.
        DataError: The path holds no images, or the first one cannot serve.
    """
    if generator.in_channels not in CHANNELS:
        raise InputError(
            f"the model takes images of {generator.in_channels} channels, an image file has 1, 3"
            " or 4",
            "call the generator on tensors from Python: model.generator(x)",
        )
    resolution = generator.img_resolution
    source = open_images(Path(path), warn, resolution=resolution, takes_file=True)
    check_levels(source, warn)
    names = image_names(source)
    inputs = ImageInputs(Path(path), source, names, generator.in_channels, resolution, resize)
    _ = inputs.size  # a first image that cannot serve is found now
    return inputs


def open_source(
    generator: ImageGenerator,
    latents: Latents,
    input: str | os.PathLike[str] | None,
    *,
    defaults: Latents,
    resize: bool = False,
    warn: Warn = ignore,
) -> InputSource[Any] | None:
    """Return where a generator's inputs come from.

    Args:
        latents: What is asked for, for a generator that takes latents.
        input: What is asked for, for one that takes images.
        defaults: ``latents`` where nothing special is asked for.
        resize, warn: See ``open_inputs``.
    Returns:
        The source; None for a translator without ``input``.
    Raises:
        UsageError: What is asked for goes with the other kind.
        InputError: See ``open_inputs``.
    """
    if not isinstance(generator, Translator):
        if input is not None:
            raise UsageError(
                f"--input goes with translators, the model is a {generator.architecture} that"
                " starts from latents",
                "leave --input out",
            )
        return latents
    for field in fields(Latents):
        if field.name in _FLAGS and getattr(latents, field.name) != getattr(defaults, field.name):
            raise UsageError(
                f"{_FLAGS[field.name]} goes with latents, the model is a"
                f" {generator.architecture} that translates images",
                f"leave {_FLAGS[field.name]} out",
            )
    return None if input is None else open_inputs(input, generator, resize=resize, warn=warn)
