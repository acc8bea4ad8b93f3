"""Student against teacher, image by image: ``l1``, ``psnr``, ``lpips``, ``perceptual``.

Both see the same latent, label and noise, or the same image. Images are clamped to [-1, 1] and not
quantised: what is measured is the networks' difference, not the rounding of a file.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ganc.evaluation.sampling import Batch, RunningMean
from ganc.evaluation.task import Measurement, Task

MAX_PSNR = 100.0
"""Decibels of images that are (nearly) equal, where the ratio itself goes to infinity."""

PERCEPTUAL = "effnet-lite0"
"""Network of the metrics that need no download."""

PairDistance = Callable[[Tensor, Tensor], Tensor]
"""[N, C, R, R] twice, in [-1, 1] → one number per pair, [N]."""


class PairedMean(Measurement):
    """Mean of a distance over the samples 0 … n - 1 of student and teacher."""

    uses_teacher = True

    def __init__(
        self, task: Task, name: str, distance: PairDistance, protocol: dict[str, Any]
    ) -> None:
        self.name, self.distance, self.own_protocol = name, distance, protocol
        self.num_images = task.samples(name)
        self.mean = RunningMean()

    def update(self, batch: Batch) -> None:
        assert batch.teacher is not None
        self.mean.update(self.distance(batch.images.values, batch.teacher.values))

    def result(self) -> dict[str, float]:
        return {self.name: self.mean.mean}

    def protocol(self) -> dict[str, Any]:
        return {"pairs": self.mean.count, "range": [-1, 1], "quantisation": "none"} | (
            self.own_protocol
        )


def l1(task: Task) -> PairedMean:
    """Mean absolute difference, images in [-1, 1]: from 0 to 2, lower is better."""
    return PairedMean(task, "l1", mean_absolute, {})


def mean_absolute(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute difference per pair."""
    return (a - b).abs().flatten(1).mean(dim=1)


def psnr(task: Task) -> PairedMean:
    """Peak signal-to-noise ratio in decibels, mean over images, at most 100; higher is better."""
    return PairedMean(task, "psnr", decibels, {"peak": 2, "maximum": MAX_PSNR})


def decibels(a: Tensor, b: Tensor) -> Tensor:
    """Return 10·log10(peak² / MSE) per pair, peak 2, at most ``MAX_PSNR``."""
    mse = (a - b).square().flatten(1).mean(dim=1)
    return 10 * (4 / mse.clamp(min=4 * 10 ** (-MAX_PSNR / 10))).log10()


def lpips(task: Task) -> PairedMean:
    """LPIPS (Zhang et al. 2018) between student and teacher; lower is better."""
    return _network_mean(task, "lpips", task.settings.perceptual)


def perceptual(task: Task) -> PairedMean:
    """Perceptual distance on EfficientNet-Lite0; lower is better. Not LPIPS."""
    return _network_mean(task, "perceptual", PERCEPTUAL)


def _network_mean(task: Task, name: str, network: str) -> PairedMean:
    distance = task.distance(name, network)
    return PairedMean(task, name, distance, task.protocol_of(distance))
