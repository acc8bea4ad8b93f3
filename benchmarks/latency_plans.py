"""Predicted against measured latency: ten random plans of a 256 px generator, in one run.

    OMP_NUM_THREADS=2 python benchmarks/latency_plans.py
    OMP_NUM_THREADS=2 python benchmarks/latency_plans.py --runtime onnx --family sngan

Each plan keeps a share of its channels that is drawn from 0.15 to 0.7, and every group one that is
up to 1.5x off it, as a global allocation does; half of the plans are multiples of 16. The times of
layers are measured anew unless the cache has them (GANC_CACHE). Prints a Markdown table, the load
of the machine above it.
"""

import argparse
import os
import random
import statistics
import tempfile
import time

import torch

from ganc.models import resnet_translator, sngan, stylegan2, unet_translator
from ganc.models.network import ImageGenerator
from ganc.progress import silent
from ganc.pruning.latency.latency import LatencyTable
from ganc.pruning.latency.layers import filled
from ganc.pruning.latency.measuring import Stand

FAMILIES = {
    "stylegan2": lambda: stylegan2.Generator(512, 0, 512, 256, 3),
    "sngan": lambda: sngan.Generator(128, 128, 3),
    "unet_translator": lambda: unet_translator.Generator(3, 3),
    "resnet_translator": lambda: resnet_translator.Generator(3, 3),
}
"""Generators at their published widths, SN-GAN at 128 px, all others at 256."""

PLANS = 10
SHARES = (0.15, 0.7)
SPREAD = 1.5
BLOCK = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", choices=FAMILIES, default="stylegan2")
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--plans", type=int, default=PLANS)
    parser.add_argument("--anew", action="store_true", help="Take nothing from the cache.")
    arguments = parser.parse_args()
    if arguments.anew:
        os.environ["GANC_CACHE"] = tempfile.mkdtemp()
    stand = Stand(arguments.runtime, arguments.dtype, arguments.batch, torch.device("cpu"))
    stand.check()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before")
    with torch.device("meta"):
        generator = FAMILIES[arguments.family]()
    start = time.perf_counter()
    table = LatencyTable(generator, stand, silent, print)
    print(f"layers: {time.perf_counter() - start:.0f} s; {stand.conditions()}\n")
    compare(table, generator, arguments.plans)
    print(f"\nload {os.getloadavg()[0]:.1f} behind")


def compare(table: LatencyTable, generator: ImageGenerator, plans: int) -> None:
    """Print what random plans are predicted and measured to take."""
    print("| plan | GMACs | predicted ms | measured ms | error |\n|---|---|---|---|---|")
    draw, errors = random.Random(0), []
    for number in range(plans):
        widths = random_widths(table.layers.full, draw, BLOCK if number % 2 else 1)
        network = filled(table.layers.built(widths))
        predicted, measured = table.predict(widths), table.stand.whole(network).median_ms
        errors.append(predicted / measured - 1)
        kind = f"multiples of {BLOCK}" if number % 2 else "any widths"
        macs = network.macs() / 1e9
        print(f"| {kind} | {macs:.2f} | {predicted:.1f} | {measured:.1f} | {errors[-1]:+.0%} |")
    sizes = [abs(error) for error in errors]
    print(f"\nerror: median {statistics.median(sizes):.0%}, largest {max(sizes):.0%}")


def random_widths(full: dict[str, int], draw: random.Random, multiple: int) -> dict[str, int]:
    """Draw the widths of a plan."""
    share = draw.uniform(*SHARES)
    widths = {}
    for name, width in full.items():
        kept = width * share * SPREAD ** draw.uniform(-1, 1)
        widths[name] = min(width, max(1, round(kept / multiple)) * multiple)
    return widths


if __name__ == "__main__":
    main()
