"""The one pass over samples that all metrics share."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ganc.data.images import to_uint8
from ganc.errors import ComputationError
from ganc.models.network import ImageGenerator
from ganc.models.sampling import InputSource
from ganc.perceptual.features import FeatureNetwork


@dataclass(eq=False)
class Images:
    """Some images, and what several metrics derive from them, computed once.

    Attributes:
        values: [N, C, R, R], float32, clamped to [-1, 1].
    """

    values: Tensor
    _features: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def quantised(self) -> Tensor:
        """The images as a file would hold them: [N, C, R, R], uint8."""
        return to_uint8(self.values)

    def features(self, network: FeatureNetwork) -> Tensor:
        """Return a network's features of the quantised images, [N, D]."""
        if network.name not in self._features:
            self._features[network.name] = network(self.quantised)
        return self._features[network.name]


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive samples.

    Attributes:
        indices: Which samples of the source.
        images: The model's.
        teacher: The teacher's from the same inputs, or None where no metric looks at them.
    """

    indices: range
    images: Images
    teacher: Images | None


@dataclass(frozen=True, eq=False)
class Sampler:
    """A generator and where its inputs come from; ``name`` is what errors call it."""

    generator: ImageGenerator
    source: InputSource[Any]
    name: str

    def images(self, indices: range) -> Images:
        """Generate some samples.

        Raises:
            ComputationError: An image holds infinities or NaN.
        """
        images = self.source.images(self.generator, indices)
        bad = ~images.flatten(1).isfinite().all(dim=1)
        if bad.any():
            index = indices[int(bad.nonzero()[0])]
            raise ComputationError(
                f"{self.name}: {self.source.name(index)} gives an image that is not finite",
                "the checkpoint's weights are damaged, or training had diverged",
            )
        return Images(images.clamp(-1, 1))


def iterate_batches(
    model: Sampler,
    teacher: Sampler | None,
    *,
    limits: Collection[int],
    teacher_limit: int,
    batch: int,
) -> Iterator[Batch]:
    """Yield samples from 0 to the largest of ``limits``, in order.

    Args:
        limits: Counts at which some metric has seen enough; no batch reaches across one.
        teacher_limit: The teacher's images are made up to here.
        batch: Most images per batch.
    """
    unit = model.source.block(model.generator)
    for indices in batch_ranges(limits, batch, unit):
        wanted = teacher if indices.start < teacher_limit else None
        yield Batch(
            indices, model.images(indices), None if wanted is None else wanted.images(indices)
        )


def batch_ranges(limits: Collection[int], batch: int, unit: int) -> Iterator[range]:
    """Yield consecutive ranges from 0 to the largest limit, cut at each limit.

    A range holds ``batch`` samples, rounded to a multiple of ``unit`` but never to none; what is
    left over before a limit is a range of its own.
    """
    size = max(batch // unit, 1) * unit
    start = 0
    for limit in sorted(set(limits)):
        while start < limit:
            whole = (limit - start) // unit * unit
            stop = start + (min(size, whole) or limit - start)
            yield range(start, stop)
            start = stop


@dataclass
class RunningMean:
    """Mean and spread of a stream of numbers, in float64."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def update(self, values: Tensor) -> None:
        """Take in a vector of numbers."""
        exact = values.detach().to("cpu", torch.float64)
        self.count += exact.numel()
        self.total += float(exact.sum())
        self.squares += float(exact.square().sum())

    @property
    def mean(self) -> float:
        """The mean so far."""
        return self.total / self.count

    @property
    def ci95(self) -> float:
        """Half the width of the mean's 95 % interval: 1.96 standard errors."""
        variance = max(self.squares / self.count - self.mean**2, 0.0)
        return 1.96 * (variance / max(self.count - 1, 1)) ** 0.5
