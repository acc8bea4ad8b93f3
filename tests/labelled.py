"""Small data sets with labels."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ganc.data.images import to_uint8


def write_labelled(
    path: Path, labels: Sequence[Any] | None, images: Tensor | None = None, *, count: int = 8
) -> Path:
    """Write a data-set zip.

    Args:
        labels: One per image, or None: no ``dataset.json``.
        images: [N, 1 or 3, H, W], in [-1, 1]; None: noise of 16 px.
        count: Of the noise images, where there are no labels to count.
    """
    if images is None:
        count = count if labels is None else len(labels)
        random = torch.Generator().manual_seed(0)
        images = torch.rand(count, 3, 16, 16, generator=random) * 2 - 1
    names = [f"{index:05}.png" for index in range(len(images))]
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in zip(names, to_uint8(images), strict=True):
            pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
            Image.fromarray(pixels.numpy()).save(file := io.BytesIO(), "PNG")
            archive.writestr(name, file.getvalue())
        if labels is not None:
            table = [list(pair) for pair in zip(names, labels, strict=True)]
            archive.writestr("dataset.json", json.dumps({"labels": table}))
    return path
