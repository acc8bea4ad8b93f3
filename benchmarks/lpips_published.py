"""LPIPS against the values that its authors publish for their example images.

The pictures stand in the folder ``imgs`` of the repository richzhang/PerceptualSimilarity:
``ex_ref.png``, ``ex_p0.png``, ``ex_p1.png``. Its README gives 0.722 and 0.138 on AlexNet.

    python benchmarks/lpips_published.py PerceptualSimilarity/imgs
"""

import argparse
from pathlib import Path

import figures
import torch
from torchvision.io import ImageReadMode, decode_image

from ganc.data.images import to_float
from ganc.perceptual.distance import load_perceptual, probe_distance

NETWORKS = ("lpips-alex", "lpips-vgg")
PUBLISHED = {("lpips-alex", "ex_p0"): 0.722, ("lpips-alex", "ex_p1"): 0.138}


def read(path: Path) -> torch.Tensor:
    """Return a picture, [1, 3, H, W] in [-1, 1]."""
    return to_float(decode_image(str(path), ImageReadMode.RGB)[None])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, help="folder of the three pictures")
    figures.add_option(parser)
    given = parser.parse_args()
    reference = read(given.images / "ex_ref.png")
    for name in NETWORKS:
        distance = load_perceptual(name)
        self_test = probe_distance(distance)
        print(f"{name}: self-test {self_test:.6g}, source {distance.source}")
        for picture in ("ex_p0", "ex_p1"):
            with torch.no_grad():
                found = float(distance(reference, read(given.images / f"{picture}.png")))
            published = PUBLISHED.get((name, picture))
            figures.record(
                given.figures, "lpips_published", network=name, picture=picture, found=found,
                published=published, self_test=self_test,
            )  # fmt: skip
            print(f"    {picture} {found:.4f}, published {published or '–'}")


if __name__ == "__main__":
    main()
