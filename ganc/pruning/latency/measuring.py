"""How long layers and whole generators take in a runtime, on this machine."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from ganc.models.network import ImageGenerator
from ganc.runtimes.graph import graph_of
from ganc.runtimes.measure import Timing, measure, prepare, prepare_each, runtime_called
from ganc.runtimes.program import Program
from ganc.runtimes.runtime import Conditions
from ganc.runtimes.timing import time_runs
from ganc.version import __version__

MAX_RUNS = 30
ENOUGH_SEC = 0.05

METHOD = 2
"""How layers are timed: times of another way are not mixed with these."""


@dataclass(frozen=True)
class Stand:
    """Where generators are timed.

    Attributes:
        runtime, dtype: See ``ganc.runtimes.measure.prepare``.
        batch: Images per pass.
        device: Where PyTorch runs them; all other runtimes run on the CPU.
    """

    runtime: str
    dtype: str
    batch: int
    device: torch.device

    def check(self) -> None:
        """Refuse what cannot be run, before any work; raises as ``prepare`` does."""
        runtime_called(self.runtime).check(self.dtype)

    def conditions(self) -> Conditions:
        """Say how a generator would be run now."""
        return runtime_called(self.runtime).conditions(self.dtype, self.device)

    def machine(self) -> dict[str, str | int]:
        """Return all that times depend on beside what is timed."""
        return {
            **asdict(self.conditions()), "dtype": self.dtype, "batch": self.batch,
            "device": self.device.type, "cores": os.cpu_count() or 0, "system": platform.system(),
            "torch": torch.__version__, "ganc": __version__, "method": METHOD,
        }  # fmt: skip

    def least(self, programs: Sequence[Program]) -> list[float]:
        """Return the least milliseconds of a few runs of each: what disturbs only ever adds.

        Features are neither copied nor given new memory, as between the layers of a network: in
        ONNX Runtime that may cost several times what a narrow layer does.
        """
        found = []
        for program, executable in zip(
            programs, prepare_each(programs, self.runtime, self.dtype, self.device), strict=True
        ):
            inputs = program.draw(range(self.batch))
            there = {name: tensor.to(executable.device) for name, tensor in inputs.items()}
            times = time_runs(
                executable.repeated(there),
                executable.device, max_runs=MAX_RUNS, enough_sec=ENOUGH_SEC,
            )  # fmt: skip
            found.append(min(times))
        return found

    def whole(self, generator: ImageGenerator) -> Timing:
        """Time a generator as ``ganc eval`` does."""
        graph = graph_of(generator)
        executable = prepare(graph, self.runtime, self.dtype, self.device)
        return measure(executable, graph.draw(range(self.batch)))
