"""What a model costs on paper: ``macs`` and ``params``, the numbers in the checkpoint's header."""

from collections.abc import Callable

from ganc.evaluation.task import Measurement, Task


class Count(Measurement):
    """A number that the model's declaration gives."""

    def __init__(self, name: str, count: Callable[[], int]) -> None:
        self.name, self.count = name, count

    def result(self) -> dict[str, float]:
        return {self.name: self.count()}


def macs(task: Task) -> Count:
    """Multiply-accumulates per image (design section 5)."""
    return Count("macs", task.model.macs)


def params(task: Task) -> Count:
    """Parameters, buffers excluded."""
    return Count("params", task.model.params)
