"""Diversity-aware scores: how differently a channel answers to different directions in W.

Source: Chung et al. 2024, "Diversity-aware Channel Pruning for StyleGAN Compression", and what its
published code computes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ganc import seeds
from ganc.errors import ShapeError, UsageError, unknown_name
from ganc.models.model import Model
from ganc.models.sampling import latent_inputs
from ganc.models.stylegan2 import Generator
from ganc.scoring.read import mean_abs, scored_tensors
from ganc.scoring.request import ScoreRequest

PCA_SAMPLES = 10_000
GRADIENTS = ("both", "base")

Noise = Sequence[Tensor] | None
Render = Callable[[Tensor, Noise], Tensor]


class Batch(NamedTuple):
    """One batch: its samples, its latents w [n, D_w] and its unit directions [N, D_w]."""

    number: int
    indices: range
    w: Tensor
    directions: Tensor


def diversity(model: Model, request: ScoreRequest) -> dict[str, Tensor]:
    """Sum, over batches, a channel's squared deviation from its mean sensitivity to directions.

    Per batch and direction d_i: L_i = Σ |G(w + α d_i) − G(w)|, the same noise for both images;
    s_i[c] = mean |∂L_i/∂W[:, c]| on the weights that consume channel c; the batch adds
    Σ_i (s_i − mean_i s_i)².

    Raises:
        UsageError: A setting is out of range, or the generator has no w.
        ShapeError: ``latents``, ``directions`` or ``noise`` do not fit.
    """
    generator = model.generator
    if not isinstance(generator, Generator):
        raise UsageError(f"method diversity does not know {model.architecture} generators")
    if request.gradient not in GRADIENTS:
        raise unknown_name("--gradient", request.gradient, GRADIENTS)
    groups = generator.groups()
    weights = {name: generator.get_parameter(name) for name in scored_tensors(groups)}
    scores = {g.name: torch.zeros(g.width, dtype=torch.float64) for g in groups}
    for batch in _batches(generator, request):
        rows = []
        for gradients in _gradients(generator, weights, batch, request):
            rows.append({g.name: mean_abs(gradients, g).cpu() for g in groups})
        for group in groups:
            sensitivity = torch.stack([row[group.name] for row in rows])  # [N, width]
            scores[group.name] += (sensitivity - sensitivity.mean(dim=0)).square().sum(dim=0)
        request.progress("scoring", batch.indices.stop, request.samples)
    return scores


def batch_ranges(samples: int, batch: int) -> list[range]:
    """Split samples into batches; the last one takes the remainder, as published.

    Raises:
        UsageError: ``batch`` is not in 1 … ``samples``.
    """
    if not 1 <= batch <= samples:
        raise UsageError(f"--batch {batch} is outside 1 … --samples {samples}")
    starts = [i * batch for i in range(samples // batch)]
    return [range(a, b) for a, b in zip(starts, [*starts[1:], samples], strict=True)]


def _batches(generator: Generator, request: ScoreRequest) -> list[Batch]:
    ranges = batch_ranges(request.samples, request.batch)
    directions = _directions(generator, request, len(ranges))
    latents = request.latents
    if latents is not None and latents.shape != (request.samples, generator.w_dim):
        raise ShapeError(
            f"latents must be w vectors [{request.samples}, {generator.w_dim}],"
            f" got {list(latents.shape)}"
        )
    return [
        Batch(
            number, indices,
            map_latents(generator, indices, request) if latents is None
            else latents[indices.start : indices.stop].to(request.device),
            directions[number].to(request.device),
        )
        for number, indices in enumerate(ranges)
    ]  # fmt: skip


@torch.no_grad()
def map_latents(
    generator: Generator, indices: range, request: ScoreRequest, stream: str = "latents"
) -> Tensor:
    """Return w of some samples: [n, D_w]."""
    if stream == "latents":
        inputs = latent_inputs(generator, indices, request.seed, noise_mode="none")
        z, c = inputs.z, inputs.c
    else:
        z = seeds.normal(request.seed, stream, indices, (generator.z_dim,))
        c = latent_inputs(generator, indices, request.seed, noise_mode="none").c
    c = None if c is None else c.to(request.device)
    w: Tensor = generator.mapping(z.to(request.device), c)[:, 0]
    return w


def _directions(generator: Generator, request: ScoreRequest, num_batches: int) -> Tensor:
    """Return unit directions, [batches, N, D_w]: given ones, or drawn from the PCA of w."""
    if request.directions is not None:
        given = request.directions
        if given.ndim != 3 or (given.shape[0], given.shape[2]) != (num_batches, generator.w_dim):
            raise ShapeError(
                f"directions must be [{num_batches}, N, {generator.w_dim}], got {list(given.shape)}"
            )
        return given
    components, share = principal_directions(
        map_latents(generator, range(PCA_SAMPLES), request, "pca").cpu()
    )
    picks = [
        seeds.generator(request.seed, "directions", number).choice(
            len(share), size=request.num_directions, p=share.numpy()
        )
        for number in range(num_batches)
    ]
    return torch.stack([components[torch.from_numpy(pick)] for pick in picks])


def principal_directions(w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the principal components of mapped latents and the variance each explains.

    Args:
        w: [n, D_w].
    Returns:
        Unit components [D_w, D_w], float32, their entry of largest magnitude positive (the sign
        matters: only w + α d is looked at), and their shares of the variance [D_w], float64,
        which sum to 1. Largest share first.
    """
    values, vectors = torch.linalg.eigh(torch.cov(w.double().T))
    values, components = values.flip(0).clamp(min=0), vectors.T.flip(0)
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * largest.sign()).float(), values / values.sum()


