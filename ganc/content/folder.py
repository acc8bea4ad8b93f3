"""Masks that exist already: ``masks:DIR``, image i belongs to sample i."""

from pathlib import Path

import torch
from torch import Tensor

from ganc.content.request import MaskRequest
from ganc.data.images import decode_image
from ganc.data.levels import check_levels
from ganc.data.opening import image_names, open_images
from ganc.data.sources import Source
from ganc.errors import DataError
from ganc.progress import Warn, ignore

BRIGHT = 128
"""From this grey value on a pixel is protected: soft edges and JPEG's ripples do not count."""


class FolderMasks:
    """The images of a folder or zip, in the order of their names; a ``MaskSource``."""

    def __init__(self, source: Source, names: list[str]) -> None:
        self.source, self.names = source, names

    def __call__(self, images: Tensor, indices: range) -> Tensor:
        masks = [self._mask(i if len(self.names) > 1 else 0) for i in indices]
        for index, mask in zip(indices, masks, strict=True):
            if mask.shape != masks[0].shape:
                raise DataError(
                    f"{self._where(index)}: size {_size(mask)}, an earlier mask has"
                    f" {_size(masks[0])}; all must have one size"
                )
        return torch.stack(masks)

    def _mask(self, index: int) -> Tensor:
        name = self.names[index]
        grey = decode_image(self.source.read(name), self._where(index), channels=1)[0]
        if grey.shape[0] != grey.shape[1]:
            raise DataError(
                f"{self._where(index)}: size {_size(grey)} is not a square",
                "a mask has the image's shape; its size may be another",
            )
        return grey >= BRIGHT

    def _where(self, index: int) -> str:
        return self.source.where(self.names[index % len(self.names)])


def _size(mask: Tensor) -> str:
    return f"{mask.shape[1]}x{mask.shape[0]}"


def open_folder(path: str, request: MaskRequest) -> FolderMasks:
    """Return the masks of a folder or zip; see ``find_masks``."""
    return find_masks(path, request.samples, request.warn)


def find_masks(path: str, samples: int, warn: Warn = ignore) -> FolderMasks:
    """Return the masks of a folder, zip or LMDB: one per sample, or one for all of them.

    Args:
        warn: Told what is left out, and of values that cannot be meant: 0 and 1 protect nothing.
    Raises:
        DataError: There are none, or some but fewer than samples.
    """
    source = open_images(Path(path), warn)
    check_levels(source, warn)
    names = image_names(source)
    if 1 < len(names) < samples:
        raise DataError(
            f"{path}: {len(names)} masks for {samples} samples",
            f"pass --samples {len(names)}, add masks, or leave a single one for all samples",
        )
    return FolderMasks(source, names)
