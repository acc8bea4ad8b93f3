"""How long a model takes on this machine: ``latency``, in milliseconds per forward pass."""

import time
from typing import Any

import numpy as np
import torch

from ganc.devices import device_name
from ganc.evaluation.task import Measurement, Task
from ganc.models.sampling import Feed, stand_ins

BATCHES = (1, 8)
WARM_UP = 3
MIN_RUNS, MAX_RUNS = 5, 100
ENOUGH_SEC = 2.0  # a median of 100 runs, or of what fits into this, but never of fewer than 5

EXTRAS = ("latency-p90", "latency-batch8", "latency-batch8-p90")


class Latency(Measurement):
    """Median and 90th percentile of wall time, stored noise, fp32, after warm-up.

    Translators are given noise images of their own resolution. Timed from inputs that lie on the
    device to finished images, at batch 1 and at batch 8.
    """

    def __init__(self, task: Task) -> None:
        self.generator, self.device, self.seed = task.generator, task.device, task.settings.seed
        self.runs: dict[int, int] = {}

    def result(self) -> dict[str, float]:
        values = {}
        source = stand_ins(self.generator, self.seed)
        for batch in BATCHES:
            times = time_runs(source.feed(self.generator, range(batch)), self.device)
            self.runs[batch] = len(times)
            name = "latency" if batch == 1 else f"latency-batch{batch}"
            values[name] = float(np.median(times))
            values[f"{name}-p90"] = float(np.percentile(times, 90))
        return values

    def protocol(self) -> dict[str, Any]:
        return {
            "unit": "ms per forward pass",
            "dtype": "float32",
            "resolution": self.generator.img_resolution,
            "noise_mode": "const",
            "threads": torch.get_num_threads(),
            "machine": device_name(self.device),
            "warm_up": WARM_UP,
            "runs": {f"batch{batch}": count for batch, count in self.runs.items()},
        }


def time_runs(run: Feed, device: torch.device) -> list[float]:
    """Time forward passes after a warm-up.

    Returns:
        Milliseconds per run: ``MAX_RUNS`` of them, or as many as fit into ``ENOUGH_SEC``, but at
        least ``MIN_RUNS``.
    """
    for _ in range(WARM_UP):
        _timed_run(run, device)
    times: list[float] = []
    while len(times) < MIN_RUNS or (len(times) < MAX_RUNS and sum(times) < 1000 * ENOUGH_SEC):
        times.append(_timed_run(run, device))
    return times


def _timed_run(run: Feed, device: torch.device) -> float:
    _synchronise(device)
    start = time.perf_counter()
    run()
    _synchronise(device)
    return 1000 * (time.perf_counter() - start)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
