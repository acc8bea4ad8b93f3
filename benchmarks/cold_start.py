"""How fast the command line answers, against importing its two libraries alone.

Runs `python -c "import typer, rich"`, `ganc --help`, `ganc score --help`, and `ganc info` on a
checkpoint of about one gigabyte (random weights, in a temporary folder), alternating, and prints
medians and ratios.

    python benchmarks/cold_start.py
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ganc
from ganc.models.model import Model
from ganc.models.stylegan2 import Generator

RUNS = 15


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.safetensors"
        # 1024 px at 2.9 times the usual widths: 256 M parameters.
        model = Model(Generator(512, 0, 512, 1024, 3, channel_base=95_000, channel_max=1500))
        ganc.save(model, path)
        print(f"checkpoint: {path.stat().st_size / 1e9:.2f} GB")
        script = str(Path(sys.executable).with_name("ganc"))
        commands = {
            "import typer, rich": (sys.executable, "-c", "import typer, rich"),
            "ganc --help": (script, "--help"),
            "ganc score --help": (script, "score", "--help"),
            "ganc info, 1 GB": (script, "info", str(path)),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, command in commands.items():
                times[name].append(seconds(*command))
    base = statistics.median(times["import typer, rich"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:20s} {median * 1e3:7.0f} ms  {median / base:.2f}x")


if __name__ == "__main__":
    main()
