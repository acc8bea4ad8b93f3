"""The pictures of docs/quality.md, from the folder that ``quality.py`` wrote.

Draws the decisive arms' metrics over steps, and images of the teacher and of students of seed 0,
with the same latents below each other.

    python benchmarks/quality_pictures.py out --curves docs/quality-curves.png
    python benchmarks/quality_pictures.py out --images docs/quality-images.png
"""

import argparse
from importlib import resources
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from arms import Run, results
from PIL import Image, ImageDraw, ImageFont
from quality import STUDIES

import ganc
from ganc.data.grid import make_grid, to_picture

CURVES = {"fd": "fd, lower is better", "recall": "recall", "lpips-diversity": "LPIPS diversity"}
STEPS = (300, 1000, 3000)
ROWS = {
    "teacher": None,
    "sliced": "diversity 0.safetensors",
    "published,\nrandom start": "random weights, published 0/student.safetensors",
    "published,\nsliced": "diversity, published 0/student.safetensors",
    "fitted": "fitted 0.safetensors",
    "fitted, ganc": "fitted, ganc 0/student.safetensors",
}
"""What stands beside a row → the model's file; the students were trained for the most steps."""
COLUMNS, ZOOM, LABEL = 8, 2, 120


def draw_curves(folder: Path, out: Path) -> None:
    """Draw each metric over steps: seeds as dots, their mean a line, the teacher's dashed."""
    found = results(folder)
    figure, plots = plt.subplots(1, len(CURVES), figsize=(10, 3.4), layout="constrained")
    for (metric, label), axes in zip(CURVES.items(), plots, strict=True):
        for arm in STUDIES["decisive"]:
            own = {
                s: [v[metric] for r, v in found.items() if (r.arm, r.steps) == (arm, s)]
                for s in STEPS
            }
            line = axes.plot(STEPS, [sum(v) / len(v) for v in own.values()], label=arm)[0]
            for steps, values in own.items():
                axes.plot([steps] * len(values), values, ".", color=line.get_color())
        axes.axhline(
            found[Run("teacher", 0, 0)][metric], color="grey", linestyle="--", label="teacher"
        )
        axes.set(xscale="log", xlabel="steps of 16 images", ylabel=label)
        axes.set_xticks(STEPS, [f"{s}" for s in STEPS], minor=False)
        axes.minorticks_off()
    plots[0].set_yscale("log")
    ticks = [80, 100, 150, 200, 400, 700]
    plots[0].set_yticks(ticks, [str(t) for t in ticks])
    plots[0].minorticks_off()
    figure.legend(
        *plots[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    figure.savefig(out, dpi=90)


def draw_images(folder: Path, teacher: Path, out: Path) -> None:
    """Draw rows of samples, labelled; whole pixels, or the file would be large."""
    images = [
        ganc.sample(ganc.load(teacher if file is None else folder / file), COLUMNS, seed=7)
        for file in ROWS.values()
    ]
    grid = to_picture(make_grid(torch.cat(images), columns=COLUMNS), zoom=ZOOM)
    picture = Image.new("RGB", (LABEL + grid.width, grid.height), "white")
    picture.paste(grid, (LABEL, 0))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for row, label in enumerate(ROWS):
        middle = (row + 0.5) * grid.height / len(ROWS)
        draw.multiline_text((LABEL - 10, middle), label, "black", font, "rm", align="right")
    picture.save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--curves", type=Path)
    parser.add_argument("--images", type=Path)
    given = parser.parse_args()
    if given.curves:
        draw_curves(given.folder, given.curves)
    if given.images:
        with resources.as_file(resources.files("ganc.showcase")) as package:
            draw_images(given.folder, package / "faces32.safetensors", given.images)


if __name__ == "__main__":
    main()
