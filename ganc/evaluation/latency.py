"""How long a model takes on this machine, in milliseconds per forward pass.

``latency`` is PyTorch as it is, ``latency-compile`` the same through torch.compile,
``latency-onnx`` the exported file in ONNX Runtime; ``speedup`` is the teacher's latency over the
model's.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from ganc.devices import device_name
from ganc.errors import InputError, UsageError
from ganc.evaluation.task import Measurement, Prepare, Task
from ganc.models.network import ImageGenerator
from ganc.models.sampling import Feed, device_of, pick_generator, stand_ins
from ganc.timing import ENOUGH_SEC, WARM_UP, time_runs

BATCHES = (1, 8)
ROUNDINGS = (8, 16)
"""Widths that vector units and tensor cores like: what ``--round-to`` is tried with."""

_SEED = 0  # of the inputs, whose values change no time

WORTH = 1.05
"""Below this factor a difference between two medians on a quiet machine says nothing."""


def extras(name: str) -> tuple[str, ...]:
    """Return the values that come with a latency of this name."""
    return (f"{name}-p90", f"{name}-batch8", f"{name}-batch8-p90")


class Latency(Measurement):
    """Median and 90th percentile of wall time, stored noise, fp32, after warm-up.

    Translators are given noise images of their own resolution. Timed from inputs that lie on the
    device to finished images, at batch 1 and at batch 8.

    Args:
        name: Of the value.
        runtime: What runs the model, for the protocol.
        prepare: Brings the generator into that runtime.
        device: Where it runs.
    """

    def __init__(
        self, task: Task, name: str, runtime: str, prepare: Prepare, device: torch.device
    ) -> None:
        self.generator = task.generator
        self.name, self.runtime, self.prepare_feeds = name, runtime, prepare
        self.device = device
        self.runs: dict[int, int] = {}

    def result(self) -> dict[str, float]:
        values = {}
        feed = self.prepare_feeds(self.generator)
        for batch in BATCHES:
            times = time_runs(feed(range(batch)), self.device, enough_sec=ENOUGH_SEC)
            self.runs[batch] = len(times)
            name = self.name if batch == 1 else f"{self.name}-batch{batch}"
            values[name] = float(np.median(times))
            values[f"{name}-p90"] = float(np.percentile(times, 90))
        return values

    def protocol(self) -> dict[str, Any]:
        return {
            "unit": "ms per forward pass",
            "runtime": self.runtime,
            "dtype": "float32",
            "resolution": self.generator.img_resolution,
            "noise_mode": "const",
            "threads": torch.get_num_threads(),
            "machine": device_name(self.device),
            "warm_up": WARM_UP,
            "runs": {f"batch{batch}": count for batch, count in self.runs.items()},
        }


class Eager(Latency):
    """Latency in PyTorch; beside a larger teacher it says so where pruning made nothing faster."""

    def __init__(self, task: Task) -> None:
        super().__init__(task, "latency", "PyTorch", prepare_eager, task.device)
        self.task = task

    def result(self) -> dict[str, float]:
        values = super().result()
        if self.task.teacher is not None:
            _judge(self.task, values[self.name])
        return values


class Speedup(Measurement):
    """The teacher's latency over the model's, batch 1, in PyTorch: above 1 is faster."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def result(self) -> dict[str, float]:
        own = milliseconds(self.task, self.task.generator)
        return {"speedup": _teacher_milliseconds(self.task) / own}

    def protocol(self) -> dict[str, Any]:
        return {
            "unit": "teacher's ms / ms, batch 1",
            "runtime": "PyTorch",
            "threads": torch.get_num_threads(),
            "machine": device_name(self.task.device),
        }


def compiled(task: Task) -> Latency:
    """Latency through torch.compile; compiling comes before the clock starts."""
    return Latency(task, "latency-compile", "torch.compile", prepare_compiled, task.device)


