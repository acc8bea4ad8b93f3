"""What a scoring method is asked to do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganc.progress import Progress, Warn, ignore, silent
from ganc.scoring.density.recipe import DensityRecipe


@dataclass(frozen=True)
class ScoreRequest:
    """The settings of all methods; each method reads those that its table row names.

    Attributes:
        samples: Latents to average over.
        batch: Latents per step; a setting of the method where its definition contains the batch.
        seed: Feeds the streams "latents", "labels", "noise", "pca", "directions", "salt", "random".
        noise_mode: "random" (keyed by seed and sample), "const" or "none".
        latents: diversity: w vectors [n, D_w] instead of drawn ones (z [n, D_z] without a w);
            content: z vectors [n, D_z].
        directions: diversity: [batches, N, D_w] (or D_z) instead of drawn ones.
        noise: diversity: noise[batch][direction][branch] is a list of maps [n, 1, R, R] in layer
            order; branch 0 is G(w), branch 1 the moved image. content: noise[batch] is such a list.
        alpha: diversity: length of the step along a direction, in units of the latent; None takes
            what the family's published code has: 10 for stylegan3, else 5.
        num_directions: diversity: directions per batch.
        direction_batch: diversity: directions that run at once; more memory, the same scores.
        precision: diversity: arithmetic of the images and gradients, one of
            ``precision.PRECISIONS``.
        channels_last: diversity: lay feature maps out with their channels innermost.
        replays: diversity: record the kernels of a batch once and launch them together, which
            needs CUDA and a style-based generator.
        gradient: diversity: "both" sends the gradient through both images, "base" through G(w);
            None takes "base" for stylegan3, else "both".
        truncation_psi: diversity: truncation of both latents (it scales the step as well).
        until_stable: Stop before ``samples`` where two halves keep the same channels.
        prune_ratio: The ratio at which they are compared.
        content: content: where the masks come from (``ganc.content.sources.FORMS``).
        noise_prob: content: share of the mask's pixels that the noise hits.
        masks: content: [n, h, w], bool, instead of what ``content`` makes; scaled to the images.
        salt: content: [n, H, W] in -1, 0 (untouched), +1, instead of drawn noise; hits outside the
            ``masks`` do not count, without ``masks`` all do.
        data, data_b: activation, asv: images for a translator, and for a CycleGAN's other direction
            (``generator_b``); a folder or a zip. density: what the translator was trained on, as
            ``ganc distill`` takes it.
        network: Score this generator alone, "generator" or "generator_b"; None takes all there are.
        discriminator: l1-in, l1-out, random: score the discriminators' groups as well.
        effective: l1-out: weights as they act, modulated, averaged over latents.
        swap: density: the generator translates from side B of ``data`` to side A.
        resize: density: scale squares of another size instead of refusing them.
        density: density: how the gates are learned.
        neighbourhoods: density: the file of neighbourhoods, reused where it is there; None keeps
            them in memory.
        state: density: where the search is saved, so that ``resume`` can go on; None nowhere.
        resume: density: go on with the search in ``state``.
        log: density: a JSON line per step is appended to this file.
        device: Where the computation runs.
        progress: Called after every batch.
        warn: activation, asv, content, density: told what is left out of a set of images, and of
            values that cannot be meant.
        offline: content, density: never fetch the weights of a mask network.
    """

    samples: int = 0
    batch: int = 0
    seed: int = 0
    noise_mode: str = "random"
    latents: Tensor | None = None
    directions: Tensor | None = None
    noise: Sequence[Any] | None = None
    alpha: float | None = None
    num_directions: int = 10
    direction_batch: int = 1
    precision: str = "fp32"
    channels_last: bool = False
    replays: bool = False
    gradient: str | None = None
    truncation_psi: float = 1.0
    until_stable: bool = False
    prune_ratio: float = 0.7
    content: str = "center"
    noise_prob: float = 0.05
    masks: Tensor | None = None
    salt: Tensor | None = None
    data: str | Path | None = None
    data_b: str | Path | None = None
    network: str | None = None
    discriminator: bool = False
    effective: bool = False
    swap: bool = False
    resize: bool = False
    density: DensityRecipe = field(default_factory=DensityRecipe)
    neighbourhoods: str | Path | None = None
    state: str | Path | None = None
    resume: bool = False
    log: str | Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = silent
    warn: Warn = ignore
    offline: bool = False

    def recorded(self, options: Sequence[str]) -> dict[str, Any]:
        """Return the named settings as JSON data; tensors the caller passed are only noted."""
        settings = {}
        for name in ("samples", "batch", "seed", *options):
            value = getattr(self, name)
            if name in ("latents", "directions", "noise", "masks", "salt"):
                value = "drawn" if value is None else "given"
            elif isinstance(value, Path):
                value = str(value)
            elif isinstance(value, DensityRecipe):
                value = value.to_json()
            settings[name] = value
        return settings
