"""Two sets of features side by side, for metrics that need every vector: ``kid``, ``precision`` ….

A set's features are computed once, whatever the number of metrics that read them, and lie on disk.
"""

from functools import cached_property
from typing import Any

from ganc.data.dataset import iterate_images
from ganc.evaluation.sampling import Batch
from ganc.evaluation.task import FEW_SAMPLES, Measurement, Task
from ganc.perceptual.feature_rows import FeatureRows, rows_for
from ganc.perceptual.kernel import SUBSET_SIZE, SUBSETS, kernel_distance
from ganc.perceptual.manifold import NEIGHBOURS, compare_manifolds


class FeatureSets:
    """Features of the samples and of what they are compared with: real images, else the teacher's.

    Metrics share one (``of``); each may prepare and feed it, the first to come does the work.

    Attributes:
        keeps_teacher: Whether the teacher's features are kept; a metric may ask for it.
    """

    def __init__(self, task: Task, metric: str, network: str) -> None:
        self.task, self.network = task, task.features(metric, network)
        self.uses_teacher = self.keeps_teacher = task.dataset is None
        self.generated = FeatureRows.scratch(self.network.dim)
        self._values: dict[str, float] = {}
        self.wanted: set[str] = set()

    @classmethod
    def of(cls, task: Task, metric: str, network: str) -> "FeatureSets":
        """Return the task's sets for a feature network; raises as ``Task.features`` does."""
        if network not in task.shared:
            task.shared[network] = cls(task, metric, network)
        sets: FeatureSets = task.shared[network]
        return sets

    @cached_property
    def reference(self) -> FeatureRows:
        """What the samples are compared with; real images are described when first asked for."""
        return self.teacher if self.uses_teacher else self._real()

    @cached_property
    def teacher(self) -> FeatureRows:
        """The teacher's samples from the same inputs."""
        return FeatureRows.scratch(self.network.dim)

    def _real(self) -> FeatureRows:
        dataset = self.task.dataset
        assert dataset is not None

        def compute() -> FeatureRows:
            rows = FeatureRows.scratch(self.network.dim)
            for images in iterate_images(dataset, None, self.task.settings.batch):
                rows.append(self.network(images))
                self.task.progress("real images", len(rows), len(dataset))
            return rows

        return rows_for(
            dataset.content_hash, self.network, compute, count=len(dataset), warn=self.task.warn
        )

    def update(self, batch: Batch) -> None:
        """Take in the next samples, unless another metric has brought them."""
        if batch.indices.start < len(self.generated):
            return
        self.generated.append(batch.images.features(self.network))
        if self.keeps_teacher:
            assert batch.teacher is not None
            self.teacher.append(batch.teacher.features(self.network))

    def manifold(self, name: str) -> float:
        """Return one of ``manifold.NAMES``; all that are wanted are computed at once."""
        if not self._values:
            self._values = compare_manifolds(
                self.reference, self.generated, self.wanted,
                neighbours=self.task.settings.neighbours, device=self.task.device,
                progress=self.task.progress,
            )  # fmt: skip
        return self._values[name]

    def protocol(self) -> dict[str, Any]:
        """Return what every number from these sets depends on."""
        return {
            **self.task.protocol_of(self.network),
            "generated": len(self.generated),
            "reference": "teacher" if self.uses_teacher else "data",
            "reference_images": len(self.reference),
        }


class SetMeasurement(Measurement):
    """A metric that reads two whole sets of features."""

    def __init__(self, task: Task, name: str, network: str) -> None:
        self.task, self.name = task, name
        self.num_images = task.samples(name, least_inputs=2)
        task.check_real_images(name)
        self.sets = FeatureSets.of(task, name, network)
        self.uses_teacher = self.sets.uses_teacher

    def prepare(self) -> None:
        _ = self.sets.reference  # found broken before the sampling, not after

    def update(self, batch: Batch) -> None:
        self.sets.update(batch)

    def protocol(self) -> dict[str, Any]:
        return self.sets.protocol()


class KernelDistance(SetMeasurement):
    """``kid`` and ``kd``."""

    def result(self) -> dict[str, float]:
        sets = self.sets
        distance = kernel_distance(sets.reference, sets.generated, self.task.settings.seed)
        return {self.name: distance}

    def protocol(self) -> dict[str, Any]:
        subsets = {"subsets": SUBSETS, "subset_size": SUBSET_SIZE}
        return {**super().protocol(), **subsets, "seed": self.task.settings.seed}


class Manifold(SetMeasurement):
    """One of ``manifold.NAMES``."""

    def __init__(self, task: Task, name: str) -> None:
        super().__init__(task, name, task.settings.features)
        self.sets.wanted.add(name)

    def prepare(self) -> None:
        super().prepare()
        is_first = self.name == min(self.sets.wanted)  # one warning speaks for all of them
        if self.num_images < FEW_SAMPLES and is_first:
            self.task.warn(
                f"precision, recall, density and coverage of {self.num_images} samples depend on"
                " their number; compare equal numbers of both sets only"
            )

    def result(self) -> dict[str, float]:
        return {self.name: self.sets.manifold(self.name)}

    def protocol(self) -> dict[str, Any]:
        neighbours = self.task.settings.neighbours or NEIGHBOURS[self.name]
        return {**super().protocol(), "neighbours": neighbours}


def kid(task: Task) -> KernelDistance:
    """Kernel Inception distance as clean-fid defines it."""
    return KernelDistance(task, "kid", "inception")


def kd(task: Task) -> KernelDistance:
    """Kernel distance on the features that the settings name. Not KID."""
    return KernelDistance(task, "kd", task.settings.features)