def _gradients(
    generator: Generator, weights: Mapping[str, Tensor], batch: Batch, request: ScoreRequest
) -> list[dict[str, Tensor]]:
    """Return ∂L_i/∂W for every direction of a batch."""
    if request.noise is not None:
        # Recorded noise may differ per direction, so nothing can be shared.
        pairs = [request.noise[batch.number][i] for i in range(len(batch.directions))]
        return [
            _gradient(generator, weights, batch, i, pair[1], request,
                      _render(generator, batch.w, pair[0], request))
            for i, pair in enumerate(pairs)
        ]  # fmt: skip
    noise = _noise(generator, batch, request)
    base = _render(generator, batch.w, noise, request)
    return [
        _gradient(generator, weights, batch, i, noise, request, base)
        for i in range(len(batch.directions))
    ]


def _noise(generator: Generator, batch: Batch, request: ScoreRequest) -> Noise:
    if request.noise_mode != "random":
        return None
    maps = seeds.noise_maps(request.seed, "noise", batch.indices, generator.noise_shapes())
    return [one.to(request.device) for one in maps]


def _render(generator: Generator, w: Tensor, noise: Noise, request: ScoreRequest) -> Tensor:
    w = torch.lerp(generator.w_avg, w, request.truncation_psi)
    ws = w[:, None].expand(-1, generator.num_ws, -1)
    mode = "none" if request.noise_mode == "random" else request.noise_mode
    image: Tensor = generator.synthesis(ws, noise_mode=mode, noise=noise)
    return image


def _gradient(
    generator: Generator,
    weights: Mapping[str, Tensor],
    batch: Batch,
    number: int,
    noise: Noise,
    request: ScoreRequest,
    base: Tensor,
) -> dict[str, Tensor]:
    moved_w = batch.w + request.alpha * batch.directions[number]
    with torch.set_grad_enabled(request.gradient == "both"):
        moved = _render(generator, moved_w, noise, request)
    # The base image's graph serves all directions; the moved one's goes with `moved`.
    loss = (moved - base).abs().sum()
    gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
    return dict(zip(weights, gradients, strict=True))
