"""A line of JSON per step of a search: how the game goes, to be looked at or plotted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ganc import collectives, strict_json
from ganc.errors import InputError
from ganc.files import atomic_write


class StepLog:
    """Lines are appended; only the first process writes.

    Args:
        path: The file, or None for no log.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = None if collectives.rank() else path

    def add(self, network: str, step: int, numbers: Mapping[str, float]) -> None:
        """Write the losses of a step."""
        if self.path is None:
            return
        line = {"network": network, "step": step, **numbers}
        with self.path.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def cut_back(self, network: str, step: int) -> None:
        """Drop the lines of a network behind ``step``, which are about to come again.

        What is no line of a log goes as well: the file was another one, which is replaced.
        """
        if self.path is None or not self.path.exists():
            return
        kept = [
            line
            for line in self.path.read_text(errors="replace").splitlines(keepends=True)
            if line.endswith("\n") and _stays(line, network, step)
        ]
        with atomic_write(self.path, force=True) as temporary:
            temporary.write_text("".join(kept))


@dataclass
class _Line:
    """What is read of a line."""

    network: str
    step: int


def _stays(text: str, network: str, step: int) -> bool:
    try:
        line = strict_json.read(text, _Line, "the line", InputError)
    except InputError:
        return False
    return line.network != network or line.step <= step
