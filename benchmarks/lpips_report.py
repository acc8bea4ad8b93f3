"""What ``ganc eval --metrics lpips-diversity`` takes beside what it cannot do without.

That is making the images and the network's own forward pass over them; the rest (pairing, unit
lengths, differences, means) is what this measures. Both sides run in turn in one process.

    python benchmarks/lpips_report.py                         # 1 000 pairs, embedded 32 px teacher
    python benchmarks/lpips_report.py small256.safetensors --pairs 100
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import figures
import torch

import ganc
from ganc.evaluation.options import EvalOptions
from ganc.models.sampling import Latents, generate
from ganc.perceptual.distance import load_perceptual

LEAST = ("images", "network")


@torch.no_grad()
def images_alone(model: ganc.Model, count: int, batch: int) -> None:
    """Make the images that the report compares."""
    source = Latents(0)
    for start in range(0, count, batch):
        chosen = range(start, min(start + batch, count))
        generate(model.generator, source.inputs(model.generator, chosen))


@torch.no_grad()
def network_alone(name: str, side: int, count: int, batch: int) -> None:
    """Run the network on as many images of that size."""
    stages = load_perceptual(name, offline=True)._stages
    images = torch.rand(batch, 3, side, side) * 2 - 1
    for start in range(0, count, batch):
        stages(images[: min(batch, count - start)])


def report(model: ganc.Model, name: str, pairs: int, batch: int) -> None:
    ganc.evaluate(
        model, ["lpips-diversity"], samples=pairs, perceptual=name, batch=batch, device="cpu",
        offline=True,
    )  # fmt: skip


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--perceptual", default=EvalOptions.perceptual)
    parser.add_argument("--batch", type=int, default=EvalOptions.batch)
    parser.add_argument("--repeats", type=int, default=3)
    figures.add_option(parser)
    given = parser.parse_args()
    if given.checkpoint is None:
        with resources.as_file(resources.files("ganc.showcase")) as carried:
            model = ganc.load(carried / "faces32.safetensors")
    else:
        model = ganc.load(given.checkpoint)
    side, count = model.generator.img_resolution, 2 * given.pairs
    sides: dict[str, Callable[[], None]] = {
        "images": lambda: images_alone(model, count, given.batch),
        "network": lambda: network_alone(given.perceptual, side, count, given.batch),
        "report": lambda: report(model, given.perceptual, given.pairs, given.batch),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(given.repeats):
        for name, work in sides.items():
            found[name].append(seconds(work))
    medians = {name: statistics.median(times) for name, times in found.items()}
    ratio = medians["report"] / sum(medians[name] for name in LEAST)
    figures.record(given.figures, "lpips_report", side=side, pairs=given.pairs, **medians)
    shown = "  ".join(f"{name} {value:.2f} s" for name, value in medians.items())
    print(f"{side} px, {given.pairs} pairs, {given.perceptual}: {shown}  ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
