"""Sliced by l1-out, sliced by density, or fitted: students of a small SN-GAN and a small CycleGAN.

``quality.py`` for two more families, with the teachers of ``tests/golden/trained`` and the real
images that they were trained on. All students of a family are pruned to the same MACs and distilled
for as many steps; recipes have their own numbers.

    python benchmarks/quality_families.py sngan --data faces32.zip -o out
    python benchmarks/quality_families.py cyclegan --data faces64.zip -o out --steps 1000
    python benchmarks/quality_families.py sngan --data faces32.zip -o out --picture sngan.png

See ``arms`` for how an interrupted table goes on. ``--picture`` draws what is there, of the first
seed.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import train_translators
import translator_data
from arms import (
    UNSEEN,
    Bench,
    Run,
    Start,
    Subject,
    Training,
    add_options,
    results,
    runs,
    start_path,
    table,
)
from quality_pictures import labelled
from torch import Tensor

import ganc
from ganc.data.dataset import open_dataset
from ganc.data.images import to_float
from ganc.models.sampling import generate, latent_inputs

TEACHERS = Path(__file__).parents[1] / "tests" / "golden" / "trained"
SEARCH = {"steps": 300, "centers": 16}
"""Of ``density``: as many images as a thousand of its own steps, in less time."""
PICTURES = 8
"""Columns of a picture."""
LABEL = 190
"""Pixels in front of a row."""


@dataclass(frozen=True)
class Family:
    """What is studied of a family.

    Attributes:
        subject: The teacher, and what its students get.
        starts, arms: See ``Bench``.
        draw: Returns some images of a model, [PICTURES, 3, H, W]; of None what it translates.
    """

    subject: Subject
    starts: Mapping[str, Start]
    arms: Mapping[str, tuple[str, Training]]
    draw: Callable[[ganc.Model | None], Tensor | None]


def starts(macs: float, speedup: float, **images: Path) -> dict[str, Start]:
    """Return a family's starts.

    Args:
        macs: What is left, at most.
        speedup: About the same, for the search.
        images: What translators are looked at with, as settings of ``score`` and ``prune``.
    """
    search = {"method": "density", "density": {**SEARCH, "speedup": speedup}}
    return {
        "l1-out": Start({"method": "l1-out"}, macs=macs),
        "density": Start({**search, **images}, macs=macs),
        "fitted": Start({"method": "rebuild", **images}, {"refit": True, **images}, macs=macs),
    }


def sngan(given: argparse.Namespace) -> Family:
    """Return the study of the SN-GAN."""
    metrics = (
        "fd", "lpips-diversity", "irs", "irs-kept", "precision", "recall", "perceptual", "l1",
    )  # fmt: skip
    teacher = ganc.load(TEACHERS / "sngan-faces-32.safetensors")
    begun = starts(2.85e6, 9.5)

    def draw(model: ganc.Model | None) -> Tensor | None:
        if model is None:
            return None
        own = model.generator.eval()
        return generate(own, latent_inputs(own, range(PICTURES), UNSEEN))

    return Family(
        Subject(teacher, given.data, metrics, given.samples), begun,
        {f"{start}, sngan": (start, Training("sngan", on_real=True)) for start in begun}, draw,
    )  # fmt: skip


def cyclegan(given: argparse.Namespace) -> Family:
    """Return the study of the CycleGAN."""
    sets = train_translators.sets(given.data, given.out, 32)
    data, (faces, sketches) = sets / "faces2sketches", held_out(sets)
    begun = starts(2.89e6, 3.6, data=data / "trainA", data_b=data / "trainB")
    teacher = ganc.load(TEACHERS / "cyclegan-faces2sketches-32.safetensors")
    views = {
        "sketch ": {"input": faces, "target": sketches, "data": sketches},
        "face ": {"network": "generator_b", "input": sketches, "target": faces, "data": faces},
    }
    metrics = ("l1", "psnr", "lpips", "perceptual", "l1-target", "fd")
    published = Training("i2i-published", on_real=True, alone=True)
    teachers_terms = Training("i2i", train_translators.ARMS["and the teacher's"], on_real=True)
    arms = {f"{start}, i2i": (start, Training("i2i", on_real=True)) for start in begun}
    arms |= {f"{start}, i2i-published": (start, published) for start in begun}
    arms["fitted, i2i and the teacher's terms"] = ("fitted", teachers_terms)
    inputs = [images_of(folder, PICTURES // 2) for folder in (faces, sketches)]

    def draw(model: ganc.Model | None) -> Tensor:
        if model is None:
            return torch.cat(inputs)
        both = zip((model.generator.eval(), model.generator_b.eval()), inputs, strict=True)
        with torch.no_grad():
            return torch.cat([network(images) for network, images in both])

    subject = Subject(teacher, data, metrics, given.samples, views)
    return Family(subject, begun, arms, draw)


FAMILIES: Mapping[str, Callable[[argparse.Namespace], Family]] = {
    "sngan": sngan, "cyclegan": cyclegan,
}  # fmt: skip


def held_out(sets: Path) -> tuple[Path, Path]:
    """Return the faces that no training saw, and the sketches of the same faces."""
    faces, sketches = sets / "edges2faces-test" / "B", sets / "sketches-test"
    if not sketches.exists():
        drawn, first = translator_data.sketches(images_of(faces)), min(faces.iterdir()).stem
        translator_data.write_folder(sketches, drawn, int(first))
    return faces, sketches


def images_of(folder: Path, count: int | None = None) -> Tensor:
    """Return the first images of a folder, [N, 3, 32, 32] in [-1, 1]; None: all."""
    dataset = open_dataset(folder, resolution=32, channels=3)
    return to_float(torch.stack([dataset.image(i) for i in range(count or len(dataset))]))


def rows(bench: Bench, family: Family, seed: int, steps: int) -> dict[str, Tensor]:
    """Return the images of each model that is there, by label; the teacher's first."""
    drawn = {"input": family.draw(None), "teacher": family.draw(family.subject.teacher)}
    for name in bench.starts:
        path = start_path(bench.folder, Run(name, seed, 0))
        if path.exists():
            drawn[f"{name}, not distilled"] = family.draw(ganc.load(path))
    for name in bench.arms:
        run = Run(name, seed, steps)
        if run in results(bench.folder):
            drawn[name.replace(" and ", "\nand ")] = family.draw(bench.distilled(run)[0])
    return {label: images for label, images in drawn.items() if images is not None}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--arms", nargs="+", help="of the family; default: all")
    parser.add_argument("--picture", type=Path, help="PNG of what is there; runs nothing")
    add_options(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(exist_ok=True)
    family = FAMILIES[given.family](given)
    bench = Bench(
        given.out, f"quality of {given.family}", family.starts, family.arms, family.subject,
        given.figures,
    )  # fmt: skip
    if given.picture:
        drawn = labelled(rows(bench, family, given.seeds[0], given.steps[-1]), LABEL)
        drawn.quantize(256).save(given.picture, optimize=True)  # noise makes large files
    elif not given.table:
        bench.measure_teacher()
        for run in runs(given.arms or list(family.arms), given.seeds, given.steps):
            bench.measure(run)
    scored = dict.fromkeys(f"{start.scores['method']} scores" for start in family.starts.values())
    order = [*scored, *family.starts, *family.arms]
    print(*table(results(given.out), order, family.subject.columns), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
