"""Diversity-aware scores: how differently a channel answers to different latent directions.

Source: Chung et al. 2024, "Diversity-aware Channel Pruning for StyleGAN Compression", and what its
published code computes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, vjp

from ganc import seeds
from ganc.errors import ShapeError, UsageError, unknown_name
from ganc.families import family_of
from ganc.models.model import Model
from ganc.models.network import LatentGenerator
from ganc.scoring.precision import arithmetic, check_precision, keep_norms_exact, reduced
from ganc.scoring.read import mean_abs, scored_tensors
from ganc.scoring.replay import Replay
from ganc.scoring.request import ScoreRequest
from ganc.scoring.scorer import Scorer, State, batch_ranges
from ganc.scoring.space import LatentSpace, StyleSpace, latent_space

GRADIENTS = ("both", "base")

Noise = Sequence[Tensor] | None
Weights = dict[str, Tensor]
"""By their names in the latent space's module."""
Sensitivity = dict[str, Tensor]
"""By group."""


class Points(NamedTuple):
    """What images are made of: points [n, D], the samples they belong to, and noise."""

    at: Tensor
    indices: range
    noise: Noise


class Rendering(NamedTuple):
    """Images [n, C, H, W], and the way back from their gradient to that of the weights read."""

    images: Tensor
    pull: Callable[[Tensor], tuple[Weights]]


