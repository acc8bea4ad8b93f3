"""What segments translations, and the label maps that the segments are compared with."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganc.content.function import call_function, find_function
from ganc.data.dataset import content_hash
from ganc.data.images import BrokenImageError, read_pixels
from ganc.data.inputs import ImageInputs
from ganc.data.kinds import HEAD_BYTES, recognise
from ganc.data.opening import open_images
from ganc.data.sources import Source
from ganc.errors import DataError, InputError, UsageError
from ganc.evaluation.partners import check_size, partners
from ganc.progress import Warn, ignore

IGNORED = 255
"""Label of pixels that do not count."""

NUM_LABELS = 256


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """The classes of every pixel that translations should show. Made by ``open_labels``.

    Attributes:
        source: Where the bytes come from.
        names: The maps' names within it, in the order of the inputs.
        size: Height and width of the translations.
        resize: Whether maps of another size are scaled, by the nearest pixel.
    """

    source: Source
    names: list[str]
    size: tuple[int, int]
    resize: bool

    def maps(self, indices: range) -> Tensor:
        """Return some label maps, [N, H, W], uint8.

        Raises:
            DataError: One is broken, no index map, or of another size.
        """
        return torch.stack([self._map(self.names[i]) for i in indices])

    def name(self, index: int) -> str:
        """Return what errors call a map."""
        return self.source.where(self.names[index])

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 that names the maps."""
        return content_hash(self.source, self.names, 1, None)

    def _map(self, name: str) -> Tensor:
        image = decode_labels(self.source.read(name), self.source.where(name))
        height, width = self.size
        if self.resize:
            image = image.resize((width, height), Image.Resampling.NEAREST)
        check_size(self.source.where(name), (image.height, image.width), self.size)
        return torch.from_numpy(np.array(image))


def open_labels(
    path: str | os.PathLike[str], inputs: ImageInputs, warn: Warn = ignore
) -> LabelMaps:
    """Open the label maps that belong to a translator's inputs, by their names.

    Args:
        warn: Told what is left out.
    Raises:
        DataError: A name lacks its partner, or the first map cannot serve.
    """
    source = open_images(Path(path), warn, takes_file=True)
    labels = LabelMaps(source, partners(inputs, source), inputs.size, inputs.resize)
    labels.maps(range(1))
    return labels


def decode_labels(data: bytes, where: str) -> Image.Image:
    """Decode a PNG of class numbers: grey values, or the indices of a palette.

    Raises:
        BrokenImageError: The bytes are damaged, or no PNG.
        DataError: It has colours instead of class numbers, or numbers of 16 bits.
    """
    kind = recognise(data[:HEAD_BYTES])
    if kind != "PNG":
        raise BrokenImageError(
            f"{where}: no label map ({kind or 'no image'}), allowed is PNG", "replace the file"
        )
    image = read_pixels(data, where)
    if image.mode not in ("L", "P"):
        raise DataError(
            f"{where}: pixel format `{image.mode}`, a label map has one class number of 8 bits per"
            " pixel (grey or palette)",
            "save the class numbers, not their colours; 255 is ignored",
        )
    return image


class Segmenter:
    """The user's own function, as classes per pixel.

    Args:
        name: module:function, for errors and protocols.
        function: Images [N, C, H, W], float32 on the evaluation's device, in [-1, 1] → logits
            [N, K, H, W], floating point, or classes [N, H, W], integers; a tensor or an array.
    """

    def __init__(self, name: str, function: Callable[[Tensor], Any]) -> None:
        self.name, self.function = name, function

    def __call__(self, images: Tensor) -> tuple[Tensor, int]:
        """Return the class of every pixel and the number of classes there are.

        Returns:
            [N, H, W], int64, on the CPU; K, or 255 where the function does not tell.
        Raises:
            InputError: The function fails, or returns something else.
        """
        found = call_function(f"--segmenter {self.name}", self.function, images).detach().cpu()
        shape = (len(images), *images.shape[2:])
        if found.is_floating_point() and found.ndim == 4:
            classes, count = found.argmax(dim=1), found.shape[1]
        else:
            classes, count = found, IGNORED
        is_bad = classes.shape != shape or classes.is_floating_point() or count > IGNORED
        if is_bad or (classes.numel() and not 0 <= classes.min() <= classes.max() < count):
            raise InputError(
                f"--segmenter {self.name} must return logits [{shape[0]}, K, {shape[1]},"
                f" {shape[2]}] of at most {IGNORED} classes, or integers [{shape[0]}, {shape[1]},"
                f" {shape[2]}] from 0 to {IGNORED - 1}, got"
                f" {str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
            )
        return classes.long(), count


def open_segmenter(text: str) -> Segmenter:
    """Return the function that ``module:function`` names.

    Raises:
        UsageError: The text is none such, or there is no such module or function.
        InputError: The module fails when it is imported.
    """
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise UsageError(
            f"--segmenter {text} is not module:function",
            "for example --segmenter drn:segment, a function in drn.py in the current folder",
        )
    return Segmenter(text, find_function(module, name, flag="--segmenter", instead=""))
