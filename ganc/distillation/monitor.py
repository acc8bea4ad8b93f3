"""What a run tells whoever watches it, whenever losses were fetched."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class TrainingStatus:
    """Where a run is.

    Attributes:
        step, steps: Steps done, and in all.
        images: Images seen.
        losses: Last known value of every loss.
        evaluation: Values of the last evaluation, with its "step"; empty before the first.
        seconds_per_step: Mean since the status before, evaluations left out.
        process_bytes: Memory of this process; None where the system does not tell.
        device_bytes: GPU memory that this process holds; None without a GPU.
    """

    step: int
    steps: int
    images: int
    losses: Mapping[str, float]
    evaluation: Mapping[str, float]
    seconds_per_step: float
    process_bytes: int | None
    device_bytes: int | None

    @property
    def seconds_left(self) -> float:
        """How long the rest takes at this speed."""
        return (self.steps - self.step) * self.seconds_per_step


Observer = Callable[[TrainingStatus], None]
"""Called in the first process whenever losses were fetched."""


def unobserved(status: TrainingStatus) -> None:
    """Look away."""


def process_bytes() -> int | None:
    """Return the resident memory of this process; None off Linux."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def device_bytes(device: torch.device) -> int | None:
    """Return what torch holds of a GPU's memory; waits for nothing."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else None
