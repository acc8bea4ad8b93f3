"""Student against teacher, image by image: ``l1``, ``psnr``, ``lpips``, ``perceptual``.

Both see the same latent, label and noise, or the same image. Images are clamped to [-1, 1] and not
quantised: what is measured is the networks' difference, not the rounding of a file.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Self

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
    """Mean of a distance between the samples 0 … n - 1 of the student and the teacher's.

    Attributes:
        suffix: Of the metrics' names.
    """

    uses_teacher = True
    suffix: ClassVar[str] = ""

    def __init__(
        self, task: Task, name: str, distance: PairDistance, protocol: dict[str, Any]
    ) -> None:
        self.task, self.name, self.distance, self.own_protocol = task, name, distance, protocol
        self.num_images = task.samples(name)
        self.mean = RunningMean()

    @classmethod
    def l1(cls, task: Task) -> Self:
        """Mean absolute difference, images in [-1, 1]: from 0 to 2, lower is better."""
        return cls(task, f"l1{cls.suffix}", mean_absolute, {})

    @classmethod
    def psnr(cls, task: Task) -> Self:
        """Peak signal-to-noise ratio in dB, mean over images, at most 100; higher is better."""
        return cls(task, f"psnr{cls.suffix}", decibels, {"peak": 2, "maximum": MAX_PSNR})

    @classmethod
    def lpips(cls, task: Task) -> Self:
        """LPIPS (Zhang et al. 2018) on the network that the settings name; lower is better."""
        return cls._on_network(task, f"lpips{cls.suffix}", task.settings.perceptual)

    @classmethod
    def perceptual(cls, task: Task) -> Self:
        """Perceptual distance on EfficientNet-Lite0; lower is better. Not LPIPS."""
        return cls._on_network(task, f"perceptual{cls.suffix}", PERCEPTUAL)

    @classmethod
    def _on_network(cls, task: Task, name: str, network: str) -> Self:
        distance = task.distance(name, network)
        return cls(task, name, distance, task.protocol_of(distance))

    def update(self, batch: Batch) -> None:
        self.mean.update(self.distance(batch.images.values, self.wanted(batch)))

    def wanted(self, batch: Batch) -> Tensor:
        """Return what the student's images are compared with, [N, C, R, R] in [-1, 1]."""
        assert batch.teacher is not None
        return batch.teacher.values

    def result(self) -> dict[str, float]:
        return {self.name: self.mean.mean}

    def protocol(self) -> dict[str, Any]:
        return {"pairs": self.mean.count, "range": [-1, 1], "quantisation": "none"} | (
            self.own_protocol
        )


def mean_absolute(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute difference per pair."""
    return (a - b).abs().flatten(1).mean(dim=1)


def decibels(a: Tensor, b: Tensor) -> Tensor:
    """Return 10·log10(peak² / MSE) per pair, peak 2, at most ``MAX_PSNR``."""
    mse = (a - b).square().flatten(1).mean(dim=1)
    return 10 * (4 / mse.clamp(min=4 * 10 ** (-MAX_PSNR / 10))).log10()
