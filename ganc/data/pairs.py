"""Image sets for translators: aligned pairs (pix2pix), or two sets on their own (CycleGAN).

What is opened is either one folder or zip that holds both sides (see ``ganc.data.layouts``), or one
for each side. Pairs may also come as pictures of both sides, A left and B right.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ganc.data.dataset import ImageDataset, content_hash
from ganc.data.images import CHANNELS, BrokenImageError, decode_halves, decode_image, image_size
from ganc.data.layouts import Sides, find_part, find_parts
from ganc.data.levels import check_levels
from ganc.data.opening import by_stem, image_names, open_images
from ganc.data.sources import Source
from ganc.errors import DataError, InputError
from ganc.progress import Warn, ignore

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class PairedImages(ABC):
    """Pairs of images, each pair as one image with the channels of both. Made by ``open_pairs``.

    Streams draw from it as from an ``ImageDataset``: mirroring flips both images of a pair, and one
    broken image makes the pair a broken one. Picklable, and safe to read from several threads.

    Attributes:
        source: Where the images come from, those of side A at least; what errors call the set.
        names: The pairs' names within it, sorted.
        channels_a, channels_b: 1, 3 or 4 each.
        resolution: Height and width of every image.
        resize: Whether squares of another size are scaled instead of refused.
    """

    source: Source
    names: list[str]
    channels_a: int
    channels_b: int
    resolution: int
    resize: bool

    label_dim = 0

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def image(self, index: int) -> torch.Tensor:
        """Read and decode one pair.

        Returns:
            [C_a + C_b, H, W], uint8, the channels of A first.
        Raises:
            BrokenImageError: The bytes of either image are damaged.
            DataError: An image is sound, but its size or sample format is not allowed.
        """

    def label(self, index: int) -> torch.Tensor:
        """Return an empty label, [0], float32: pairs have none."""
        return torch.zeros(0)

    @property
    def channels(self) -> int:
        """Channels of a pair."""
        return self.channels_a + self.channels_b

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 that names the pairs as they are yielded; see ``ImageDataset.content_hash``."""
        return hashlib.sha256("\n".join(self._hashes()).encode()).hexdigest()

    @abstractmethod
    def _hashes(self) -> tuple[str, str, str]:
        """Return the layout's name, and a hash of each side."""

    @property
    def _scaled_to(self) -> int | None:
        return self.resolution if self.resize else None


class _SideBySide(PairedImages):
    """Pairs in pictures of both sides."""

    def image(self, index: int) -> torch.Tensor:
        name = self.names[index]
        halves = decode_halves(
            self.source.read(name),
            self.source.where(name),
            channels=(self.channels_a, self.channels_b),
            resolution=self.resolution,
            resize=self.resize,
        )
        return _joined(*halves)

    def _hashes(self) -> tuple[str, str, str]:
        left = content_hash(self.source, self.names, self.channels_a, self._scaled_to)
        return "side by side", left, str(self.channels_b)


@dataclass(frozen=True, eq=False)
class _TwoSides(PairedImages):
    """Pairs in two sources: image i of one belongs to image i of the other."""

    source_b: Source
    names_b: list[str]

    def image(self, index: int) -> torch.Tensor:
        return _joined(
            self._decode(self.source, self.names[index], self.channels_a),
            self._decode(self.source_b, self.names_b[index], self.channels_b),
        )

    def _decode(self, source: Source, name: str, channels: int) -> torch.Tensor:
        return decode_image(
            source.read(name),
            source.where(name),
            channels=channels,
            resolution=self.resolution,
            resize=self.resize,
        )

    def _hashes(self) -> tuple[str, str, str]:
        a = content_hash(self.source, self.names, self.channels_a, self._scaled_to)
        b = content_hash(self.source_b, self.names_b, self.channels_b, self._scaled_to)
        return "two sides", a, b


