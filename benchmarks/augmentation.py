"""What augmentation does to faces, and what it does for a discriminator with few of them.

    python benchmarks/augmentation.py picture --out docs/augment.png
    python benchmarks/augmentation.py train --images 300 --steps 6000 -o runs

``picture`` draws a row of the carried faces for each probability. ``train`` trains a narrow
StyleGAN2 from scratch on the first of them, with and without ``--augment ada``, and follows the
Fréchet distance to all 1 000, most of which it never saw; needs the extra ``offline``.
"""

import argparse
import json
import time
from importlib import resources
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

import ganc
from ganc.data.dataset import open_dataset
from ganc.data.grid import save_grid
from ganc.data.images import to_float
from ganc.distillation.draws import Draws
from ganc.distillation.evaluations import EvalRequest
from ganc.distillation.recipes import resolve_recipe
from ganc.distillation.trainers.augment import Augmentation
from ganc.models.stylegan2 import Generator
from ganc.models.stylegan2_discriminator import Discriminator

REAL = "faces32-real.zip"
PROBABILITIES = (0.0, 0.3, 0.8)
ADA = {"augment": "ada", "ada_nimg": 20_000}
NUMBERS = {"batch": 16, "pl_weight": 0.0, "mirror": True, "r1_gamma": 1.0}


def picture(real: Path, out: Path, columns: int) -> None:
    """Draw the same faces, augmented with each probability."""
    dataset = open_dataset(real, resolution=32, channels=3)
    faces = to_float(torch.stack([dataset.image(i) for i in range(columns)]))
    rows = []
    for p in PROBABILITIES:
        recipe = resolve_recipe("gan", {"augment": "ada", "augment_p": p, "batch": columns})
        augmentation = Augmentation(recipe, Draws(0, columns, torch.device("cpu")))
        rows.append(augmentation(faces, "d.real", 0))
    save_grid(torch.cat(rows), out, columns=columns, zoom=2, force=True)


def first_images(real: Path, count: int, out: Path) -> Path:
    """Write a zip of the first images of a zip."""
    with ZipFile(real) as source, ZipFile(out, "w") as target:
        names = sorted(n for n in source.namelist() if n.endswith(".png"))[:count]
        for name in names:
            target.writestr(name, source.read(name))
    return out


def new_model(width: int) -> ganc.Model:
    """Return a StyleGAN2 of 32 px, every layer ``width`` wide, seeded random weights."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "channel_base": 32 * width, "channel_max": width, "mapping_kwargs": {"num_layers": 2},
    }  # fmt: skip
    return ganc.Model(Generator(64, 0, 64, 32, 3, **shape), Discriminator(0, 32, 3, **shape))


def train(real: Path, args: argparse.Namespace, numbers: dict[str, Any]) -> Path:
    """Train from scratch on few images; return the run's folder."""
    args.out.mkdir(exist_ok=True)
    few = first_images(real, args.images, args.out / f"{args.images}.zip")
    run = args.out / str(numbers.get("augment", "none"))

    def evaluate(request: EvalRequest) -> dict[str, float]:
        found = ganc.evaluate(request.student, ["fd"], data=real, samples=1000, device="cpu")
        return dict(found["metrics"])

    ganc.distill(
        new_model(args.width), None, run, data=few, steps=args.steps, recipe="gan",
        overrides=NUMBERS | numbers, evaluate=evaluate, eval_every=args.every,
        save_every=args.every, sample_every=args.every, device="cpu", seed=args.seed,
    )  # fmt: skip
    return run


def report(run: Path) -> None:
    """Print a run's distances beside what the discriminator thought of its real images."""
    series = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in (run / "evaluations.jsonl").read_text().splitlines():
        point = json.loads(line)
        near = series[max(0, point["step"] - 100) : point["step"]]
        means = {
            name: f"{sum(step[name] for step in near) / len(near):.2f}"
            for name in ("d_loss", "augment_p", "real_sign")
            if near and name in near[0]
        }
        print(f"{run.name:5} step {point['step']:6} fd {point['fd']:.2f} {means}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("picture")
    drawing.add_argument("--out", type=Path, default=Path("augment.png"))
    drawing.add_argument("--columns", type=int, default=7)
    training = commands.add_parser("train")
    training.add_argument("-o", "--out", type=Path, required=True)
    training.add_argument("--images", type=int, default=300)
    training.add_argument("--steps", type=int, default=6000)
    training.add_argument("--every", type=int, default=1000)
    training.add_argument("--width", type=int, default=32)
    training.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with resources.as_file(resources.files("ganc.showcase")) as carried:
        if args.command == "picture":
            picture(carried / REAL, args.out, args.columns)
            return
        choices: tuple[dict[str, Any], ...] = ({}, ADA)
        for numbers in choices:
            began = time.perf_counter()
            run = train(carried / REAL, args, numbers)
            report(run)
            print(f"{time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
