"""What a model costs on paper: ``macs``, ``params``, the numbers in the checkpoint's header."""

from collections.abc import Callable

from ganc.errors import UsageError
from ganc.evaluation.task import Measurement, Task


class Count(Measurement):
    """A number that the model's declaration gives."""

    def __init__(self, name: str, count: Callable[[], int]) -> None:
        self.name, self.count = name, count

    def result(self) -> dict[str, float]:
        return {self.name: self.count()}


def macs(task: Task) -> Count:
    """Multiply-accumulates per image (design section 5)."""
    return Count("macs", task.network.macs)


def macs_published(task: Task) -> Count:
    """The same as the family's papers count them.

    Raises:
        UsageError: They count as ``macs`` does.
    """
    count = task.network.macs_published()
    if count is None:
        raise UsageError(
            f"macs_published: papers on {task.network.architecture} count as macs does",
            "pass --metrics macs",
        )
    return Count("macs_published", lambda: count)


def params(task: Task) -> Count:
    """Parameters, buffers excluded."""
    return Count("params", task.network.params)
