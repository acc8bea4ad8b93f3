"""What every importance method is; most are batches that add up, and scores made of the sum."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from ganc import collectives
from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.models.network import ImageGenerator
from ganc.scores import kept_channels
from ganc.scoring.request import ScoreRequest

State = dict[str, Tensor]
"""What batches add up to: tensors by name, usually one float64 vector per group."""

ENOUGH_OVERLAP = 0.99
"""Share of the kept channels on which the two halves of the samples must agree to stop early."""
LOOKS = 2
"""Looks in a row at which they must: one alone may agree by chance."""
GROWTH = 1.15
"""Of the sample count from one look at the halves to the next, at least."""
LOOK_UNIT = 8
"""Looks fall on multiples of so many batches: the same for one, two, four or eight processes."""


class Run(NamedTuple):
    """What a method measured of one side.

    Attributes:
        values: Group name → scores [width].
        samples: What they took.
        thresholds: Group name → the least score that stays at the method's own budget.
        facts: What else is worth keeping beside the settings; JSON data.
    """

    values: dict[str, Tensor]
    samples: int
    thresholds: Mapping[str, float] = MappingProxyType({})
    facts: Mapping[str, Any] = MappingProxyType({})


class SideScorer(ABC):
    """One method at work on one generator.

    Attributes:
        network: The generator's name in its model.
        generator: The network itself.
        groups: Its groups, named as in scores files; tensors as in the generator.

    Args:
        model: One side of a model (``ganc.scoring.sides``): a generator, with its discriminator
            where the method looks at that as well. A copy that is the method's own, in eval mode,
            on the request's device.
        request: What is asked for, defaults filled in.
    Raises:
        UsageError: The method cannot score such a model, or a setting is out of range.
        ShapeError: A tensor of the request does not fit.
    """

    def __init__(self, model: Model, request: ScoreRequest) -> None:
        self.network = next(name for name, _ in model.networks())
        self.generator: ImageGenerator = getattr(model, self.network)
        self.request = request
        prefix = "" if self.network == "generator" else f"{self.network}."
        self.groups = tuple(group.prefixed(prefix, "") for group in self.generator.groups())

    @classmethod
    def defaults(cls, architecture: str) -> dict[str, Any]:
        """Return the settings that are None until the family is known."""
        return {}

    @classmethod  # noqa: B027
    def check(cls, request: ScoreRequest) -> None:
        """Refuse settings that it could not work with, before a model is looked at.

        Raises:
            UsageError, InputError: See the method's.
        """

    @classmethod
    def widths(cls, side: Model, request: ScoreRequest) -> dict[str, int]:
        """Return the groups of a side that it is going to score, and their channels."""
        return {group.name: group.width for group in side.groups if group.prunable}

    @classmethod
    def beside(cls, request: ScoreRequest, stem: str, output: str) -> ScoreRequest:
        """Name the files that it keeps beside its scores.

        Args:
            stem: The checkpoint's name without its ending.
            output: Where the scores go; "-" is a stream.
        Raises:
            UsageError: A setting needs a file beside the scores, which go to a stream.
        """
        return request

    @classmethod  # noqa: B027
    def check_files(cls, request: ScoreRequest, *, force: bool) -> None:
        """Refuse to replace such files, unless ``force`` allows it.

        Raises:
            OutputError: One is there.
        """

    @classmethod  # noqa: B027
    def clear(cls, request: ScoreRequest, *, is_done: bool) -> None:
        """Remove those that are no longer needed: once scores are saved, or before a new start."""

    @abstractmethod
    def measure(self) -> Run:
        """Score the groups; every process of several gets the same."""


class Scorer(SideScorer):
    """A method whose batches add up.

    It splits its samples into batches, which may be shared out over processes, and of which halves
    can be compared. A method that looks at the weights alone has no batches.
    """

    def measure(self) -> Run:
        return run(self, self.request)  # fewer samples than asked for, where there are no more

    def batches(self) -> Sequence[range]:
        """Return the samples of each batch; none for a method that looks at the weights alone."""
        return ()

    def empty(self) -> State:
        """Return the sum of no batches: zeros of the right names and shapes."""
        return {}

    def step(self, number: int, indices: range) -> State:
        """Return what one batch contributes; called only where ``batches`` names some."""
        raise NotImplementedError(f"{type(self).__name__} has batches, but no step")

    def add(self, total: State, number: int, indices: range) -> None:
        """Add one batch to the sums, in place.

        A method whose sums are large adds by itself, so that no second set of them is alive.
        """
        for name, tensor in self.step(number, indices).items():
            total[name] += tensor

    @abstractmethod
    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        """Return one vector per group, [width], of the sum over ``samples`` samples.

        The sums stay as they are.
        """


class WeightScorer(Scorer):
    """A method that reads weights: of the generator, and of the discriminator where it is there.

    ``groups`` are all of the model's that can be pruned, named as in scores files; ``tensors`` are
    the model's, named as in its file, as the groups name them.
    """

    def __init__(self, model: Model, request: ScoreRequest) -> None:
        super().__init__(model, request)
        self.groups = tuple(group for group in model.groups if group.prunable)
        self.tensors = model.tensors()


def run(scorer: Scorer, request: ScoreRequest) -> Run:
    """Add up the batches and finish.

    Process r of n takes batches r, r + n, …, so the numbers do not depend on how many processes
    there are by more than the order of additions. With ``request.until_stable`` even and odd
    batches are added up apart, and it stops as soon as both halves keep the same channels at
    ``request.prune_ratio``.
    """
    ranges = scorer.batches()
    sums = [scorer.empty() for _ in range(2 if request.until_stable else 1)]
    processes = collectives.world_size()
    phase = "scoring" if scorer.network == "generator" else f"scoring {scorer.network}"
    next_look = agreed = 0
    for first in range(0, len(ranges), processes):
        own = first + collectives.rank()
        if own < len(ranges):
            scorer.add(sums[own % len(sums)], own, ranges[own])
        done = min(first + processes, len(ranges))
        samples = ranges[done - 1].stop
        request.progress(phase, samples, request.samples)
        is_look = done // LOOK_UNIT > first // LOOK_UNIT and samples >= next_look
        if request.until_stable and is_look:
            is_same = _agree(scorer, sums, ranges[:done], request.prune_ratio)
            agreed = agreed + 1 if is_same else 0
            if agreed == LOOKS:
                return Run(_finish(scorer, sums, samples), samples)
            next_look = int(samples * GROWTH)
    return Run(_finish(scorer, sums, request.samples), request.samples)


def _finish(scorer: Scorer, sums: Sequence[State], samples: int) -> dict[str, Tensor]:
    total, *others = sums
    for other in others:
        for name, tensor in other.items():
            total[name] += tensor
    return scorer.finish(collectives.all_sum_(total), samples)


def _agree(
    scorer: Scorer, halves: Sequence[State], ranges: Sequence[range], prune_ratio: float
) -> bool:
    counts = [sum(map(len, ranges[parity::2])) for parity in (0, 1)]
    sums = map(collectives.all_sum, halves)
    even, odd = (scorer.finish(s, count) for s, count in zip(sums, counts, strict=True))
    if not any(values.any() for values in even.values()):
        return False  # where nothing was measured yet, there is nothing to agree on
    return overlap(even, odd, prune_ratio) >= ENOUGH_OVERLAP


def overlap(one: Mapping[str, Tensor], other: Mapping[str, Tensor], prune_ratio: float) -> float:
    """Return the share of the kept channels, over all groups, that two scores both keep."""
    shared = kept = 0
    for name, values in one.items():
        mine, theirs = (set(kept_channels(v, prune_ratio)) for v in (values, other[name]))
        shared += len(mine & theirs)
        kept += len(mine)
    return shared / kept


def batch_ranges(samples: int, batch: int) -> list[range]:
    """Split samples into batches; the last one takes the remainder, as published.

    Raises:
        UsageError: ``batch`` is not in 1 … ``samples``.
    """
    if not 1 <= batch <= samples:
        raise UsageError(f"--batch {batch} is outside 1 … --samples {samples}")
    starts = [i * batch for i in range(samples // batch)]
    return [range(a, b) for a, b in zip(starts, [*starts[1:], samples], strict=True)]
