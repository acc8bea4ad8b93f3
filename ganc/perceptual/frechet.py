"""Mean and covariance of features, streamed in float64, and the Fréchet distance of two of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ganc.errors import ComputationError, ShapeError


@dataclass(eq=False)
class FeatureStats:
    """First and second moments of a set of feature vectors; memory is independent of its size.

    Updates shift by the running mean (Chan et al.), so large means cost no digits, and two halves
    merged equal the whole.
    """

    count: int
    mean: torch.Tensor  # [D], float64, on the device that adds up
    scatter: torch.Tensor  # [D, D], float64, there too: sum of (x - mean)(x - mean)^T

    @classmethod
    def empty(cls, dim: int, device: torch.device | str = "cpu") -> FeatureStats:
        """Return the statistics of no vectors of length ``dim``."""
        zeros = torch.zeros(dim, dtype=torch.float64, device=device)
        return cls(0, zeros, torch.zeros(dim, dim, dtype=torch.float64, device=device))

    @property
    def cov(self) -> torch.Tensor:
        """The unbiased covariance (divided by count - 1), [D, D], as clean-fid takes it.

        Raises:
            ComputationError: There are fewer than two vectors, or it is not finite.
        """
        if self.count < 2:
            raise ComputationError(
                f"a covariance needs at least 2 samples, got {self.count}",
                "give either set 2 images or more",
            )
        _check_finite("the covariance", self.scatter)
        return self.scatter / (self.count - 1)

    def update(self, features: torch.Tensor) -> None:
        """Add a batch.

        Args:
            features: [N, D], any floating type and device.
        Raises:
            ShapeError: They are not [N, D].
            ComputationError: One of them is not finite.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ShapeError(f"features must be [N, {len(self.mean)}], got {list(features.shape)}")
        batch = features.detach().to(self.mean.device, torch.float64)
        if not torch.isfinite(batch).all():
            raise ComputationError(
                f"features are not finite after {self.count} samples",
                "look at the images that the model makes: `ganc sample`",
            )
        if len(batch):
            mean = batch.mean(dim=0)
            self.scatter.addmm_((batch - mean).T, batch - mean)
            self._shift(len(batch), mean)

    def merge(self, other: FeatureStats) -> None:
        """Add another set's statistics; ``other`` stays as it is.

        Raises:
            ShapeError: They are of vectors of another length.
        """
        _check_same_dim(self, other)
        if other.count:
            self.scatter += other.scatter.to(self.scatter.device)
            self._shift(other.count, other.mean.to(self.mean.device))

    def _shift(self, count: int, mean: torch.Tensor) -> None:
        """Account for the distance between the old mean and that of ``count`` new vectors."""
        total = self.count + count
        delta = mean - self.mean
        self.scatter.addr_(delta, delta, alpha=self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total


def frechet_distance(a: FeatureStats, b: FeatureStats) -> float:
    """Return the squared Fréchet distance of two Gaussians with these means and covariances.

    |μ_a - μ_b|² + tr(Σ_a) + tr(Σ_b) - 2 tr((Σ_a Σ_b)^½). The last trace is the sum of the square
    roots of the eigenvalues of Σ_a^½ Σ_b Σ_a^½, which is symmetric and never negative; a singular
    covariance (fewer samples than dimensions) is no special case and nothing turns complex.
    Source: Heusel et al. 2017 (FID).

    Raises:
        ShapeError: The features have different lengths.
        ComputationError: A set has fewer than two samples, or the result is not finite.
    """
    _check_same_dim(a, b)
    cov_a, cov_b = a.cov, b.cov.to(a.mean.device)
    shift = (a.mean - b.mean.to(a.mean.device)).square().sum()
    distance = shift + cov_a.trace() + cov_b.trace() - 2 * _trace_sqrt_product(cov_a, cov_b)
    _check_finite("the Fréchet distance", distance)
    return max(0.0, float(distance))  # equal sets leave rounding of either sign


def _trace_sqrt_product(cov_a: torch.Tensor, cov_b: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T  # Σ_a^½
    product = root @ cov_b @ root
    _check_finite("the product of the covariances", product)  # LAPACK can turn NaN into numbers
    return torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()


def _check_finite(what: str, values: torch.Tensor) -> None:
    if not torch.isfinite(values).all():
        raise ComputationError(f"{what} is not finite: the features are too large for float64")


def _check_same_dim(a: FeatureStats, b: FeatureStats) -> None:
    if len(a.mean) != len(b.mean):
        raise ShapeError(
            f"features of length {len(a.mean)} and {len(b.mean)} cannot be compared",
            "take both sets from the same feature network",
        )
