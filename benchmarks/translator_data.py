"""Make small training sets for translators out of a zip of faces.

- ``edges2faces.zip``: aligned pairs side by side, a line drawing left and its face right; the last
  tenth of the faces is kept out, in ``edges2faces-test/A`` and ``/B``.
- ``faces2sketches/``: ``trainA`` has faces, ``trainB`` pencil sketches of other faces, so that no
  image has a partner; ``testA`` and ``testB`` likewise.
- ``look.png``: faces, their lines and their sketches, to look at.

Lines are where the difference of two Gaussians of the luma is low; the narrow one keeps an eye's
detail, the wide one the brightness around it. A sketch is the luma divided by the blurred luma
(photographers' "colour dodge" of an image with its own blurred negative), which leaves dark strokes
on white paper.

    python benchmarks/translator_data.py faces64.zip -o sets
    ganc distill --architecture unet_translator ... --data sets/edges2faces.zip -o run
"""

import argparse
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ganc.data.dataset import open_dataset
from ganc.data.grid import save_grid
from ganc.data.images import to_float

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blur [N, 1, H, W] with a Gaussian; the border is mirrored."""
    radius = int(3 * sigma) + 1
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    images = F.pad(images, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(images, kernel[None, None, None]), kernel[None, None, :, None])


def luma(images: Tensor) -> Tensor:
    """Return [N, 1, H, W] in [0, 1] of RGB images in [-1, 1]."""
    weights = torch.tensor(LUMA)[None, :, None, None]
    return ((images + 1) / 2 * weights).sum(dim=1, keepdim=True)


def edges(images: Tensor) -> Tensor:
    """Draw RGB images in [-1, 1] as black lines on white, [N, 1, H, W] in [-1, 1].

    Widths are of 64 px and grow with the resolution.
    """
    scale = images.shape[-1] / 64
    grey = luma(images)
    difference = blur(grey, 0.6 * scale) - blur(grey, 1.6 * scale)
    # Each face has lines over an equal area, whatever its contrast.
    threshold = difference.flatten(1).quantile(0.13, dim=1)[:, None, None, None]
    return torch.where(difference < threshold, -1.0, 1.0)


def sketches(images: Tensor) -> Tensor:
    """Draw RGB images in [-1, 1] with a pencil, [N, 1, H, W] in [-1, 1]."""
    scale = images.shape[-1] / 64
    grey = luma(images)
    floor = 0.02  # an even surface stays paper, be it black
    dodged = (grey + floor) / (blur(grey, 2.5 * scale) + floor)
    return 2 * dodged.clamp(max=1) ** 2 - 1


def picture(image: Tensor) -> Image.Image:
    """Return [1 or 3, H, W] in [-1, 1] as a Pillow image."""
    pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    array = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    return Image.fromarray(array.contiguous().numpy())


def write_folder(folder: Path, images: Iterable[Tensor], first: int = 0) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images, first):
        picture(image).save(folder / f"{number:05}.png")


def write_side_by_side(path: Path, left: Iterable[Tensor], right: Iterable[Tensor]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number, halves in enumerate(zip(left, right, strict=True)):
            joined = torch.cat([half.expand(3, -1, -1) for half in halves], dim=2)
            with archive.open(f"{number:05}.png", "w") as file:
                picture(joined).save(file, format="PNG")


def make_sets(faces: Tensor, out: Path) -> None:
    """Write both sets.

    Args:
        faces: [N, 3, H, W] in [-1, 1].
        out: A folder that does not exist yet.
    """
    out.mkdir(parents=True)
    drawn, sketched = edges(faces), sketches(faces)
    train = len(faces) * 9 // 10
    write_side_by_side(out / "edges2faces.zip", drawn[:train], faces[:train])
    write_folder(out / "edges2faces-test" / "A", drawn[train:], train)
    write_folder(out / "edges2faces-test" / "B", faces[train:], train)
    write_unpaired(out / "faces2sketches", "train", faces[:train], sketched[:train])
    write_unpaired(out / "faces2sketches", "test", faces[train:], sketched[train:])
    rows = [side.expand(-1, 3, -1, -1)[:8] for side in (faces, drawn, sketched)]
    save_grid(torch.cat(rows), out / "look.png", columns=8, zoom=2)


def write_unpaired(root: Path, part: str, faces: Sequence[Tensor], drawn: Sequence[Tensor]) -> None:
    """Write the first half of the people as faces, the others as sketches."""
    half = len(faces) // 2
    write_folder(root / f"{part}A", faces[:half])
    write_folder(root / f"{part}B", drawn[half:], half)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faces", type=Path, help="folder or zip of square RGB faces")
    parser.add_argument("-o", "--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--count", type=int, default=2000, help="faces to use, at most")
    parser.add_argument("--resolution", type=int, help="scale the faces to this many px first")
    arguments = parser.parse_args()
    resolution = arguments.resolution
    dataset = open_dataset(
        arguments.faces, resolution=resolution, channels=3, resize=resolution is not None
    )
    count = min(arguments.count, len(dataset))
    make_sets(to_float(torch.stack([dataset.image(i) for i in range(count)])), arguments.out)


if __name__ == "__main__":
    main()
