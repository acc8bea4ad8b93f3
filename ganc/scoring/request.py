"""What a scoring method is asked to do."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from ganc.progress import Progress, Warn, ignore, silent
from ganc.scoring.density.recipe import DensityRecipe
from ganc.scoring.given import GivenMasks, GivenPoints, GivenState
from ganc.scoring.options import ScoreOptions

DRAWN = {part.name for kind in (GivenPoints, GivenMasks) for part in fields(kind)}
"""What is drawn where a caller does not give it."""


@dataclass(frozen=True)
class ScoreRequest(ScoreOptions, GivenPoints, GivenMasks, GivenState):
    """What one method is asked to do: its settings, resolved, and what no command line holds.

    Attributes:
        samples: Latents to average over.
        batch: Latents per step.
        channels_last: diversity: lay feature maps out with their channels innermost.
        until_stable: Stop before ``samples`` where two halves keep the same channels.
        density: density: how the gates are learned.
        device: Where the computation runs.
        progress: Called after every batch.
        warn: activation, asv, content, density, rebuild: told what is left out of a set of images,
            and of values that cannot be meant.
    """

    samples: int = 0
    batch: int = 0
    channels_last: bool = False
    until_stable: bool = False
    density: DensityRecipe = field(default_factory=DensityRecipe)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = silent
    warn: Warn = ignore

    def recorded(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the named settings as JSON data; what the caller gave is only noted."""
        return {name: self._recorded(name) for name in ("samples", "batch", "seed", *names)}

    def _recorded(self, name: str) -> Any:
        value = getattr(self, name)
        if name in DRAWN:
            return "drawn" if value is None else "given"
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        return value.to_json() if isinstance(value, DensityRecipe) else value
