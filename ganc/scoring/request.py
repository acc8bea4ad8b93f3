"""What a scoring method is asked to do."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganc.progress import Progress, Warn, ignore, silent
from ganc.scoring.density.recipe import DensityRecipe
from ganc.scoring.options import ScoreOptions


@dataclass(frozen=True)
class ScoreRequest(ScoreOptions):
    """What one method is asked to do: its settings, resolved, and what no command line holds.

    Attributes:
        samples: Latents to average over.
        batch: Latents per step.
        latents: diversity: w vectors [n, D_w] instead of drawn ones (z [n, D_z] without a w);
            content: z vectors [n, D_z].
        directions: diversity: [batches, N, D_w] (or D_z) instead of drawn ones.
        noise: diversity: noise[batch][direction][branch] is a list of maps [n, 1, R, R] in layer
            order; branch 0 is G(w), branch 1 the moved image. content: noise[batch] is such a list.
        channels_last: diversity: lay feature maps out with their channels innermost.
        replays: diversity: record the kernels of a batch once and launch them together, which
            needs CUDA and a style-based generator.
        until_stable: Stop before ``samples`` where two halves keep the same channels.
        masks: content: [n, h, w], bool, instead of what ``content`` makes; scaled to the images.
        salt: content: [n, H, W] in -1, 0 (untouched), +1, instead of drawn noise; hits outside the
            ``masks`` do not count, without ``masks`` all do.
        density: density: how the gates are learned.
        state: density: where the search is saved, so that ``resume`` can go on; None nowhere.
        device: Where the computation runs.
        progress: Called after every batch.
        warn: activation, asv, content, density: told what is left out of a set of images, and of
            values that cannot be meant.
    """

    samples: int = 0
    batch: int = 0
    latents: Tensor | None = None
    directions: Tensor | None = None
    noise: Sequence[Any] | None = None
    channels_last: bool = False
    replays: bool = False
    until_stable: bool = False
    masks: Tensor | None = None
    salt: Tensor | None = None
    density: DensityRecipe = field(default_factory=DensityRecipe)
    state: str | Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = silent
    warn: Warn = ignore

    def recorded(self, options: Sequence[str]) -> dict[str, Any]:
        """Return the named settings as JSON data; tensors the caller passed are only noted."""
        settings = {}
        for name in ("samples", "batch", "seed", *options):
            value = getattr(self, name)
            if name in ("latents", "directions", "noise", "masks", "salt"):
                value = "drawn" if value is None else "given"
            elif isinstance(value, os.PathLike):
                value = os.fspath(value)
            elif isinstance(value, DensityRecipe):
                value = value.to_json()
            settings[name] = value
        return settings