def _joined(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Concatenate channels, on the calling thread alone (see ``ganc.data.stream.prefetch``)."""
    return torch.from_numpy(np.concatenate([a.numpy(), b.numpy()]))


def open_pairs(
    data: AnyPath,
    data_b: AnyPath | None = None,
    *,
    channels: tuple[int, int],
    resolution: int,
    resize: bool,
    warn: Warn = ignore,
) -> PairedImages:
    """Open aligned pairs.

    Images of two sides belong together when they have one name, extensions aside, folders included.

    Args:
        data: A folder or zip of both sides, or of side A.
        data_b: A folder or zip of side B; None where ``data`` holds both.
        channels: Of the images of A and of B, 1, 3 or 4 each.
        resolution: Height and width of every image.
        resize: Scale squares of another size instead of refusing them.
        warn: Told what is left out, images in other folders than those that are used among it,
            and of values that cannot be meant.
    Raises:
        InputError: The model's images are of another kind than files hold.
        DataError: The layout is not known, a side is empty, or an image has no partner. Most images
            are looked at when they are read.
    """
    _check_channels(channels)
    parts = _find(data, data_b, resolution, resize, warn)
    if not isinstance(parts, tuple):
        return _SideBySide(parts, image_names(parts), *channels, resolution, resize)
    a, b = parts
    names_a, names_b = _matched(a, b)
    for source, name in ((a, names_a[0]), (b, names_b[0])):
        if is_double(source, name):
            raise DataError(
                f"{source.where(name)}: twice as wide as high, a pair side by side, where the two"
                " sides come separately",
                "pass one folder or zip of such pictures as --data, without --data-b",
            )
    return _TwoSides(a, names_a, *channels, resolution, resize, b, names_b)


def open_unpaired(
    data: AnyPath,
    data_b: AnyPath | None = None,
    *,
    channels: tuple[int, int],
    resolution: int,
    resize: bool,
    warn: Warn = ignore,
) -> tuple[ImageDataset, ImageDataset]:
    """Open two sets of images that have nothing to do with each other.

    Args:
        data, data_b, channels, resolution, resize, warn: See ``open_pairs``.
    Raises:
        InputError, DataError: As ``open_pairs``, but that no image needs a partner and that
            pictures of both sides are refused.
    """
    _check_channels(channels)
    parts = _find(data, data_b, resolution, resize, warn)
    sides = parts if isinstance(parts, tuple) else (parts,)
    for source in sides:
        name = image_names(source)[0]
        if is_double(source, name):
            raise DataError(
                f"{source.where(name)}: twice as wide as high, a pair side by side; unpaired"
                " training takes the sides separately",
                "pairs go with --no-unpaired; or cut the pictures into two folders, --data and"
                " --data-b",
            )
    if not isinstance(parts, tuple):
        raise DataError(
            f"{parts.path}: one set of images, unpaired training needs two (A/ and B/, or trainA/"
            " and trainB/)",
            "pass the other side as --data-b",
        )
    a, b = (
        ImageDataset(source, image_names(source), resolution, count, resize, None)
        for source, count in zip(parts, channels, strict=True)
    )
    return a, b


def _find(
    data: AnyPath, data_b: AnyPath | None, resolution: int, resize: bool, warn: Warn
) -> Source | Sides:
    """Return the sides, or the one source that ``data`` is."""
    if data_b is None:
        return open_parts(data, resolution, resize, warn)
    if Path(data).resolve() == Path(data_b).resolve():
        raise DataError(
            f"{data_b}: --data-b is --data again, allowed is the other side's images",
            "leave --data-b out where one folder or zip holds both sides",
        )
    a, b = (open_side(path, resolution, resize, warn) for path in (data, data_b))
    return a, b


def open_parts(path: AnyPath, resolution: int, resize: bool, warn: Warn) -> Source | Sides:
    """Open a folder, zip or LMDB of both sides, or of pairs; raises as ``open_pairs``."""
    parts = find_parts(open_images(Path(path), warn, resolution=resolution, any_size=resize), warn)
    for source in parts if isinstance(parts, tuple) else (parts,):
        check_levels(source, warn, None if resize else resolution)
    return parts


def open_side(path: AnyPath, resolution: int, resize: bool, warn: Warn) -> Source:
    """Open a folder, zip or LMDB of the images of one side; raises as ``open_pairs``."""
    source = find_part(open_images(Path(path), warn, resolution=resolution, any_size=resize), warn)
    check_levels(source, warn, None if resize else resolution)
    return source


def _check_channels(channels: tuple[int, int]) -> None:
    for count in channels:
        if count not in CHANNELS:
            raise InputError(
                f"the model translates images of {count} channels, an image file has 1, 3 or 4"
            )


def _matched(a: Source, b: Source) -> tuple[list[str], list[str]]:
    """Return the names of both sides, partners at the same place."""
    by_key_a, by_key_b = by_stem(a), by_stem(b)
    for own, others, source, other in ((by_key_a, by_key_b, a, b), (by_key_b, by_key_a, b, a)):
        alone = [name for key, name in own.items() if key not in others]
        if alone:
            raise DataError(
                f"{source.where(alone[0])}: no partner of this name in {other.path} ({len(alone)}"
                f" of {len(own)} images have none)",
                "pairs have one name on both sides, extensions aside; images without partners go"
                " with --unpaired",
            )
    keys = sorted(by_key_a)
    return [by_key_a[key] for key in keys], [by_key_b[key] for key in keys]


def is_double(source: Source, name: str) -> bool:
    """Say whether an image is two squares side by side; a broken one is somebody else's case."""
    try:
        size = image_size(source.read(name))
    except BrokenImageError:
        return False
    return size is not None and size[0] == 2 * size[1]
