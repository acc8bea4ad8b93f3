"""Diversity-aware scores: how differently a channel answers to different latent directions.

Source: Chung et al. 2024, "Diversity-aware Channel Pruning for StyleGAN Compression", and what its
published code computes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganc import seeds
from ganc.errors import ShapeError, UsageError, unknown_name
from ganc.models.model import Model
from ganc.models.network import LatentGenerator
from ganc.scoring.read import mean_abs, scored_tensors
from ganc.scoring.request import ScoreRequest
from ganc.scoring.scorer import Scorer, State, batch_ranges
from ganc.scoring.space import LatentSpace, latent_space

GRADIENTS = ("both", "base")

DEFAULTS = {"stylegan3": {"alpha": 10.0, "gradient": "base"}}
"""What the published code of a family does otherwise than the StyleGAN2 code (5, both)."""

Noise = Sequence[Tensor] | None


class Batch(NamedTuple):
    """One batch: its samples, its points [n, D] and its unit directions [N, D]."""

    number: int
    indices: range
    points: Tensor
    directions: Tensor


def defaults(architecture: str) -> dict[str, Any]:
    """Return ``alpha`` and ``gradient`` as the family's published code has them."""
    return {"alpha": 5.0, "gradient": "both"} | DEFAULTS.get(architecture, {})


class Diversity(Scorer):
    """Sum, over batches, a channel's squared deviation from its mean sensitivity to directions.

    Per batch and direction d_i: L_i = Σ |G(w + α d_i) − G(w)|, the same noise for both images;
    s_i[c] = mean |∂L_i/∂W[:, c]| on the weights that consume channel c; the batch adds
    Σ_i (s_i − mean_i s_i)². w is a point of the generator's ``LatentSpace``.

    Raises:
        UsageError: A setting is out of range, or the generator takes no latents.
        ShapeError: ``latents``, ``directions`` or ``noise`` do not fit.
    """

    def __init__(self, model: Model, request: ScoreRequest) -> None:
        super().__init__(model, request)
        if not isinstance(self.generator, LatentGenerator):
            raise UsageError(
                f"method diversity moves latents, a {model.architecture} has none",
                "score it with --method activation, asv or l1-out",
            )
        if request.gradient not in GRADIENTS:
            raise unknown_name("--gradient", str(request.gradient), GRADIENTS)
        self.latent_generator = self.generator
        self.weights = {n: self.generator.get_parameter(n) for n in scored_tensors(self.groups)}
        self.space = latent_space(self.latent_generator, request)
        self.ranges = batch_ranges(request.samples, request.batch)
        if request.latents is not None:
            _check_latents(request.latents, request, self.space)
        self.directions = _directions(self.space, request, len(self.ranges))

    def batches(self) -> Sequence[range]:
        return self.ranges

    def empty(self) -> State:
        return {g.name: torch.zeros(g.width, dtype=torch.float64) for g in self.groups}

    def step(self, number: int, indices: range) -> State:
        latents = self.request.latents
        points = (
            self.space.points(indices) if latents is None
            else latents[indices.start : indices.stop].to(self.request.device)
        )  # fmt: skip
        batch = Batch(number, indices, points, self.directions[number].to(self.request.device))
        rows = [
            {g.name: mean_abs(gradients, g).cpu() for g in self.groups}
            for gradients in _gradients(
                self.latent_generator, self.space, self.weights, batch, self.request
            )
        ]
        total = {}
        for group in self.groups:
            sensitivity = torch.stack([row[group.name] for row in rows])  # [N, width]
            total[group.name] = (sensitivity - sensitivity.mean(dim=0)).square().sum(dim=0)
        return total

    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        return total


def _check_latents(latents: Tensor, request: ScoreRequest, space: LatentSpace) -> None:
    if latents.shape != (request.samples, space.dim):
        raise ShapeError(
            f"latents must be {space.name} [{request.samples}, {space.dim}],"
            f" got {list(latents.shape)}"
        )


def _directions(space: LatentSpace, request: ScoreRequest, num_batches: int) -> Tensor:
    """Return unit directions, [batches, N, D]: given ones, or drawn from the principal ones."""
    if request.directions is not None:
        given = request.directions
        if given.ndim != 3 or (given.shape[0], given.shape[2]) != (num_batches, space.dim):
            raise ShapeError(
                f"directions must be [{num_batches}, N, {space.dim}], got {list(given.shape)}"
            )
        return given
    components, share = space.principal_directions()
    picks = [
        seeds.generator(request.seed, "directions", number).choice(
            len(share), size=request.num_directions, p=share.numpy()
        )
        for number in range(num_batches)
    ]
    return torch.stack([components[torch.from_numpy(pick)] for pick in picks])


def _gradients(
    generator: LatentGenerator,
    space: LatentSpace,
    weights: Mapping[str, Tensor],
    batch: Batch,
    request: ScoreRequest,
) -> list[dict[str, Tensor]]:
    """Return ∂L_i/∂W for every direction of a batch."""
    numbers = range(len(batch.directions))
    if request.noise is not None:
        # Recorded noise may differ per direction, so nothing can be shared.
        pairs = [request.noise[batch.number][i] for i in numbers]
        return [
            _gradient(space, weights, batch, i, pair[1], request,
                      space.render(batch.points, batch.indices, pair[0]))
            for i, pair in zip(numbers, pairs, strict=True)
        ]  # fmt: skip
    noise = _noise(generator, batch, request)
    base = space.render(batch.points, batch.indices, noise)
    return [_gradient(space, weights, batch, i, noise, request, base) for i in numbers]


def _noise(generator: LatentGenerator, batch: Batch, request: ScoreRequest) -> Noise:
    if request.noise_mode != "random":
        return None
    maps = seeds.noise_maps(request.seed, "noise", batch.indices, generator.noise_shapes())
    return [one.to(request.device) for one in maps]


def _gradient(
    space: LatentSpace,
    weights: Mapping[str, Tensor],
    batch: Batch,
    number: int,
    noise: Noise,
    request: ScoreRequest,
    base: Tensor,
) -> dict[str, Tensor]:
    assert request.alpha is not None  # `score` has filled in the family's default
    moved_points = batch.points + request.alpha * batch.directions[number]
    with torch.set_grad_enabled(request.gradient == "both"):
        moved = space.render(moved_points, batch.indices, noise)
    # The base image's graph serves all directions; the moved one's goes with `moved`.
    loss = (moved - base).abs().sum()
    gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
    return dict(zip(weights, gradients, strict=True))
