"""Distance between sets of images: ``fid`` and ``fd``.

Squared Fréchet distance of two Gaussians fitted to features (Heusel et al. 2017); lower is better.
``fid`` is clean-fid's definition: its Inception, its resizer, uint8 images, every real image.
``fd`` is the same on a feature network of choice and is never called FID.

The reference is the real images where there are some, else the teacher's samples from the same
inputs: that is 0 for an exact copy, and not comparable with the former.
"""

from typing import Any

from ganc.data.dataset import ImageDataset, iterate_images
from ganc.evaluation.sampling import Batch
from ganc.evaluation.task import FEW_SAMPLES, Measurement, Task
from ganc.perceptual.features import FeatureNetwork
from ganc.perceptual.frechet import FeatureStats, frechet_distance
from ganc.perceptual.stats_cache import stats_for


class FrechetDistance(Measurement):
    """Streamed statistics of the samples against those of a reference."""

    def __init__(self, task: Task, name: str, network: str) -> None:
        self.task, self.name = task, name
        self.num_images = task.samples(name, least_inputs=2)
        task.check_real_images(name)
        self.network = task.features(name, network)
        self.uses_teacher = task.dataset is None
        self.generated = FeatureStats.empty(self.network.dim, task.device)
        self.reference = FeatureStats.empty(self.network.dim, task.device)

    def prepare(self) -> None:
        if self.num_images < FEW_SAMPLES:
            self.task.warn(
                f"{self.name} of {self.num_images} samples is biased upwards, more so with fewer"
                f" samples; compare equal numbers only, and take {FEW_SAMPLES} or more"
            )
        if self.task.dataset is not None:
            self.reference = real_stats(self.task, self.task.dataset, self.network)

    def update(self, batch: Batch) -> None:
        self.generated.update(batch.images.features(self.network))
        if self.uses_teacher:
            assert batch.teacher is not None
            self.reference.update(batch.teacher.features(self.network))

    def result(self) -> dict[str, float]:
        return {self.name: frechet_distance(self.generated, self.reference)}

    def protocol(self) -> dict[str, Any]:
        return {
            **self.task.protocol_of(self.network),
            "generated": self.generated.count,
            "reference": "teacher" if self.uses_teacher else "data",
            "reference_images": self.reference.count,
        }


def fid(task: Task) -> FrechetDistance:
    """Fréchet Inception distance as clean-fid defines it."""
    return FrechetDistance(task, "fid", "inception")


def fd(task: Task) -> FrechetDistance:
    """Fréchet distance on the features that the settings name."""
    return FrechetDistance(task, "fd", task.settings.features)


def real_stats(task: Task, dataset: ImageDataset, network: FeatureNetwork) -> FeatureStats:
    """Return the statistics of every real image, from the cache where it has them.

    Raises:
        DataError: An image is broken or of another size.
    """

    def compute() -> FeatureStats:
        stats = FeatureStats.empty(network.dim, task.device)
        if network.name in task.shared:  # another metric keeps the features themselves
            for _, features in task.shared[network.name].reference.blocks():
                stats.update(features)
            return stats
        for images in iterate_images(dataset, None, task.settings.batch):
            stats.update(network(images))
            task.progress("real images", stats.count, len(dataset))
        return stats

    return stats_for(dataset.content_hash, network, compute, count=len(dataset), warn=task.warn)
