"""Putting images side by side in one picture."""

import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ganc.data.images import to_uint8
from ganc.errors import ShapeError
from ganc.files import atomic_write

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_WHITE = 1.0


def make_grid(images: Tensor, *, columns: int | None = None, gap: int = 2) -> Tensor:
    """Arrange images row by row on white.

    Args:
        images: [N, C, H, W], nominal range [-1, 1]; N at least 1.
        columns: Images per row; None makes the grid about square.
        gap: Pixels between neighbours.
    Returns:
        [C, rows · (H + gap) − gap, columns · (W + gap) − gap], same range.
    Raises:
        ShapeError: There is no image, or it has another number of dimensions.
    """
    if images.ndim != 4 or len(images) == 0:
        raise ShapeError(f"images must be [N, C, H, W], got {list(images.shape)}")
    count, channels, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    size = (channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    grid = torch.full(size, _WHITE)
    for i, image in enumerate(images.cpu()):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        grid[:, y : y + height, x : x + width] = image
    return grid


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Join two batches of images of one size pair by pair.

    Args:
        left, right: [N, C, H, W], nominal range [-1, 1]; C of either is 1, 3 or 4. Grey is repeated
            and an opaque alpha added where the other one has them.
    Returns:
        [N, C, H, 2 · W], same range; no gap, so that in a grid a pair stands out as one.
    """
    channels = max(left.shape[1], right.shape[1])
    return torch.cat([_with_channels(images, channels) for images in (left, right)], dim=3)


def _with_channels(images: Tensor, channels: int) -> Tensor:
    if images.shape[1] == 1 and channels > 1:
        images = images.expand(-1, 3, -1, -1)
    if images.shape[1] < channels:
        images = torch.cat([images, torch.full_like(images[:, :1], _WHITE)], dim=1)
    return images


def to_picture(image: Tensor, *, zoom: int = 1) -> Image.Image:
    """Return a Pillow image of [C, H, W] in [-1, 1], every pixel enlarged ``zoom`` times.

    Raises:
        ShapeError: C is not 1, 3 or 4.
    """
    if image.ndim != 3 or image.shape[0] not in _MODES:
        raise ShapeError(f"image must be [1, 3 or 4, H, W], got {list(image.shape)}")
    pixels = to_uint8(image[None])[0]
    array = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    picture = Image.fromarray(array.contiguous().numpy())
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def save_grid(
    images: Tensor, path: Path, *, columns: int | None = None, zoom: int = 1, force: bool = False
) -> None:
    """Write images as one PNG, atomically.

    Raises:
        OutputError: The file exists and ``force`` is off, or it cannot be written.
    """
    save_image(make_grid(images, columns=columns), path, zoom=zoom, force=force)


def save_image(image: Tensor, path: Path, *, zoom: int = 1, force: bool = False) -> None:
    """Write [C, H, W] in [-1, 1] as a PNG, atomically; raises as ``save_grid`` does."""
    picture = to_picture(image, zoom=zoom)
    with atomic_write(path, force=force) as temporary:
        picture.save(temporary, format="PNG")


def zoom_for(resolution: int, *, at_least: int = 96) -> int:
    """Return how often small images should be enlarged to be looked at."""
    return max(1, -(-at_least // resolution))
