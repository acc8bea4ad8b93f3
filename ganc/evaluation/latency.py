"""How long a model takes on this machine: ``latency``, in milliseconds per forward pass."""

from typing import Any

import numpy as np
import torch

from ganc.devices import device_name
from ganc.evaluation.task import Measurement, Task
from ganc.models.sampling import stand_ins
from ganc.timing import ENOUGH_SEC, WARM_UP, time_runs

BATCHES = (1, 8)

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
            feed = source.feed(self.generator, range(batch))
            times = time_runs(feed, self.device, enough_sec=ENOUGH_SEC)
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
