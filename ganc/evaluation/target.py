"""Translations against the ground truth: ``l1-target``, ``psnr-target``, ``lpips-target``, …

For sets where it is known what each input should become (edges → the photograph they were drawn
from). Images are clamped to [-1, 1] and not quantised, as in ``paired``.
"""

from typing import Any

from ganc.evaluation.paired import (
    MAX_PSNR,
    PERCEPTUAL,
    PairDistance,
    PairedMean,
    decibels,
    mean_absolute,
)
from ganc.evaluation.sampling import Batch
from ganc.evaluation.task import Task
from ganc.models.network import Translator


class TargetMean(PairedMean):
    """Mean of a distance between translations and their ground truth."""

    uses_teacher = False

    def __init__(
        self, task: Task, name: str, distance: PairDistance, protocol: dict[str, Any]
    ) -> None:
        super().__init__(task, name, distance, protocol)
        assert task.targets is not None  # the table of metrics says that they are needed
        assert isinstance(task.generator, Translator)  # targets belong to the images of --input
        self.generator, self.targets, self.device = task.generator, task.targets, task.device

    def update(self, batch: Batch) -> None:
        targets = self.targets.pixels(self.generator, batch.indices).to(self.device)
        self.mean.update(self.distance(batch.images.values, targets))

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"target": self.targets.content_hash}


def l1_target(task: Task) -> TargetMean:
    """Mean absolute difference, images in [-1, 1]: from 0 to 2, lower is better."""
    return TargetMean(task, "l1-target", mean_absolute, {})


def psnr_target(task: Task) -> TargetMean:
    """Peak signal-to-noise ratio in decibels, mean over images, at most 100; higher is better."""
    return TargetMean(task, "psnr-target", decibels, {"peak": 2, "maximum": MAX_PSNR})


def lpips_target(task: Task) -> TargetMean:
    """LPIPS on the network that the settings name; lower is better."""
    return _network_mean(task, "lpips-target", task.settings.perceptual)


def perceptual_target(task: Task) -> TargetMean:
    """Perceptual distance on EfficientNet-Lite0; lower is better. Not LPIPS."""
    return _network_mean(task, "perceptual-target", PERCEPTUAL)


def _network_mean(task: Task, name: str, network: str) -> TargetMean:
    distance = task.distance(name, network)
    return TargetMean(task, name, distance, task.protocol_of(distance))
