"""Real training under NCCL in one process: a straight run beside one that is stopped and resumed.

A student of the embedded teacher learns from its real faces, started by ``torchrun`` as a user
starts it. The second run gets SIGTERM half way, saves, ends, and is resumed; both should have the
same losses. Times are those of ``metrics.jsonl``, without the first steps, in which kernels are
chosen.

    python benchmarks/nccl_training.py                              # a minute on a GPU
    python benchmarks/nccl_training.py --device cpu --steps 8       # gloo
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import figures
import torch

from ganc import cli
from ganc.checkpoints.store import load, save
from ganc.pruning.plan import prune
from ganc.scoring.score import score
from ganc.showcase.pipeline import REAL, TEACHER

ROOT = Path(__file__).parent.parent
LAUNCH = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
    "--nproc-per-node", "1", __file__, "--worker",
)  # fmt: skip
SPEEDUP = 10.0
SKIPPED = 10
"""Steps at the start that say nothing about speed: of a run, and of one that goes on."""
LIMIT_SEC = 300.0


def work(words: list[str]) -> int:
    """Run ``ganc`` in this process, which torchrun started, and write down the memory it took."""
    peak, *command = words
    code = cli.run(command)
    if torch.cuda.is_available():
        Path(peak).write_text(str(torch.cuda.max_memory_allocated()))
    return code


class Setting(NamedTuple):
    """What all runs share: the files, and the words of the command line."""

    folder: Path
    steps: int
    common: list[str]

    def run(self, name: str, *words: str) -> "subprocess.Popen[bytes]":
        """Start a run, in a folder of its name."""
        peak, log = self.folder / f"{name}.peak", self.folder / f"{name}.txt"
        interfaces = {f"{kind}_SOCKET_IFNAME": "lo" for kind in ("GLOO", "NCCL")}
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**interfaces, **os.environ, "PYTHONPATH": paths}
        command = [*LAUNCH, str(peak), "distill", *words, "-o", str(self.folder / name),
                   "--steps", str(self.steps), *self.common]  # fmt: skip
        with log.open("wb") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, env=environment)

    def finish(self, name: str, process: "subprocess.Popen[bytes]") -> None:
        """Wait for a run.

        Raises:
            RuntimeError: It failed; its own words are in the message.
        """
        code = process.wait(LIMIT_SEC)
        if code:
            said = (self.folder / f"{name}.txt").read_text()
            raise RuntimeError(f"the run {name} ended with {code}:\n{said[-4000:]}")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Read the losses of a run; nothing before there are any."""
        path = self.folder / name / "metrics.jsonl"
        return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []

    def peak_mib(self, name: str) -> float | None:
        """Return the most GPU memory that a run took; None on the CPU."""
        path = self.folder / f"{name}.peak"
        return int(path.read_text()) / 2**20 if path.exists() else None


def prepare(folder: Path, given: argparse.Namespace) -> tuple[Setting, tuple[str, ...]]:
    """Write teacher and student; return the setting, and the words that start a run."""
    with resources.as_file(resources.files("ganc.showcase")) as carried:
        teacher, data = load(carried / TEACHER), (carried / REAL).read_bytes()
    student = prune(teacher, score(teacher, "l1-out", device="cpu"), speedup=SPEEDUP)
    save(teacher, folder / "teacher.safetensors", force=True)
    save(student, folder / "student.safetensors", force=True)
    (folder / "faces.zip").write_bytes(data)
    common = ["--device", given.device, "--precision", given.precision, "--log-every", "2",
              "--quiet", "--json"]  # fmt: skip
    start = (
        str(folder / "student.safetensors"), "--teacher", str(folder / "teacher.safetensors"),
        "--data", str(folder / "faces.zip"), "--batch", str(given.batch),
        "--perceptual", "effnet-lite0", "--perceptual-resolution", "64", "--offline",
    )  # fmt: skip
    return Setting(folder, given.steps, common), start


def stop_half_way(setting: Setting, process: "subprocess.Popen[bytes]") -> int:
    """Send SIGTERM once half of the steps are written down; return how many steps were saved.

    That is all of them where the run was too quick.
    """
    deadline = time.monotonic() + LIMIT_SEC
    while len(setting.lines("parts")) < setting.steps // 2 and process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            raise RuntimeError("the run does not get half way")
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    process.wait(LIMIT_SEC)  # torchrun's exit code says that it was told to end, nothing more
    return max(int(path.name) for path in (setting.folder / "parts" / "checkpoints").iterdir())


def differences(whole: list[dict[str, Any]], parts: list[dict[str, Any]]) -> list[float]:
    """Return each step's largest relative difference of a loss."""
    found = []
    for one, other in zip(whole, parts, strict=True):
        names = one.keys() - {"seconds", "step", "images"}
        found.append(
            max(abs(one[n] - other[n]) / max(abs(one[n]), abs(other[n]), 1e-6) for n in names)
        )
    return found


def steps_per_sec(lines: list[dict[str, Any]]) -> float:
    """Return the speed behind the first steps."""
    counted = lines[min(SKIPPED, len(lines) // 2) :]
    return len(counted) / sum(line["seconds"] for line in counted)


def checkpoint_mib(run: Path, step: int) -> float:
    files = (run / "checkpoints" / str(step)).iterdir()
    return sum(path.stat().st_size for path in files) / 2**20


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Make all runs; return the figures."""
    setting, start = prepare(folder, given)
    began = time.monotonic()

    def report(what: str) -> None:
        print(f"{what} after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    setting.finish("whole", setting.run("whole", *start))
    report(f"{given.steps} steps")
    stopped_at = stop_half_way(setting, setting.run("parts", *start))
    report(f"stopped at step {stopped_at}")
    setting.finish("parts", setting.run("parts", "--resume", "latest"))
    report("resumed and ended")
    whole, parts = setting.lines("whole"), setting.lines("parts")
    off = differences(whole, parts)
    first, last = whole[0], whole[-1]
    losses = sorted(first.keys() & last.keys() - {"seconds", "step", "images"})
    if len(parts) != given.steps:
        raise RuntimeError(f"the resumed run has {len(parts)} of {given.steps} steps")
    return {
        "device": torch.cuda.get_device_name() if given.device != "cpu" else "cpu",
        "backend": "gloo" if given.device == "cpu" else "nccl",
        "precision": given.precision,
        "batch": given.batch,
        "steps": given.steps,
        "steps_per_sec": steps_per_sec(whole),
        "first_losses": {name: first[name] for name in losses},
        "last_losses": {name: last[name] for name in losses},
        "peak_gpu_mib": setting.peak_mib("whole"),
        "checkpoint_mib": checkpoint_mib(folder / "whole", given.steps),
        "stopped_at": stopped_at,
        "difference_before": max(off[:stopped_at]),
        "difference_of_first_step_resumed": off[stopped_at] if stopped_at < len(off) else None,
        "difference_after": max(off[stopped_at:], default=None),
        "is_bit_exact": not any(off),
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures as tables."""
    print("| figure | value |\n|---|---|")
    for name, value in found.items():
        if not name.endswith("_losses"):
            print(f"| {name} | {f'{value:.4g}' if isinstance(value, float) else value} |")
    print("\n| loss | first | last |\n|---|---|---|")
    for name, value in found["first_losses"].items():
        print(f"| {name} | {value:.4g} | {found['last_losses'][name]:.4g} |")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "tf32", "bf16"])
    figures.add_option(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), given)
    show(found)
    figures.record(given.figures, "nccl_training", **found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        sys.exit(work(sys.argv[2:]))
    main()
