"""The latent space that diversity directions live in."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganc import seeds
from ganc.models.network import LatentGenerator
from ganc.models.sampling import latent_inputs
from ganc.models.style import StyleGenerator
from ganc.scoring.request import ScoreRequest

PCA_SAMPLES = 10_000


class LatentSpace(nn.Module, ABC):
    """Points, directions that matter, and the images of points.

    A module around its generator, so that ``torch.func`` can differentiate images by weights.

    Attributes:
        dim: D.
        name: How messages call its points.
        generator: What makes the images.
    """

    dim: int
    name: str
    generator: LatentGenerator

    def __init__(self, generator: LatentGenerator, request: ScoreRequest) -> None:
        super().__init__()
        self.generator, self.request = generator, request

    @abstractmethod
    def points(self, indices: range) -> Tensor:
        """Return the points of some samples: [n, D], on the request's device."""

    @abstractmethod
    def principal_directions(self) -> tuple[Tensor, Tensor]:
        """Return unit directions [k, D], float32, and their shares of the variance [k], float64.

        Both on the CPU. Shares sum to 1.
        """

    @abstractmethod
    def forward(self, points: Tensor, indices: range, noise: Sequence[Tensor] | None) -> Tensor:
        """Return the images of points [n, D] that belong to the samples ``indices``."""


class StyleSpace(LatentSpace):
    """W of a style-based generator, its directions by PCA of mapped latents.

    Source: Chung et al. 2024 (DCP-GAN), after Härkönen et al. 2020 (GANSpace).
    """

    name = "w vectors"

    generator: StyleGenerator

    def __init__(self, generator: StyleGenerator, request: ScoreRequest) -> None:
        super().__init__(generator, request)
        self.dim = generator.w_dim

    def points(self, indices: range) -> Tensor:
        return self._map(indices, "latents")

    @torch.no_grad()
    def _map(self, indices: range, stream: str) -> Tensor:
        generator, seed, device = self.generator, self.request.seed, self.request.device
        z = seeds.normal(seed, stream, indices, (generator.z_dim,))
        c = latent_inputs(generator, indices, seed, noise_mode="none").c
        w: Tensor = generator.mapping(z.to(device), None if c is None else c.to(device))[:, 0]
        return w

    def principal_directions(self) -> tuple[Tensor, Tensor]:
        return principal_components(self._map(range(PCA_SAMPLES), "pca").cpu())

    def forward(self, points: Tensor, indices: range, noise: Sequence[Tensor] | None) -> Tensor:
        w = torch.lerp(self.generator.w_avg, points, self.request.truncation_psi)
        ws = w[:, None].expand(-1, self.generator.num_ws, -1)
        mode = "none" if self.request.noise_mode == "random" else self.request.noise_mode
        image: Tensor = self.generator.synthesis(ws, noise_mode=mode, noise=noise)
        return image


class InputSpace(LatentSpace):
    """The latents z themselves, for a generator without a mapping network.

    The directions are those that move the output of its first linear layer most. z is standard
    normal, so the covariance of that output is A Aᵀ and its principal components, traced back to
    z, are the right singular vectors of A: no samples are needed.
    Source of the idea: Härkönen et al. 2020 (GANSpace), who regress such directions for BigGAN.
    """

    name = "z vectors"

    def __init__(self, generator: LatentGenerator, request: ScoreRequest) -> None:
        super().__init__(generator, request)
        self.dim = generator.z_dim

    def points(self, indices: range) -> Tensor:
        z = seeds.normal(self.request.seed, "latents", indices, (self.dim,))
        return z.to(self.request.device)

    def principal_directions(self) -> tuple[Tensor, Tensor]:
        weight = self.generator.first_weight().detach().double().cpu()
        values, vectors = torch.linalg.eigh(weight.T @ weight)
        return ordered(values, vectors)

    def forward(self, points: Tensor, indices: range, noise: Sequence[Tensor] | None) -> Tensor:
        drawn = latent_inputs(self.generator, indices, self.request.seed, noise_mode="none")
        mode = "none" if self.request.noise_mode == "random" else self.request.noise_mode
        image: Tensor = self.generator(
            points,
            None if drawn.c is None else drawn.c.to(self.request.device),
            truncation_psi=self.request.truncation_psi,
            noise_mode=mode,
            noise=noise,
        )
        return image


def latent_space(generator: LatentGenerator, request: ScoreRequest) -> LatentSpace:
    """Return W where the generator has one, else z."""
    if isinstance(generator, StyleGenerator):
        return StyleSpace(generator, request)
    return InputSpace(generator, request)


def principal_components(w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the principal components of points [n, D] and the variance each explains.

    Returns:
        Unit components [D, D], float32, their entry of largest magnitude positive (the sign
        matters: only w + α d is looked at), and their shares of the variance [D], float64,
        which sum to 1. Largest share first.
    """
    return ordered(*torch.linalg.eigh(torch.cov(w.double().T)))


def ordered(values: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Arrange what ``eigh`` returns as ``principal_components`` says."""
    values, components = values.flip(0).clamp(min=0), vectors.T.flip(0)
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * largest.sign()).float(), values / values.sum()
