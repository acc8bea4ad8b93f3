"""Diversity scores: ours against the published way of computing them, same samples, same scores.

The published way, written plainly: for every direction both images are made anew, and one backward
pass goes through both, for the gradient of every parameter. Ours makes the base image once per
batch and asks for the gradients that are read. Both run in one process, taking turns.

    python benchmarks/diversity_speed.py                       # the embedded 32 px face teacher
    python benchmarks/diversity_speed.py --resolution 256 --batches 1 --directions 3
    python benchmarks/diversity_speed.py --auto                # samples until two halves agree
"""

import argparse
import platform
import resource
import time
from collections.abc import Callable
from importlib import resources
from typing import Any

import torch
from torch import Tensor

import ganc
from ganc.models.model import Model
from ganc.models.stylegan2 import Generator
from ganc.scoring.driver import overlap
from ganc.scoring.read import mean_abs

ALPHA = 5.0


def published(
    model: Model, latents: Tensor, directions: Tensor, batch: int, noise_mode: str
) -> dict[str, Tensor]:
    """Score as the published loop does."""
    generator = model.generator
    groups = generator.groups()
    scores = {group.name: torch.zeros(group.width, dtype=torch.float64) for group in groups}
    for number, w in enumerate(latents.split(batch)):
        rows = []
        for direction in directions[number]:
            generator.zero_grad(set_to_none=True)
            images = [
                generator.synthesis(
                    point[:, None].expand(-1, generator.num_ws, -1), noise_mode=noise_mode
                )
                for point in (w, w + ALPHA * direction)
            ]
            (images[1] - images[0]).abs().sum().backward()
            gradients = {
                name: parameter.grad
                for name, parameter in generator.named_parameters()
                if parameter.grad is not None
            }
            rows.append({group.name: mean_abs(gradients, group) for group in groups})
        for group in groups:
            sensitivity = torch.stack([row[group.name] for row in rows])
            scores[group.name] += (sensitivity - sensitivity.mean(dim=0)).square().sum(dim=0)
    generator.zero_grad(set_to_none=True)
    return {name: values.cpu() for name, values in scores.items()}


def teacher(resolution: int | None) -> Model:
    """Return the embedded teacher, or config-f of a size with random weights."""
    if resolution is None:
        with resources.as_file(resources.files("ganc.showcase")) as carried:
            return ganc.load(carried / "faces32.safetensors")
    torch.manual_seed(0)
    return Model(generator=Generator(512, 0, 512, resolution, 3).eval())


def timed(function: Callable[..., Any], *arguments: Any, **settings: Any) -> tuple[Any, float]:
    """Return what a function returns, and the seconds it took."""
    start = time.perf_counter()
    result = function(*arguments, **settings)
    return result, time.perf_counter() - start


def compare_speed(arguments: argparse.Namespace) -> None:
    """Time both ways on the same samples and compare their scores."""
    model = teacher(arguments.resolution)
    generator = model.generator
    samples = arguments.batches * arguments.batch
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        z = torch.randn(samples, generator.z_dim, generator=random)
        latents = generator.mapping(z)[:, 0]
    directions = torch.randn(
        arguments.batches, arguments.directions, generator.w_dim, generator=random
    )
    directions /= directions.norm(dim=2, keepdim=True)
    seconds: dict[str, list[float]] = {"published": [], "ganc": []}
    for _ in range(arguments.rounds):
        theirs, spent = timed(published, model, latents, directions, arguments.batch, "const")
        seconds["published"].append(spent)
        ours, spent = timed(
            ganc.score, model, "diversity", samples=samples, batch=arguments.batch,
            latents=latents, directions=directions, noise_mode="const", device="cpu",
        )  # fmt: skip
        seconds["ganc"].append(spent)
    worst = max(
        float(((ours[name] - values).abs() / values.clamp(min=1e-300)).max())
        for name, values in theirs.items()
    )
    best = {name: min(values) for name, values in seconds.items()}
    ratio = best["published"] / best["ganc"]
    print(f"published {best['published']:.2f} s, ganc {best['ganc']:.2f} s:"
          f" {ratio:.2f}x faster (best of {arguments.rounds})")  # fmt: skip
    print(f"same kept channels at 0.7: {overlap(dict(ours.values), theirs, 0.7):.4f},"
          f" largest relative difference of a score {worst:.1e}")  # fmt: skip


def compare_auto(arguments: argparse.Namespace) -> None:
    """Compare ``--samples auto`` with the full number of samples."""
    model = teacher(arguments.resolution)
    settings = {"seed": arguments.seed, "device": "cpu", "prune_ratio": arguments.prune_ratio}
    auto, quick = timed(ganc.score, model, "diversity", samples="auto", **settings)
    full, slow = timed(ganc.score, model, "diversity", **settings)
    same = overlap(dict(auto.values), dict(full.values), arguments.prune_ratio)
    print(f"auto took {auto.settings['samples']} samples and {quick:.0f} s, all"
          f" {full.settings['samples']} took {slow:.0f} s: {slow / quick:.2f}x;"
          f" kept channels in common {same:.4f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, help="config-f of this size, random weights")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--directions", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--auto", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prune-ratio", type=float, default=0.7)
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__},"
          f" {torch.get_num_threads()} threads")  # fmt: skip
    (compare_auto if arguments.auto else compare_speed)(arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process {peak:.2f} GiB")


if __name__ == "__main__":
    main()
