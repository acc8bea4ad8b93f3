import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ganc.errors import ComputationError, ShapeError
from ganc.perceptual.frechet import FeatureStats, frechet_distance

GOLDEN = Path(__file__).parent.parent / "golden" / "fid-kid"
IO = load_file(GOLDEN / "io.safetensors")
RESULTS = json.loads((GOLDEN / "meta.json").read_text())["results"]


def stats_of(features: torch.Tensor, batch: int = 64) -> FeatureStats:
    stats = FeatureStats.empty(features.shape[1])
    for part in features.split(batch):
        stats.update(part)
    return stats


def gaussian(mean: torch.Tensor, cov: torch.Tensor) -> FeatureStats:
    return FeatureStats(2, mean.double(), cov.double())  # count - 1 = 1: scatter is covariance


@pytest.mark.parametrize("name", ["real", "fake"])
def test_moments_equal_numpy(name: str) -> None:
    stats = stats_of(IO[name])
    # Both sum 300 float64 products; 1e-12 is some thousand roundings.
    torch.testing.assert_close(stats.mean, IO[f"mu_{name}"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(stats.cov, IO[f"cov_{name}_ddof1"], rtol=1e-12, atol=1e-12)


def test_distance_equals_the_recorded_ones() -> None:
    distance = frechet_distance(stats_of(IO["real"]), stats_of(IO["fake"]))
    assert distance == pytest.approx(RESULTS["fid_cleanfid_float64_stats"], abs=1e-9)
    assert distance == pytest.approx(RESULTS["fid_cleanfid_as_called_float32_mean"], abs=1e-3)


def test_singular_covariances_are_no_special_case() -> None:
    few = frechet_distance(stats_of(IO["few_real"]), stats_of(IO["few_fake"]))
    assert few == pytest.approx(RESULTS["fid_rankdeficient_cleanfid"], abs=1e-3)
    constant = stats_of(torch.ones(5, 24))
    assert frechet_distance(constant, constant) == 0
    spread = stats_of(IO["real"])
    shift = (spread.mean - 1).square().sum() + spread.cov.trace()
    assert frechet_distance(constant, spread) == pytest.approx(float(shift), rel=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # clean-fid: sqrtm(disp=)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_clean_fid(seed: int) -> None:
    from cleanfid.fid import fid_from_feats

    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(64, 64))
    a = rng.gamma(2.0, size=(500, 64)) @ mix
    b = (rng.gamma(1.5, size=(400, 64)) + 0.2) @ mix
    ours = frechet_distance(stats_of(torch.from_numpy(a)), stats_of(torch.from_numpy(b)))
    assert ours == pytest.approx(fid_from_feats(a, b), abs=1e-3)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(0, 50)] * 2, *[st.floats(-9, 9)] * 2), min_size=1, max_size=8)
)
def test_closed_form_of_commuting_gaussians(rows: list[tuple[float, ...]]) -> None:
    var_a, var_b, mean_a, mean_b = torch.tensor(rows, dtype=torch.float64).T
    rotation = torch.linalg.qr(torch.randn(len(rows), len(rows)).double()).Q
    a = gaussian(mean_a @ rotation.T, rotation * var_a @ rotation.T)
    b = gaussian(mean_b @ rotation.T, rotation * var_b @ rotation.T)
    expected = (mean_a - mean_b).square().sum() + (var_a.sqrt() - var_b.sqrt()).square().sum()
    # A zero eigenvalue comes back as 1e-16 of the largest; its root is 1e-8, times 50, times 8.
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9, abs=1e-5)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9, abs=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_batches_and_merging_change_nothing(batch: int) -> None:
    whole = stats_of(IO["real"], 300)
    parts = stats_of(IO["real"][:120], batch)
    parts.merge(FeatureStats.empty(24))
    parts.merge(stats_of(IO["real"][120:], batch))
    assert parts.count == whole.count == 300
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.cov, whole.cov, rtol=1e-12, atol=1e-12)


def test_a_large_mean_costs_no_digits() -> None:
    shifted = stats_of(IO["real"].double() + 1e6, 7)
    # 1e6 leaves 10 digits behind the point; naive E[xx] - mm would be off by 1e-4.
    torch.testing.assert_close(shifted.cov, IO["cov_real_ddof1"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_never_nan(bad: float) -> None:
    stats = stats_of(IO["real"])
    before = stats.scatter.clone()
    with pytest.raises(ComputationError, match="not finite after 300 samples"):
        stats.update(torch.full((2, 24), bad))
    assert torch.equal(stats.scatter, before)


def test_overflow_is_an_error_not_a_number() -> None:
    huge = stats_of(IO["real"].double() * 1e200)
    with pytest.raises(ComputationError, match="not finite"):
        frechet_distance(huge, stats_of(IO["fake"]))


def test_too_few_samples() -> None:
    one = stats_of(IO["real"][:1])
    with pytest.raises(ComputationError, match="at least 2 samples, got 1"):
        frechet_distance(one, stats_of(IO["fake"]))


def test_other_lengths_are_refused() -> None:
    stats = FeatureStats.empty(24)
    with pytest.raises(ShapeError, match=r"must be \[N, 24\], got \[3, 23\]"):
        stats.update(torch.zeros(3, 23))
    with pytest.raises(ShapeError, match="24 and 23"):
        stats.merge(FeatureStats.empty(23))
