"""How much of a set of images a model reaches: ``irs``, ``irs-inf``, ``irs-kept``.

The references are the real images where there are some, else samples of the teacher from latents
of their own: from its own latents a copy would retrieve its originals. ``irs-kept`` holds the
student's number against the teacher's: the same references, as many samples from the same inputs,
so that what images and features make of either cancels out.
"""

from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from ganc import seeds
from ganc.errors import UsageError
from ganc.evaluation.sampling import Sampler, batch_ranges
from ganc.evaluation.sets import FeatureSets, SetMeasurement
from ganc.evaluation.task import Task
from ganc.models.sampling import Latents, pick_generator
from ganc.perceptual.feature_rows import FeatureRows
from ganc.perceptual.retrieval import Estimate, count_retrievals, quotient, reachable
from ganc.values import bounds

STREAM = "references"


class Retrievals:
    """The references, and how many samples of the model and of the teacher retrieve each.

    Metrics share one (``of``); each part is made when it is first asked for.

    Args:
        count: References to draw where there are no real images.
    """

    def __init__(self, task: Task, sets: FeatureSets, count: int) -> None:
        self.task, self.sets, self.count = task, sets, count

    @classmethod
    def of(cls, task: Task, sets: FeatureSets, count: int) -> "Retrievals":
        """Return the task's for a feature network."""
        key = f"retrievals, {sets.network.name}"
        if key not in task.shared:
            task.shared[key] = cls(task, sets, count)
        retrievals: Retrievals = task.shared[key]
        return retrievals

    @cached_property
    def references(self) -> FeatureRows:
        """Features of every real image, or else of the teacher's samples."""
        return self.sets.reference if self.task.dataset is not None else self._drawn()

    def _drawn(self) -> FeatureRows:
        task, rows = self.task, FeatureRows.scratch(self.sets.network.dim)
        assert task.teacher is not None
        assert isinstance(task.source, Latents)
        source = replace(task.source, seed=seeds.torch_seed(task.source.seed, STREAM))
        generator = pick_generator(task.teacher, task.settings.network)
        sampler = Sampler(generator, source, "the teacher")
        for indices in batch_ranges(
            [self.count], task.settings.batch, sampler.source.block(generator)
        ):
            rows.append(sampler.images(indices).features(self.sets.network))
            task.progress("references", len(rows), self.count)
        return rows

    @cached_property
    def of_model(self) -> Tensor:
        """Per reference, how many of the model's samples retrieve it."""
        return self._counts(self.sets.generated)

    @cached_property
    def of_teacher(self) -> Tensor:
        """The same of the teacher's samples."""
        return self._counts(self.sets.teacher)

    def _counts(self, samples: FeatureRows) -> Tensor:
        return count_retrievals(
            self.references, samples, device=self.task.device, progress=self.task.progress
        )


class RetrievalMeasurement(SetMeasurement):
    """A metric that reads what was retrieved.

    Raises:
        UsageError: There are no real images, and the inputs have an end: no others can be drawn.
    """

    def __init__(self, task: Task, name: str) -> None:
        if task.dataset is None and task.source is not None and task.source.count is not None:
            raise UsageError(
                f"{name} of a translator needs real images, got none",
                "pass --data with real images; the teacher's translations of the same inputs would"
                " be no independent reference",
            )
        super().__init__(task, name, task.settings.features)
        self.retrievals = Retrievals.of(task, self.sets, self.num_images)

    def prepare(self) -> None:
        _ = self.retrievals.references  # found broken before the sampling, not after

    def protocol(self) -> dict[str, Any]:
        protocol = self.sets.protocol()
        if self.task.dataset is None:
            protocol["reference"] = "the teacher's samples of another stream"
        return {**protocol, "reference_images": len(self.retrievals.references)}


class Retrieval(RetrievalMeasurement):
    """``irs``: the share of the references that the samples retrieve; ``irs-inf``: unlimited ones.

    Of an estimate's numbers each is divided by the number of references.
    """

    def result(self) -> dict[str, float]:
        counts = self.retrievals.of_model
        found = reachable(counts)
        share = float((counts > 0).double().mean())
        unlimited = Estimate(*(number / len(counts) for number in found))
        return {self.name: share, **with_bounds(f"{self.name}-inf", unlimited)}


class Kept(RetrievalMeasurement):
    """``irs-kept``: ``irs-inf`` over the teacher's."""

    def __init__(self, task: Task, name: str) -> None:
        super().__init__(task, name)
        self.uses_teacher = self.sets.keeps_teacher = True

    def result(self) -> dict[str, float]:
        retrievals = self.retrievals
        kept = quotient(reachable(retrievals.of_model), reachable(retrievals.of_teacher))
        return with_bounds(self.name, kept)


def with_bounds(name: str, estimate: Estimate) -> dict[str, float]:
    """Return the value and the ends of its interval by name."""
    return dict(zip((name, *bounds(name)), map(float, estimate), strict=True))


def irs(task: Task) -> Retrieval:
    """Image retrieval score on the features that the settings name."""
    return Retrieval(task, "irs")


def irs_kept(task: Task) -> Kept:
    """How much of the teacher's the student reaches."""
    return Kept(task, "irs-kept")
