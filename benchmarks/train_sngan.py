"""From photographs to a small generator: train an SN-GAN, prune it, distill it, compare.

    python benchmarks/train_sngan.py --data faces32.zip -o sngan32

Trains a narrow SN-GAN of 32 px on one thread, scores it by diversity, prunes it, distills it from
itself, and measures teacher, pruned and distilled generator against the same real images. Every
part is kept in the folder and not computed again, so that an interrupted run goes on.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import ganc
from ganc.data.grid import make_grid, save_image
from ganc.models import sngan
from ganc.models.sampling import generate, latent_inputs

RESOLUTION, Z_DIM = 32, 64
TRAINING = {"batch": 32, "d_steps": 2, "lr": 0.0005, "mirror": True}
DISTANCES = {"perceptual": "effnet-lite0", "perceptual_resolution": 64}
METRICS = ("fd", "perceptual-diversity", "macs", "params")
RESULT = "student.safetensors"


def new_model(width: int) -> ganc.Model:
    """Return an SN-GAN of which every layer is ``width`` channels wide, seeded random weights."""
    torch.manual_seed(0)
    blocks = ("block2", "block3", "block4")
    widths = {"stem": width} | {f"{b}.{conv}": width for b in blocks for conv in ("conv1", "conv2")}
    judged = dict.fromkeys(sngan.discriminator_widths(RESOLUTION), width)
    return ganc.Model(
        generator=sngan.Generator(Z_DIM, RESOLUTION, 3, widths=widths),
        discriminator=sngan.Discriminator(RESOLUTION, 3, widths=judged),
    )


def train(
    student: ganc.Model,
    teacher: ganc.Model | None,
    folder: Path,
    data: Path,
    steps: int,
    numbers: Mapping[str, Any],
) -> ganc.Model:
    """Train, or go on with a run that was interrupted; return what it gave."""
    began = time.perf_counter()
    is_begun = (folder / RESULT).exists()
    ganc.distill(
        student, teacher, folder, data=data, steps=steps, recipe="sngan", overrides=numbers,
        resume="latest" if is_begun else None, device="cpu", channels_last=True,
        save_every=200, sample_every=100,
    )  # fmt: skip
    print(f"{folder.name}: {steps} steps, {time.perf_counter() - began:.0f} s now", flush=True)
    return ganc.load(folder / RESULT)


def compare(models: Mapping[str, ganc.Model], data: Path, samples: int) -> None:
    """Print each model's distance to the real images, its diversity and its cost."""
    for name, model in models.items():
        values = ganc.evaluate(model, METRICS, data=data, samples=samples, device="cpu")["metrics"]
        print(f"{name:10s}", *(f"{n} {values[n]:.4g}" for n in METRICS), sep="  ", flush=True)


def picture(models: Mapping[str, ganc.Model], path: Path) -> None:
    """Write the same latents through every model, a row of blocks from left to right."""
    grids = [
        make_grid(generate(m.generator, latent_inputs(m.generator, range(48), 0)), columns=6, gap=0)
        for m in models.values()
    ]
    save_image(make_grid(torch.stack(grids), columns=len(grids), gap=16), path, force=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder or zip of 32 px images")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--distill-steps", type=int, default=300)
    parser.add_argument("--speedup", type=float, default=4.0)
    parser.add_argument("--samples", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.output.mkdir(exist_ok=True)
    fresh = new_model(given.width)
    teacher = train(fresh, None, given.output / "teacher", given.data, given.steps, TRAINING)
    scores = ganc.score(teacher, "diversity", samples=1000, device="cpu")
    pruned = ganc.prune(teacher, scores, speedup=given.speedup)
    student = train(
        pruned, teacher, given.output / "distilled", given.data, given.distill_steps,
        TRAINING | DISTANCES,
    )  # fmt: skip
    models = {"teacher": teacher, "pruned": pruned, "distilled": student}
    picture(models, given.output / "compared.png")
    compare(models, given.data, given.samples)


if __name__ == "__main__":
    main()