def onnx(task: Task) -> Latency:
    """Latency of the exported file in ONNX Runtime, on the CPU.

    Raises:
        UsageError: The caller gave no way to export.
    """
    if task.to_onnx is None:
        raise UsageError(
            "latency-onnx needs a way to export, got none",
            "pass to_onnx=ganc.exporters.runtime.prepare_onnx",
        )
    runtime = "ONNX Runtime, CPUExecutionProvider"
    return Latency(task, "latency-onnx", runtime, task.to_onnx, torch.device("cpu"))


def prepare_eager(generator: ImageGenerator) -> Callable[[range], Feed]:
    """Run a generator as it is, on stand-ins for its inputs."""
    return partial(stand_ins(generator, _SEED).feed, generator)


def prepare_compiled(generator: ImageGenerator) -> Callable[[range], Feed]:
    """Compile a generator, for each batch size anew.

    Raises:
        InputError: There is no compiler, or it does not manage (when a feed is first run).
    """
    module: Any = torch.compile(generator, dynamic=False)
    feed = partial(stand_ins(generator, _SEED).feed, module)

    def checked(indices: range) -> Feed:
        run = feed(indices)
        _compile(run)
        return run

    return checked


def _compile(run: Feed) -> None:
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    try:
        run()
    except TorchDynamoException as error:
        finding = str(error).strip().splitlines()[0]
        raise InputError(
            f"latency-compile: torch.compile does not work on this machine: {finding}",
            "install a C++ compiler (CPU) or Triton (CUDA), or leave latency-compile out",
        ) from error


def milliseconds(task: Task, generator: ImageGenerator) -> float:
    """Return the median time of one image in PyTorch."""
    feed = prepare_eager(generator)(range(1))
    return statistics.median(time_runs(feed, task.device, enough_sec=ENOUGH_SEC))


def _teacher_milliseconds(task: Task) -> float:
    """Time the teacher, once for all metrics that ask."""
    key = "teacher's latency"
    if key not in task.shared:
        assert task.teacher is not None
        teacher = pick_generator(task.teacher, task.settings.network)
        task.shared[key] = milliseconds(task, teacher)
    found: float = task.shared[key]
    return found


def _judge(task: Task, own: float) -> None:
    """Say so where a model with fewer MACs than its teacher is no faster, and what would help."""
    assert task.teacher is not None
    teacher = pick_generator(task.teacher, task.settings.network)
    saving = teacher.macs() / task.generator.macs()
    if saving < WORTH:
        return
    theirs = _teacher_milliseconds(task)
    if theirs >= WORTH * own:
        return
    task.warn(
        f"no speed-up on this device: {own:.3g} ms, the teacher {theirs:.3g} ms, at {saving:.3g}x"
        f" fewer MACs; {_advice(task, min(own, theirs))}"
    )


def _advice(task: Task, now: float) -> str:
    """Measure wider models, with random weights, and say which is faster than ``now``."""
    assert task.teacher is not None
    most = pick_generator(task.teacher, task.settings.network).config["widths"]
    found = {}
    for multiple in ROUNDINGS:
        wider = with_rounded_widths(task.generator, multiple, most)
        if wider is not None:
            found[multiple] = milliseconds(task, wider)
    listed = ", ".join(f"--round-to {n} takes {ms:.3g} ms" for n, ms in found.items())
    faster = [n for n, ms in found.items() if WORTH * ms <= now]
    if faster:
        best = min(faster, key=lambda n: found[n])
        return f"ganc prune --round-to {best} would help ({listed})"
    reason = (
        f"--round-to does not help here ({listed})" if found else "its widths are round already"
    )
    return f"{reason}: the time goes elsewhere than into channels"


@torch.no_grad()
def with_rounded_widths(
    generator: ImageGenerator, multiple: int, most: dict[str, int]
) -> ImageGenerator | None:
    """Return a generator with widths rounded up, random weights; None where that changes none.

    Args:
        multiple: Of which every width becomes one.
        most: Group → the width that it keeps below, as ``--round-to`` does.
    """
    own = generator.config["widths"]
    widths = {
        name: max(n, min(-(-n // multiple) * multiple, most.get(name, n)))
        for name, n in own.items()
    }
    if widths == own:
        return None
    wider = type(generator)(**{**generator.config, "widths": widths})
    return wider.eval().to(device_of(generator))
