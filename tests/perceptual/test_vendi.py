"""The Vendi score in closed form, and against the kernel of all pairs."""

import math

import pytest
import torch

from ganc.errors import ComputationError
from ganc.perceptual.vendi import Similarities


def score(*parts: torch.Tensor) -> float:
    similarities = Similarities(parts[0].shape[1])
    for part in parts:
        similarities.update(part)
    return similarities.score()


def by_definition(features: torch.Tensor) -> float:
    units = features.double() / features.double().norm(dim=1, keepdim=True)
    shares = torch.linalg.eigvalsh(units @ units.T / len(units))
    return math.exp(-sum(float(p) * math.log(p) for p in shares if p > 1e-12))


@pytest.mark.parametrize("modes", [1, 4, 16])
def test_equally_frequent_orthogonal_directions(modes: int) -> None:
    lengths = torch.linspace(0.1, 9.0, 48)[:, None]
    features = torch.eye(16)[torch.arange(48) % modes] * lengths
    assert score(features) == pytest.approx(modes, rel=1e-12)


def test_unequally_frequent_directions_are_the_entropy_of_their_shares() -> None:
    features = torch.eye(3)[[0] * 6 + [1] * 3 + [2]]
    entropy = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1))
    assert score(features) == pytest.approx(math.exp(entropy), rel=1e-12)


@pytest.mark.parametrize("count", [5, 12, 90])  # fewer and more than dimensions
def test_the_kernel_of_all_pairs(count: int) -> None:
    features = torch.randn(count, 12, generator=torch.Generator().manual_seed(0)) + 0.5
    assert score(features) == pytest.approx(by_definition(features), rel=1e-9)
    assert score(*features.split(4)) == pytest.approx(score(features), rel=1e-12)


@pytest.mark.parametrize("bad", [0.0, math.inf, math.nan])
def test_features_without_a_direction_are_named(bad: float) -> None:
    features = torch.ones(4, 3)
    features[2] = bad
    with pytest.raises(ComputationError, match="features of sample 6 have length") as caught:
        score(torch.ones(4, 3), features)
    assert "ganc sample" in str(caught.value.hint)
    with pytest.raises(ComputationError, match="needs 1 sample"):
        Similarities(3).score()
