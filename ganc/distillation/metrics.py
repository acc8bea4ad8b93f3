"""The loss series of a run: ``metrics.jsonl`` and TensorBoard."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganc import collectives, strict_json
from ganc.data.images import to_uint8
from ganc.distillation.events import EventFile
from ganc.distillation.run_folder import METRICS
from ganc.errors import ComputationError, InputError
from ganc.files import atomic_write

Line = dict[str, int | float]
"""One of a series: ``step``, and numbers by name."""


class MetricsLog:
    """Collects losses on the device and writes them in groups: one transfer per group.

    Several processes average their losses; only the first one writes.

    Args:
        folder: The run.
        start: Steps done before; later lines of an earlier attempt are cut off.
        last: Last known value of every loss, from an earlier attempt.
    """

    def __init__(self, folder: Path, start: int, last: Mapping[str, float]) -> None:
        self.last = dict(last)
        self._path = folder / METRICS
        self._events: EventFile | None = None
        self._pending: list[tuple[int, int, float, dict[str, Tensor]]] = []
        if collectives.rank() == 0:
            cut_back(self._path, start)
            self._events = EventFile(folder, start)

    def add(self, step: int, images: int, seconds: float, losses: dict[str, Tensor]) -> None:
        """Note the losses of a step, without waiting for the device.

        Args:
            step: Steps done, this one included.
            images: Images seen so far.
            seconds: What this step took on the host.
        """
        self._pending.append((step, images, seconds, losses))

    def flush(self) -> None:
        """Fetch and write what was added.

        Raises:
            ComputationError: A loss or a gradient's norm is not finite; lines before that step are
                written.
        """
        pending, self._pending = self._pending, []
        values = [loss.detach().float() for *_, losses in pending for loss in losses.values()]
        numbers = iter(_fetch(values))
        lines = []
        try:
            for step, images, seconds, losses in pending:
                found = {name: next(numbers) for name in losses}
                _check_finite(step, found)
                self.last |= found
                rounded = round(seconds, 4)
                lines.append({"step": step, "images": images, **found, "seconds": rounded})
        finally:
            self._write(lines)

    def add_values(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Show numbers that are not losses, in TensorBoard."""
        if self._events is not None:
            self._events.add_values({step: _grouped(group, values)})

    def add_images(self, step: int, grid: Tensor) -> None:
        """Show a sample grid, [C, H, W] in [-1, 1], in TensorBoard."""
        if self._events is not None:
            self._events.add_image(step, "samples", to_uint8(grid[:3]))

    def close(self) -> None:
        """Close the files."""
        if self._events is not None:
            self._events.close()

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if self._events is None:
            return
        with self._path.open("a") as file:
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self._events.add_values({line["step"]: _grouped("losses", line) for line in lines})


def _grouped(group: str, values: Mapping[str, float]) -> dict[str, float]:
    """Name values as TensorBoard groups them."""
    unlisted = ("step", "images", "seconds")
    return {f"{group}/{name}": value for name, value in values.items() if name not in unlisted}


def cut_back(path: Path, start: int) -> list[Line]:
    """Keep the lines of a series up to step ``start``; a file that is not there stays so.

    Returns:
        What the lines hold.
    Raises:
        InputError: A line is no line of a series; only the last one may be the half that a killed
            run was writing.
    """
    if not path.exists():
        return []
    kept: list[tuple[str, Line]] = []
    *whole, _ = path.read_text(errors="replace").split("\n")
    for number, text in enumerate(whole, 1):
        line = _read_line(text, path, number)
        if line["step"] > start:
            break
        kept.append((text + "\n", line))
    with atomic_write(path, force=True) as temporary:
        temporary.write_text("".join(text for text, _ in kept))
    return [line for _, line in kept]


def _read_line(text: str, path: Path, number: int) -> Line:
    def refuse(finding: str) -> InputError:
        return InputError(
            f"{path}, line {number}, is damaged: {finding}", "remove the line, or the file"
        )

    line = strict_json.read(text, Line, "it", refuse)
    if not isinstance(line.get("step"), int):
        raise refuse("it has no step")
    return line


def _fetch(values: list[Tensor]) -> list[float]:
    """Return scalars of the device on the host, each a mean over the processes."""
    if not values:
        return []
    stacked = torch.stack(values)
    collectives.average([stacked])
    numbers: list[float] = stacked.tolist()
    return numbers


def _check_finite(step: int, losses: Mapping[str, float]) -> None:
    if all(map(math.isfinite, losses.values())):
        return
    bad = ", ".join(f"{k} {v}" for k, v in losses.items() if not math.isfinite(v))
    good = ", ".join(f"{k} {v:.4g}" for k, v in losses.items() if math.isfinite(v))
    raise ComputationError(f"step {step}: {bad} is not finite (others: {good or 'none'})")
