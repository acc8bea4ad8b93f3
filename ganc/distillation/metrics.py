"""The loss series of a run: ``metrics.jsonl`` and TensorBoard."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ganc.data.images import to_uint8
from ganc.distillation.run_folder import METRICS
from ganc.errors import ComputationError
from ganc.files import atomic_write


class MetricsLog:
    """Collects losses on the device and writes them in groups: one transfer per group.

    Args:
        folder: The run.
        start: Steps done before; later lines of an earlier attempt are cut off.
        last: Last known value of every loss, from an earlier attempt.
    """

    def __init__(self, folder: Path, start: int, last: Mapping[str, float]) -> None:
        self.path = folder / METRICS
        self.last = dict(last)
        self._cut(start)
        self._writer = SummaryWriter(str(folder), purge_step=start + 1)
        self._pending: list[tuple[int, int, float, dict[str, Tensor]]] = []

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
        values = [loss.float() for *_, losses in pending for loss in losses.values()]
        numbers = iter(torch.stack(values).tolist() if values else [])
        lines = []
        try:
            for step, images, seconds, losses in pending:
                found = {name: next(numbers) for name in losses}
                _check_finite(step, found)
                self.last |= found
                rounded = round(seconds, 4)
                lines.append({"step": step, "images": images, **found, "seconds": rounded})
                for name, value in found.items():
                    self._writer.add_scalar(f"losses/{name}", value, step)
        finally:
            self._append(lines)

    def add_images(self, step: int, grid: Tensor) -> None:
        """Show a sample grid, [C, H, W] in [-1, 1], in TensorBoard."""
        self._writer.add_image("samples", to_uint8(grid[:3]), step)

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()

    def _append(self, lines: list[dict[str, Any]]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)

    def _cut(self, start: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                step = json.loads(line)["step"]
            except ValueError:  # the line that a killed run was writing
                break
            if step > start:
                break
            kept.append(line + "\n")
        with atomic_write(self.path, force=True) as temporary:
            temporary.write_text("".join(kept))


def _check_finite(step: int, losses: Mapping[str, float]) -> None:
    if all(map(math.isfinite, losses.values())):
        return
    bad = ", ".join(f"{k} {v}" for k, v in losses.items() if not math.isfinite(v))
    good = ", ".join(f"{k} {v:.4g}" for k, v in losses.items() if math.isfinite(v))
    raise ComputationError(f"step {step}: {bad} is not finite (others: {good or 'none'})")
