"""What samples retrieve, against closed forms, exact fractions and simulated retrievals."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from ganc.perceptual import retrieval
from ganc.perceptual.feature_rows import FeatureRows
from ganc.perceptual.retrieval import (
    Estimate,
    count_retrievals,
    deviation,
    equally_likely,
    quotient,
    reachable,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))


def rows(values: torch.Tensor) -> FeatureRows:
    made = FeatureRows.scratch(values.shape[1])
    made.append(values)
    return made


def drawn(modes: int, draws: int, seed: int, most: int | None = None) -> torch.Tensor:
    """Return how often each of ``most`` references is drawn, ``modes`` of them equally likely."""
    generator = torch.Generator().manual_seed(seed)
    return torch.bincount(
        torch.randint(modes, (draws,), generator=generator), minlength=most or modes
    )


def noise(count: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


# --- retrieval ------------------------------------------------------------------------------------


def test_the_nearest_reference_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    references, samples = noise(61, 5, 0), noise(47, 5, 1)
    nearest = torch.cdist(samples.double(), references.double()).argmin(dim=1)
    expected = torch.bincount(nearest, minlength=61)
    assert torch.equal(count_retrievals(rows(references), rows(samples)), expected)
    monkeypatch.setattr(retrieval, "ROWS", 7)
    monkeypatch.setattr(retrieval, "COLUMNS", 11)
    assert torch.equal(count_retrievals(rows(references), rows(samples)), expected)
    assert int(expected.sum()) == 47


def test_of_equal_references_the_first_is_retrieved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "COLUMNS", 2)
    references = torch.tensor([[0.0], [1.0], [1.0], [1.0], [0.0]])
    counts = count_retrievals(rows(references), rows(torch.tensor([[0.9], [0.1], [1.1]])))
    assert counts.tolist() == [1, 2, 0, 0, 0]


def test_distinct_share_of_equally_likely_references() -> None:
    """k references, n samples: 1 - (1 - 1/k)^n in expectation.

    The share's deviation is below (1 / (4 k))^½ = 0.05; of the mean of 100 runs, 0.005.
    """
    k, n = 100, 150
    references = torch.eye(k)
    shares = []
    for seed in range(100):
        chosen = torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed))
        samples = references[chosen] + 0.01 * noise(n, k, seed)
        counts = count_retrievals(rows(references), rows(samples))
        shares.append(float((counts > 0).double().mean()))
    assert np.mean(shares) == pytest.approx(1 - (1 - 1 / k) ** n, abs=0.015)


# --- how many are there -----------------------------------------------------------------------


def chances(s: int, draws: int) -> dict[int, Fraction]:
    """Return P(distinct) of s equally likely ones, exactly, draw by draw."""
    found = {0: Fraction(1)}
    for _ in range(draws):
        after: dict[int, Fraction] = {}
        for k, chance in found.items():
            after[k] = after.get(k, Fraction(0)) + chance * Fraction(k, s)
            if k < s:
                after[k + 1] = after.get(k + 1, Fraction(0)) + chance * Fraction(s - k, s)
        found = after
    return found


@pytest.mark.parametrize("draws", [2, 3, 9, 14])
@pytest.mark.parametrize("most", [1, 2, 9, 15])
def test_estimate_and_bounds_are_exact(draws: int, most: int) -> None:
    known = {s: chances(s, draws) for s in range(1, most + 1)}
    tail = Fraction(25, 1000)
    for k in range(1, min(draws, most) + 1):
        candidates = range(k, most + 1)
        likeliest = max(candidates, key=lambda s: known[s][k])
        low = [s for s in candidates if sum(p for j, p in known[s].items() if j >= k) >= tail]
        high = [s for s in candidates if sum(p for j, p in known[s].items() if j <= k) >= tail]
        expected = (likeliest, min(low, default=most), max(high))
        assert tuple(equally_likely(k, draws, most)) == expected, k


@pytest.mark.parametrize(("modes", "draws"), [(50, 100), (300, 200), (1000, 2000)])
def test_the_true_number_of_modes_is_found(modes: int, draws: int) -> None:
    """The interval misses it in 5 % of the runs at most: 10 of 100 would be 2.3 deviations more."""
    found = [reachable(drawn(modes, draws, seed, most=5000)) for seed in range(100)]
    assert np.mean([estimate.value for estimate in found]) == pytest.approx(modes, rel=0.04)
    assert sum(not low <= modes <= high for _, low, high in found) <= 10


def test_unequally_likely_references_widen_the_interval() -> None:
    """Weights over two decades: the source's bounds would miss the mean estimate most of the time.

    What is estimated is what samples of this number give in the mean.
    """
    weights = torch.logspace(0, 2, 400)
    found, narrow = [], []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(weights, 1600, replacement=True, generator=generator)
        counts = torch.bincount(chosen, minlength=400)
        found.append(reachable(counts))
        narrow.append(equally_likely(int((counts > 0).sum()), 1600, 400))
    mean = np.mean([estimate.value for estimate in found])
    assert sum(not low <= mean <= high for _, low, high in found) <= 10
    assert sum(not low <= mean <= high for _, low, high in narrow) > 30


def test_the_deviation_is_that_of_repeated_runs() -> None:
    """Equally likely or not; 400 runs know a deviation to 3.5 %."""
    for weights in (torch.ones(300), torch.logspace(0, 2, 300)):
        distinct, told = [], []
        for seed in range(400):
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.multinomial(weights, 450, replacement=True, generator=generator)
            counts = torch.bincount(chosen, minlength=300)
            distinct.append(int((counts > 0).sum()))
            told.append(deviation(counts))
        assert np.mean(told) == pytest.approx(np.std(distinct), rel=0.12)


def test_one_mode_is_one_reference() -> None:
    assert tuple(reachable(drawn(1, 500, 0, most=500))) == (1, 1, 1)


def test_without_repetition_there_may_be_any_number() -> None:
    """20 different ones of 20: as likely as 1 in 40 where ∏ (1 - i / s) is 0.025."""
    counts = torch.cat([torch.ones(20, dtype=torch.long), torch.zeros(9980, dtype=torch.long)])
    value, low, high = reachable(counts)
    assert value == high == 10_000
    below, at = (math.prod(1 - i / s for i in range(20)) for s in (low - 1, low))
    assert below < 0.025 <= at


def test_quotient_of_two_estimates() -> None:
    one = Estimate(100.0, 80.0, 125.0)
    assert tuple(quotient(one, Estimate(50.0, 50.0, 50.0))) == pytest.approx((2.0, 1.6, 2.5))
    # The distances in logarithms are squared and added: 1.25^(2^½).
    assert tuple(quotient(one, one)) == pytest.approx((1.0, 1.25 ** -(2**0.5), 1.25 ** (2**0.5)))
