"""An image set as a map from index to (image, label): a folder, a zip or an LMDB.

Sets for translators (paired, unpaired) have openers of their own, in ``ganc.data.pairs``.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch.nn import functional as F

from ganc.data.images import CHANNELS, decode_image
from ganc.data.labels import read_labels
from ganc.data.levels import check_levels
from ganc.data.opening import image_names, open_images
from ganc.data.sources import Source
from ganc.errors import DataError, UsageError
from ganc.progress import Warn, ignore

# Pillow lets go of the interpreter lock while it decodes; past eight threads reading is the limit.
DECODE_THREADS = min(8, os.cpu_count() or 1)

# Part of the content hash; to be raised when the same bytes start to decode to other pixels.
_DECODING_RULES = 3


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A set of images of one size. Made by ``open_dataset``; every read decodes afresh.

    Picklable, also for spawned workers, and safe to read from several threads.

    Args:
        source: Where the bytes come from.
        names: The images' names within the source, sorted.
        resolution: Height and width of every image.
        channels: 1, 3 or 4.
        resize: Whether squares of another size are scaled instead of refused.
        labels: Class numbers [N], int64, or label vectors [N, D], float32, or None.
    """

    source: Source
    names: list[str]
    resolution: int
    channels: int
    resize: bool
    labels: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.image(index), self.label(index)

    def image(self, index: int) -> torch.Tensor:
        """Read and decode one image, [C, H, W], uint8; raises as ``decode_image`` does."""
        name = self.names[index]
        return decode_image(
            self.source.read(name),
            self.source.where(name),
            channels=self.channels,
            resolution=self.resolution,
            resize=self.resize,
        )

    def label(self, index: int) -> torch.Tensor:
        """Return one label, [label_dim], float32: one-hot for class numbers."""
        if self.labels is None:
            return torch.zeros(0)
        if self.labels.ndim == 1:
            return F.one_hot(self.labels[index], self.label_dim).to(torch.float32)
        return self.labels[index]

    @cached_property
    def label_dim(self) -> int:
        """Length of a label: 0 without labels, the highest class + 1 for class numbers."""
        if self.labels is None:
            return 0
        return int(self.labels.max()) + 1 if self.labels.ndim == 1 else self.labels.shape[1]

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 that names the images as this set yields them, a key for cached features.

        Over each image's name, size and CRC-32, the channels and the scaling; labels do not enter.
        A zip has the checksums in its index; a folder is read once, completely.
        """
        scaled_to = self.resolution if self.resize else None
        return content_hash(self.source, self.names, self.channels, scaled_to)


def content_hash(source: Source, names: Sequence[str], channels: int, scaled_to: int | None) -> str:
    """Return the SHA-256 that names some images as they are decoded."""
    scaling = "as stored" if scaled_to is None else f"lanczos {scaled_to}"
    digest = hashlib.sha256(f"{_DECODING_RULES}\n{channels}\n{scaling}\n".encode())
    for name in names:
        size, checksum = source.checksum(name)
        digest.update(f"{name}\0{size}\0{checksum}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def open_dataset(
    path: str | os.PathLike[str],
    *,
    resolution: int | None,
    channels: int,
    resize: bool = False,
    use_labels: bool = False,
    warn: Warn = ignore,
) -> ImageDataset:
    """Open a folder (searched recursively), a zip or an LMDB of images.

    Args:
        path: The folder, zip or LMDB.
        resolution: Height and width that every image must have; None takes the first image's.
        channels: 1, 3 or 4; images of other kinds are converted, see ``ganc.data.images``.
        resize: Scale squares of another size instead of refusing them; needs a resolution.
        use_labels: Read ``dataset.json``; otherwise it is not opened.
        warn: Told what is left out, and of values that cannot be meant.
    Raises:
        DataError: The path, its images or its labels cannot serve. A broken image, or one of
            another size, is named when it is read, not here, but for the first where ``resolution``
            is None.
        MissingDependencyError: It is an LMDB, and the package is missing.
    """
    if channels not in CHANNELS:
        raise UsageError(f"channels is {channels}, allowed are 1, 3 and 4")
    if resize and resolution is None:
        raise UsageError("resize is set without a resolution, it needs one")
    source = open_images(Path(path), warn, resolution=resolution, any_size=resize)
    names = image_names(source)
    if resolution is None:
        resolution = _resolution_of(source, names[0])
    check_levels(source, warn, None if resize else resolution)
    labels = read_labels(source, names) if use_labels else None
    return ImageDataset(source, names, resolution, channels, resize, labels)


def _resolution_of(source: Source, name: str) -> int:
    where = source.where(name)
    height, width = decode_image(source.read(name), where, channels=3).shape[1:]
    if height != width:
        raise DataError(
            f"{where}: size {width}x{height} is not a square",
            "crop or pad it to a square first; images are never cropped here",
        )
    return height


def decode_batch(
    dataset: ImageDataset, indices: Sequence[int] | range, pool: Executor
) -> torch.Tensor:
    """Decode some images on the pool's threads, [len(indices), C, H, W], uint8."""
    return torch.stack(list(pool.map(dataset.image, indices)))


def iterate_images(dataset: ImageDataset, limit: int | None, batch: int) -> Iterator[torch.Tensor]:
    """Yield the first ``limit`` images in order, for evaluation: a broken one ends it.

    Args:
        limit: At most so many images; None means all.
        batch: Images per batch; the last one may be smaller.
    Returns:
        Batches [n, C, H, W], uint8. Their concatenation depends on neither batch nor threads.
    Raises:
        BrokenImageError, DataError: As ``decode_image``, when the batch is reached.
    """
    count = len(dataset) if limit is None else min(limit, len(dataset))
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        for start in range(0, count, batch):
            yield decode_batch(dataset, range(start, min(start + batch, count)), pool)
