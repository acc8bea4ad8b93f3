"""The table of runtimes, and how long something takes in one of them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ganc.errors import unknown_name
from ganc.models.network import ImageGenerator
from ganc.models.sampling import device_of
from ganc.runtimes.graph import graph_of
from ganc.runtimes.onnx import OnnxRuntime
from ganc.runtimes.openvino import OpenVino
from ganc.runtimes.program import NamedInputs, Program, fixed
from ganc.runtimes.pytorch import Compiled, PyTorch
from ganc.runtimes.runtime import Conditions, Executable, Runtime
from ganc.runtimes.timing import ENOUGH_SEC, MAX_RUNS, time_runs

RUNTIMES: dict[str, Runtime] = {
    "torch": PyTorch(),
    "compile": Compiled(),
    "onnx": OnnxRuntime(),
    "openvino": OpenVino(),
}


@dataclass(frozen=True)
class Timing:
    """Wall time per run, in milliseconds, after warm-up, and how it was run.

    Attributes:
        median_ms, p90_ms: Median and 90th percentile.
        runs: How many were timed.
        conditions: Runtime, precision, threads, processor.
    """

    median_ms: float
    p90_ms: float
    runs: int
    conditions: Conditions

    def __str__(self) -> str:
        how = self.conditions
        threads = f"{how.threads} thread{'s' if how.threads > 1 else ''}"
        return (
            f"{self.median_ms:.4g} ms ({how.runtime}; {how.precision}; {threads}; {how.processor})"
        )


def time_generator(
    generator: ImageGenerator, batch: int = 1, *, runtime: str = "torch", dtype: str = "fp32"
) -> Timing:
    """Time a generator's forward pass, from inputs on the device to finished images.

    Args:
        generator: Stays as it is. PyTorch runs it on its own device, all others on the CPU.
        batch: Images per pass.
        runtime: A name in ``RUNTIMES``.
        dtype: One of the runtime's ``precisions``.
    Raises:
        UsageError, InputError: See ``Runtime.check``.
        ComputationError: The runtime cannot express the generator.
    """
    graph = graph_of(generator)
    executable = prepare(graph, runtime, dtype, device_of(generator))
    return measure(executable, graph.draw(range(batch)))


def time_module(
    module: nn.Module, inputs: NamedInputs, *, runtime: str = "torch", dtype: str = "fp32"
) -> Timing:
    """Time any module at the sizes of its inputs; raises as ``time_generator`` does.

    Args:
        module: Takes the inputs by keyword and returns one tensor. Without gradient, and on the
            CPU where the runtime is not PyTorch.
        inputs: On the module's device.
    """
    return measure(prepare(fixed(module, inputs), runtime, dtype), inputs)


def prepare(
    program: Program, runtime: str, dtype: str = "fp32", device: torch.device | None = None
) -> Executable:
    """Bring a program into a runtime, after ``Runtime.check``; raises as ``time_generator`` does.

    Args:
        runtime: A name in ``RUNTIMES``.
        dtype, device: See ``Runtime.prepare``.
    """
    return prepare_each([program], runtime, dtype, device)[0]


def prepare_each(
    programs: Sequence[Program],
    runtime: str,
    dtype: str = "fp32",
    device: torch.device | None = None,
) -> list[Executable]:
    """Bring programs into a runtime, in less time than one by one; see ``prepare``."""
    chosen = runtime_called(runtime)
    chosen.check(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters and quantisers speak of their own internals
        return chosen.prepare_each(programs, dtype, device)


def runtime_called(name: str) -> Runtime:
    """Return a runtime by its name in ``RUNTIMES``.

    Raises:
        UsageError: It is not known.
    """
    if name not in RUNTIMES:
        raise unknown_name("runtime", name, RUNTIMES)
    return RUNTIMES[name]


@torch.no_grad()
def measure(
    executable: Executable,
    inputs: NamedInputs,
    *,
    max_runs: int = MAX_RUNS,
    enough_sec: float | None = None,
) -> Timing:
    """Time what ``prepare`` returned.

    Args:
        inputs: They are brought to its device before the clock starts.
        max_runs, enough_sec: See ``timing.time_runs``.
    """
    there = {name: tensor.to(executable.device) for name, tensor in inputs.items()}
    times = time_runs(
        lambda: executable.run(there),
        executable.device,
        max_runs=max_runs,
        enough_sec=ENOUGH_SEC if enough_sec is None else enough_sec,
    )
    median, p90 = float(np.median(times)), float(np.percentile(times, 90))
    return Timing(median, p90, len(times), executable.conditions)
