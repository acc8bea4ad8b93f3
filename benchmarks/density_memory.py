"""Peak memory of the search of ``density`` against a training step of the same networks.

Each side runs in a process of its own on the same checkpoint (a ResNet-9 with its discriminator of
pairs, random weights) and the same pairs; the peak is that of the whole process, as the system
counts it (on CUDA the device's). The search takes its two agents and gates on both networks, four
images a step, one at a time; the training is ``ganc distill --recipe i2i`` at batch 1 without a
teacher.

    python benchmarks/density_memory.py
    python benchmarks/density_memory.py --resolution 64 --device cuda
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import ganc
from ganc.models import patchgan, resnet_translator
from ganc.models.model import Model

PAIRS = 6
SIDES = ("load", "search", "training")


def make(folder: Path, resolution: int) -> None:
    """Write the checkpoint and the pairs."""
    torch.manual_seed(0)
    generator = resnet_translator.Generator(3, 3, img_resolution=resolution)
    discriminator = patchgan.Discriminator(6, img_resolution=resolution)
    ganc.save(Model(generator, discriminator), folder / "model.safetensors")
    (folder / "pairs").mkdir()
    random = np.random.default_rng(0)
    for i in range(PAIRS):
        pixels = random.integers(256, size=(resolution, 2 * resolution, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pairs" / f"{i}.png")


def run(side: str, folder: Path, steps: int, device: str) -> None:
    """Do one side's work, and print its peak in MiB and its seconds."""
    model = ganc.load(folder / "model.safetensors")
    began = time.perf_counter()
    if side == "search":
        settings = {"steps": steps, "encoder": "discriminator", "neighbours": 2}
        ganc.score(
            model, "density", data=folder / "pairs", density=settings, batch=1, device=device
        )
    elif side == "training":
        ganc.distill(
            model, None, folder / "run", data=folder / "pairs", steps=steps, device=device,
            recipe="i2i", overrides={"batch": 1},
        )  # fmt: skip
    spent = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.device(device).type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({"peak": peak, "seconds": spent}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        run(given.side, given.folder, given.steps, given.device)
        return
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), given.resolution)
        print("| side | peak MiB | seconds |\n|---|---|---|")
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--folder", name,
                       "--steps", str(given.steps), "--device", given.device]  # fmt: skip
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"| {side} | {found['peak']:.0f} | {found['seconds']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
