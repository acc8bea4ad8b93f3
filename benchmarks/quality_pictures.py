"""The pictures of docs/quality.md and README, from the folder that ``quality.py`` wrote.

Draws the decisive arms' metrics over steps, and images of the teacher and of students of seed 0,
with the same latents below each other.

    python benchmarks/quality_pictures.py out --curves docs/quality-curves.png
    python benchmarks/quality_pictures.py out --images docs/quality-images.png
    python benchmarks/quality_pictures.py out --pipeline docs/pipeline.png
"""

import argparse
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from arms import Run, results, start_path
from PIL import Image, ImageDraw, ImageFont
from quality import STUDIES
from torch import Tensor

import ganc
from ganc.data.grid import make_grid, to_picture

CURVES = {"fd": "fd, lower is better", "recall": "recall", "lpips-diversity": "LPIPS diversity"}
STEPS = (300, 1000, 3000)
LAST = STEPS[-1]
ROWS = {
    "teacher": Run("teacher", 0, 0),
    "sliced": Run("diversity", 0, 0),
    "published,\nrandom start": Run("random weights, published", 0, LAST),
    "published,\nsliced": Run("diversity, published", 0, LAST),
    "fitted": Run("fitted", 0, 0),
    "fitted, ganc": Run("fitted, ganc", 0, LAST),
}
"""What stands beside a row → what it shows."""
PIPELINE = {
    "teacher": ROWS["teacher"],
    "pruned": ROWS["sliced"],
    "pruned, fitted": ROWS["fitted"],
    "and distilled": ROWS["fitted, ganc"],
}
"""Those of README's picture, with their numbers."""
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


def draw_images(folder: Path, rows: dict[str, Run], teacher: Path, out: Path) -> None:
    """Draw rows of samples, labelled."""
    paths = {label: path_of(folder, run, teacher) for label, run in rows.items()}
    images = {name: ganc.sample(ganc.load(path), COLUMNS, seed=7) for name, path in paths.items()}
    labelled(images).save(out, optimize=True)


def labelled(rows: Mapping[str, Tensor], width: int = LABEL) -> Image.Image:
    """Return rows of images, [N, C, H, W] each, behind labels that get some pixels of width.

    Pixels stay whole, or the file would be large.
    """
    columns = len(next(iter(rows.values())))
    grid = to_picture(make_grid(torch.cat(list(rows.values())), columns=columns), zoom=ZOOM)
    picture = Image.new("RGB", (width + grid.width, grid.height), "white")
    picture.paste(grid, (width, 0))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for row, label in enumerate(rows):
        middle = (row + 0.5) * grid.height / len(rows)
        draw.multiline_text((width - 10, middle), label, "black", font, "rm", align="right")
    return picture


def path_of(folder: Path, run: Run, teacher: Path) -> Path:
    """Return the file of a model."""
    if run.arm == "teacher":
        return teacher
    return (
        folder / f"{run.arm} {run.seed}" / "student.safetensors"
        if run.steps
        else start_path(folder, run)
    )


def numbered(rows: dict[str, Run], folder: Path) -> dict[str, Run]:
    """Put a model's fd under its label."""
    found = results(folder)
    return {f"{label}\nfd {found[run]['fd']:.0f}": run for label, run in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--curves", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--pipeline", type=Path, help="README's picture")
    given = parser.parse_args()
    if given.curves:
        draw_curves(given.folder, given.curves)
    with resources.as_file(resources.files("ganc.showcase")) as package:
        teacher = package / "faces32.safetensors"
        if given.images:
            draw_images(given.folder, ROWS, teacher, given.images)
        if given.pipeline:
            draw_images(given.folder, numbered(PIPELINE, given.folder), teacher, given.pipeline)


if __name__ == "__main__":
    main()
