"""How long a model takes on this machine, in milliseconds per forward pass.

``latency`` is PyTorch as it is, ``latency-compile`` the same through torch.compile,
``latency-onnx`` ONNX Runtime, ``latency-openvino`` OpenVINO, all in float32; ``speedup`` is the
teacher's latency over the model's.
"""

from dataclasses import asdict
from typing import Any

import torch

from ganc.evaluation.task import Measurement, Task
from ganc.models.network import ImageGenerator
from ganc.models.sampling import device_of, pick_generator
from ganc.runtimes.graph import graph_of
from ganc.runtimes.measure import RUNTIMES, measure, prepare, time_generator
from ganc.runtimes.runtime import Conditions
from ganc.runtimes.timing import WARM_UP, WORTH

BATCHES = (1, 8)
ROUNDINGS = (8, 16)
"""Widths that vector units and tensor cores like: what ``--round-to`` is tried with."""


def extras(name: str) -> tuple[str, ...]:
    """Return the values that come with a latency of this name."""
    return (f"{name}-p90", f"{name}-batch8", f"{name}-batch8-p90")


class Latency(Measurement):
    """Median and 90th percentile of wall time, stored noise, fp32, after warm-up.

    Translators are given noise images of their own resolution. Timed from inputs that lie on the
    device to finished images, at batch 1 and at batch 8.

    Args:
        runtime: A name in ``RUNTIMES``.
    Raises:
        InputError: A package of the runtime is missing.
    """

    def __init__(self, task: Task, runtime: str) -> None:
        RUNTIMES[runtime].check()
        self.generator, self.runtime = task.generator, runtime
        self.name = "latency" if runtime == "torch" else f"latency-{runtime}"
        self.conditions: Conditions | None = None
        self.runs: dict[int, int] = {}

    def result(self) -> dict[str, float]:
        values = {}
        graph = graph_of(self.generator)
        executable = prepare(graph, self.runtime, device=device_of(self.generator))
        self.conditions = executable.conditions
        for batch in BATCHES:
            timing = measure(executable, graph.draw(range(batch)))
            self.runs[batch] = timing.runs
            name = self.name if batch == 1 else f"{self.name}-batch{batch}"
            values[name] = timing.median_ms
            values[f"{name}-p90"] = timing.p90_ms
        return values

    def protocol(self) -> dict[str, Any]:
        assert self.conditions is not None  # a protocol is of what has a result
        return {
            "unit": "ms per forward pass",
            **asdict(self.conditions),
            "resolution": self.generator.img_resolution,
            "noise_mode": "const",
            "warm_up": WARM_UP,
            "runs": {f"batch{batch}": count for batch, count in self.runs.items()},
        }


class Eager(Latency):
    """Latency in PyTorch; beside a larger teacher it says so where pruning made nothing faster."""

    def __init__(self, task: Task) -> None:
        super().__init__(task, "torch")
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
        own = time_generator(self.task.generator)
        self.conditions = own.conditions
        return {"speedup": _teacher_milliseconds(self.task) / own.median_ms}

    def protocol(self) -> dict[str, Any]:
        assert self.conditions is not None
        return {"unit": "teacher's ms / ms, batch 1", **asdict(self.conditions)}


def _teacher_milliseconds(task: Task) -> float:
    """Time the teacher, once for all metrics that ask."""
    key = "teacher's latency"
    if key not in task.shared:
        assert task.teacher is not None
        teacher = pick_generator(task.teacher, task.settings.network)
        task.shared[key] = time_generator(teacher).median_ms
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
            found[multiple] = time_generator(wider).median_ms
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