class Diversity(Scorer):
    """Sum, over batches, a channel's squared deviation from its mean sensitivity to directions.

    Per batch and direction d_i: L_i = Σ |G(w + α d_i) − G(w)|, the same noise for both images;
    s_i[c] = mean |∂L_i/∂W[:, c]| on the weights that consume channel c; the batch adds
    Σ_i (s_i − mean_i s_i)². w is a point of the generator's ``LatentSpace``.

    The base image and its graph are made once a batch and serve all directions. With
    ``direction_batch`` above 1, ``torch.vmap`` runs so many moved images as one batch; their
    gradients come apart only where a convolution's weight gradient is summed.

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
        _check_settings(request)
        self.noise_shapes = self.generator.noise_shapes()
        self.space = latent_space(self.generator, request)
        self.space.requires_grad_(False)  # weights are tracked as they are handed over, no others
        keep_norms_exact(self.space)
        if request.channels_last:
            self.space.to(memory_format=torch.channels_last)
        self.weights: Weights = {
            f"generator.{name}": self.generator.get_parameter(name)
            for name in scored_tensors(self.groups)
        }
        self.ranges = batch_ranges(request.samples, request.batch)
        if request.latents is not None:
            _check_latents(request.latents, request, self.space)
        self.directions = _directions(self.space, request, len(self.ranges)).to(request.device)
        self.replay: Replay | None = None
        if request.cuda_graphs:
            _check_recording(self.space, request.device)
            self.replay = Replay(partial(self._added, self.ranges[0]))

    @classmethod
    def defaults(cls, architecture: str) -> dict[str, Any]:
        """Return ``alpha`` and ``gradient`` as the family's published code has them."""
        family = family_of(architecture)
        return {"alpha": family.alpha, "gradient": family.gradient}

    def batches(self) -> Sequence[range]:
        return self.ranges

    def empty(self) -> State:
        return {g.name: torch.zeros(g.width, dtype=torch.float64) for g in self.groups}

    @torch.no_grad()  # gradients are the affair of those who take them
    def step(self, number: int, indices: range) -> State:
        assert self.request.alpha is not None  # `score` has filled in the family's default
        steps = self.request.alpha * self.directions[number]
        inputs = (self._latents(indices), steps, *self._noise(number, indices, len(steps)))
        with arithmetic(self.request.precision):
            run = self.replay or partial(self._added, indices)
            added = run(*inputs).cpu()  # one transfer: the host waits once a batch
        parts = added.split([group.width for group in self.groups])
        return {group.name: part for group, part in zip(self.groups, parts, strict=True)}

    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        return total

    def _latents(self, indices: range) -> Tensor:
        given = self.request.latents
        if given is None:
            return self.space.points(indices)
        return given[indices.start : indices.stop].to(self.request.device)

    def _added(self, indices: range, at: Tensor, steps: Tensor, *noise: Tensor) -> Tensor:
        """Return what a batch adds to the scores, all groups joined, float64.

        Args:
            indices: Its samples.
            at: Their points, [n, D].
            steps: α d_i, [N, D].
            noise: See ``_noise``.
        """
        sensitivities = self._sensitivities(Points(at, indices, None), steps, noise)
        rows = [sensitivities[group.name] for group in self.groups]
        return torch.cat([(s - s.mean(dim=0)).square().sum(dim=0) for s in rows])

    def _sensitivities(self, points: Points, steps: Tensor, noise: Sequence[Tensor]) -> Sensitivity:
        """Return s_i of a batch's directions: [N, width] per group, in the groups' order."""
        if self.request.noise is not None:
            # Recorded noise may differ per direction and image, so nothing can be shared.
            def alone(step: Tensor, *noise: Tensor) -> Sensitivity:
                half = len(noise) // 2
                base = self._render(points._replace(noise=noise[:half]))
                return self._sensitivity(
                    base, points._replace(at=points.at + step, noise=noise[half:])
                )

            return self._of_each(alone, steps, *noise)
        drawn = points._replace(noise=noise or None)
        base = self._render(drawn)

        def sharing(step: Tensor) -> Sensitivity:
            return self._sensitivity(base, drawn._replace(at=drawn.at + step))

        return self._of_each(sharing, steps)

    def _of_each(self, function: Callable[..., Sensitivity], *inputs: Tensor) -> Sensitivity:
        """Apply a function along dim 0 of its inputs, ``direction_batch`` entries at a time."""
        size = self.request.direction_batch
        if size > 1:
            at_once: Sensitivity = torch.vmap(function, chunk_size=size)(*inputs)
            return at_once
        rows = [function(*entries) for entries in zip(*inputs, strict=True)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _sensitivity(self, base: Rendering, moved: Points) -> Sensitivity:
        """Return s_i of one direction: [width] per group, float64."""
        if self.request.gradient == "base":
            sign = (self._images(moved, self.weights) - base.images).sign()  # ∂L/∂moved
            (gradients,) = base.pull(-sign)
        else:
            rendering = self._render(moved)
            sign = (rendering.images - base.images).sign()
            (gradients,), (others,) = rendering.pull(sign), base.pull(-sign)
            gradients = {name: gradients[name] + others[name] for name in gradients}
        named = {name.removeprefix("generator."): value for name, value in gradients.items()}
        return {group.name: mean_abs(named, group) for group in self.groups}

    def _render(self, points: Points) -> Rendering:
        if self.request.direction_batch > 1:
            images_and_pull: Any = vjp(partial(self._images, points), self.weights)
            return Rendering(*images_and_pull)
        # One at a time, plain autograd does: compiled operators do not run under `torch.func`.
        weights = {name: weight.detach().requires_grad_() for name, weight in self.weights.items()}
        with torch.enable_grad():
            images = self._images(points, weights)

        def pull(gradient: Tensor) -> tuple[Weights]:
            found = torch.autograd.grad(
                images, list(weights.values()), gradient, retain_graph=True, materialize_grads=True
            )
            return (dict(zip(weights, found, strict=True)),)

        return Rendering(images.detach(), pull)

    def _images(self, points: Points, weights: Weights) -> Tensor:
        with reduced(self.request.precision, self.request.device):
            made: Tensor = functional_call(self.space, weights, tuple(points))
        return made.to(points.at.dtype)  # differences are taken in full precision

    def _noise(self, number: int, indices: range, count: int) -> list[Tensor]:
        """Return a batch's noise maps, one per layer; none where the generator has its own.

        Recorded ones are those of the base image, then of the moved one, [N, n, 1, R, R] each;
        drawn ones serve both, [n, 1, R, R] each.
        """
        device = self.request.device
        if self.request.noise is not None:
            branches = [self.request.noise[number][i] for i in range(count)]
            layers = zip(*([*base, *moved] for base, moved in branches), strict=True)
            return [torch.stack(maps).to(device) for maps in layers]
        if self.request.noise_mode != "random":
            return []
        maps = seeds.noise_maps(self.request.seed, "noise", indices, self.noise_shapes)
        return [one.to(device) for one in maps]


def _check_settings(request: ScoreRequest) -> None:
    if request.gradient not in GRADIENTS:
        raise unknown_name("--gradient", str(request.gradient), GRADIENTS)
    check_precision(request.precision, request.device)


def _check_recording(space: LatentSpace, device: torch.device) -> None:
    if device.type != "cuda" or not isinstance(space, StyleSpace):
        raise UsageError(
            "--cuda-graphs needs CUDA and a style-based generator, got"
            f" {device.type} and {space.generator.architecture}",
            "leave it out",
        )


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
