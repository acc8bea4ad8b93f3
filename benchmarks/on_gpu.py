"""Everything that needs a CUDA GPU, in one go: tests, then every table, each within a time limit.

The most telling job comes first, so that a run that is cut short is of use. Each job's output lies
in a file of its own from its first line on; a summary is printed at the end.

    python benchmarks/on_gpu.py -o tables                # about half an hour
    python benchmarks/on_gpu.py -o tables --jobs tests bias_act
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Job(NamedTuple):
    """A command, and how long it may take."""

    arguments: tuple[str, ...]
    minutes: float


JOBS = {
    "tests": Job(("-m", "pytest", "-q", "-m", "gpu", str(HERE.parent / "tests")), 6),
    "bias_act": Job((str(HERE / "bias_act.py"),), 5),
    "distill_step": Job(
        (str(HERE / "distill_step.py"), "--resolution", "256", "--device", "cuda"), 8
    ),
    "diversity_speed": Job((str(HERE / "diversity_speed.py"), "--device", "cuda", "--all"), 8),
    "density_memory": Job((str(HERE / "density_memory.py"), "--device", "cuda"), 3),
}


def run(job: Job, log: Path) -> str:
    """Run a job, its output going to ``log``; return how it ended."""
    began = time.perf_counter()
    with log.open("w") as file:
        try:
            done = subprocess.run(
                [sys.executable, *job.arguments], stdout=file, stderr=subprocess.STDOUT,
                timeout=60 * job.minutes, check=False,
            )  # fmt: skip
            ending = f"exit {done.returncode}"
        except subprocess.TimeoutExpired:
            ending = f"stopped after {job.minutes:g} min"
    return f"{ending}, {time.perf_counter() - began:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for name in given.jobs:
        log = given.output / f"{name}.txt"
        print(f"{name}: {run(JOBS[name], log)} → {log}", flush=True)
        print("".join(log.read_text().splitlines(keepends=True)[-12:]), flush=True)


if __name__ == "__main__":
    main()
