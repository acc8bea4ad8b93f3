"""How different a model's samples are: ``lpips-diversity``, ``perceptual-diversity``, ``vendi``.

Pair k is samples 2k and 2k + 1. From latents, the two are independent, and so are the pairs, so the
interval of their mean is the usual one. A translator's samples are as different as consecutive
inputs make them: its value compares with the teacher's on the same inputs, and with nothing else.
"""

from typing import Any

import torch
from torch import Tensor

from ganc.evaluation.paired import PERCEPTUAL
from ganc.evaluation.sampling import Batch, RunningMean
from ganc.evaluation.task import Measurement, Task
from ganc.perceptual.vendi import Similarities


class PairwiseDiversity(Measurement):
    """Mean distance over random pairs, with a 95 % interval."""

    def __init__(self, task: Task, name: str, network: str) -> None:
        self.num_images = 2 * task.samples(name, inputs_each=2, least_inputs=2)
        self.task, self.name, self.distance = task, name, task.distance(name, network)
        self.mean = RunningMean()
        self.waiting: Tensor | None = None  # [1, C, R, R]: a sample whose partner is yet to come

    def update(self, batch: Batch) -> None:
        images = batch.images.values
        if self.waiting is not None:
            images = torch.cat([self.waiting, images])
        paired = len(images) - len(images) % 2
        self.waiting = images[paired:] if paired < len(images) else None
        if paired:
            self.mean.update(self.distance(images[0:paired:2], images[1:paired:2]))

    def result(self) -> dict[str, float]:
        return {self.name: self.mean.mean, f"{self.name}-ci95": self.mean.ci95}

    def protocol(self) -> dict[str, Any]:
        return {
            "pairs": self.mean.count,
            "range": [-1, 1],
            "quantisation": "none",
            **self.task.protocol_of(self.distance),
        }


def lpips_diversity(task: Task) -> PairwiseDiversity:
    """Mean LPIPS over random pairs; higher is more diverse."""
    return PairwiseDiversity(task, "lpips-diversity", task.settings.perceptual)


def perceptual_diversity(task: Task) -> PairwiseDiversity:
    """The same on EfficientNet-Lite0. Not LPIPS."""
    return PairwiseDiversity(task, "perceptual-diversity", PERCEPTUAL)


class Vendi(Measurement):
    """How many different images the samples amount to, on the features that the settings name."""

    def __init__(self, task: Task) -> None:
        self.num_images = task.samples("vendi", least_inputs=2)
        self.network = task.features("vendi", task.settings.features)
        self.task, self.similarities = task, Similarities(self.network.dim, task.device)

    def update(self, batch: Batch) -> None:
        self.similarities.update(batch.images.features(self.network))

    def result(self) -> dict[str, float]:
        return {"vendi": self.similarities.score()}

    def protocol(self) -> dict[str, Any]:
        return {
            **self.task.protocol_of(self.network),
            "generated": self.similarities.count,
            "kernel": "cosine",
        }
