"""What every importance method is; most are batches that add up, and scores made of the sum."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.models.network import ImageGenerator
from ganc.scoring.driver import Run, run
from ganc.scoring.request import ScoreRequest

State = dict[str, Tensor]
"""What batches add up to: tensors by name, usually one float64 vector per group."""


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


def batch_ranges(samples: int, batch: int) -> list[range]:
    """Split samples into batches; the last one takes the remainder, as published.

    Raises:
        UsageError: ``batch`` is not in 1 … ``samples``.
    """
    if not 1 <= batch <= samples:
        raise UsageError(f"--batch {batch} is outside 1 … --samples {samples}")
    starts = [i * batch for i in range(samples // batch)]
    return [range(a, b) for a, b in zip(starts, [*starts[1:], samples], strict=True)]
