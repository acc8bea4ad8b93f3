"""Kernel distance of two sets of feature vectors (KID)."""

import torch
from torch import Tensor

from ganc import seeds
from ganc.errors import ComputationError
from ganc.perceptual.feature_rows import FeatureRows

SUBSETS = 100
SUBSET_SIZE = 1000


def kernel_distance(
    a: FeatureRows, b: FeatureRows, seed: int, *, subsets: int = SUBSETS, size: int = SUBSET_SIZE
) -> float:
    """Return the squared maximum mean discrepancy under a cubic kernel.

    k(x, y) = (x · y / D + 1)³; the unbiased estimate, so it can be slightly negative. Mean over
    random subsets of both sets; sets no larger than a subset are taken whole, once.
    Source: Bińkowski et al. 2018 (KID); subsets and sizes as clean-fid takes them.

    Args:
        seed: Of the subsets.
        size: Vectors of a subset, at most as many as the smaller set holds.
    Raises:
        ComputationError: A set has fewer than two vectors.
    """
    size = min(size, len(a), len(b))
    if size < 2:
        raise ComputationError(
            f"a kernel distance needs 2 samples, got {size}", "give either set 2 images or more"
        )
    if size == len(a) == len(b):
        subsets = 1
    total = 0.0
    for index in range(subsets):
        draws = seeds.generator(seed, "kernel subsets", index)
        x, y = (
            rows.take(torch.from_numpy(draws.choice(len(rows), size, replace=False)))
            for rows in (a, b)
        )
        total += discrepancy(x.double(), y.double())
    return total / subsets


def discrepancy(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate of two subsets of one size, [N, D] each, float64."""
    count, dim = x.shape
    within = (x @ x.T / dim + 1) ** 3 + (y @ y.T / dim + 1) ** 3
    between = (x @ y.T / dim + 1) ** 3
    others = (within.sum() - within.trace()) / (count - 1)
    return float((others - 2 * between.sum() / count) / count)
