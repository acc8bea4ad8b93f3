"""Sets of features against definitions, brute force, closed forms and clean-fid's functions."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.fid import kernel_distance as their_kernel_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ganc.errors import ComputationError, ShapeError
from ganc.perceptual import feature_rows, manifold
from ganc.perceptual.feature_rows import FeatureRows, rows_for
from ganc.perceptual.features import FeatureNetwork
from ganc.perceptual.kernel import discrepancy, kernel_distance
from ganc.perceptual.manifold import NAMES, compare_manifolds
from tests.conftest import GOLDEN


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows(values: torch.Tensor) -> FeatureRows:
    made = FeatureRows.scratch(values.shape[1])
    for part in values.split(7):
        made.append(part)
    return made


def compare(real: torch.Tensor, generated: torch.Tensor, k: int | None = None) -> dict[str, float]:
    return compare_manifolds(rows(real), rows(generated), neighbours=k)


def by_definition(real: np.ndarray, generated: np.ndarray, k: int) -> dict[str, float]:
    """Return the four values as the papers write them, on all pairs at once in float64."""

    def radius(points: np.ndarray) -> np.ndarray:
        between = np.linalg.norm(points[:, None] - points[None], axis=2)
        return np.sort(between, axis=1)[:, k]  # column 0 is the point itself

    between = np.linalg.norm(real[:, None] - generated[None], axis=2)  # [real, generated]
    of_real, of_generated = radius(real), radius(generated)
    return {
        "precision": (between <= of_real[:, None]).any(axis=0).mean(),
        "recall": (between <= of_generated[None]).any(axis=1).mean(),
        "density": (between < of_real[:, None]).sum(axis=0).mean() / k,
        "coverage": (between.min(axis=1) < of_real).mean(),
    }


def noise(count: int, dim: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + mean


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(7, 40), st.integers(7, 40))
def test_the_definitions_on_all_pairs(seed: int, k: int, reals: int, samples: int) -> None:
    real, generated = noise(reals, 4, seed), noise(samples, 4, seed + 1, mean=0.5)
    expected = by_definition(real.double().numpy(), generated.double().numpy(), k)
    assert compare(real, generated, k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize(("case", "suffix"), [("gauss", ""), ("lattice", "_lattice")])
def test_recorded_values(case: str, suffix: str, k: int) -> None:
    """On the lattice many distances equal a radius: whose balls are closed decides."""
    io = load_file(GOLDEN / "precision-recall" / "io.safetensors")
    results = json.loads((GOLDEN / "precision-recall" / "meta.json").read_text())["results"]
    values = compare(io[f"real{suffix}"], io[f"fake{suffix}"], k)
    closed, opened = results[f"own_{case}_k{k}_nonstrict"], results[f"own_{case}_k{k}_strict"]
    nvidia = results[f"nvidia_logic_fp32_{case}_k{k}"]
    assert values == pytest.approx(
        {n: (closed if n in nvidia else opened)[n] for n in NAMES}, rel=1e-12
    )
    assert {n: values[n] for n in nvidia} == pytest.approx(nvidia, rel=1e-6)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = noise(61, 5, 0), noise(47, 5, 1)
    whole = compare(real, generated)
    monkeypatch.setattr(manifold, "ROWS", 7)
    monkeypatch.setattr(manifold, "COLUMNS", 11)
    assert compare(real, generated) == whole


def test_points_on_a_line() -> None:
    """Neighbours one apart: with k = 1 every ball reaches exactly to the next point."""
    real = torch.arange(10.0)[:, None]
    inside = compare(real, real + 0.5, k=1)
    # The sample at 9.5 lies in the ball of 9 alone, all others in two; the real 0 has one at 0.5.
    assert inside == {"precision": 1.0, "recall": 1.0, "density": 1.9, "coverage": 1.0}
    assert compare(real, real + 100, k=1) == dict.fromkeys(NAMES, 0.0)
    # At a distance of exactly the radius: precision's balls are closed, density's open.
    apart = compare(2 * real[:5], 2 * real[:5] + 10, k=1)
    assert apart["precision"] == pytest.approx(1 / 5)
    assert apart["density"] == apart["coverage"] == 0.0


def test_a_collapsed_model_has_precision_and_no_recall() -> None:
    """Never the two swapped: one good image over and over, against a set of many."""
    real = noise(200, 8, 0)
    collapsed = real[:1] + 1e-3 * noise(200, 8, 1)
    values = compare(real, collapsed)
    assert values["precision"] == 1.0
    assert values["recall"] < 0.02
    assert values["coverage"] < 0.2
    wide = compare(real, 30 * noise(200, 8, 2))  # anything at all, hardly ever a real image
    assert wide["precision"] < 0.02
    assert wide["recall"] > 0.9


def test_two_samples_of_one_distribution() -> None:
    """Naeem et al. 2020: density 1 and coverage 1 - 2^-k, whatever the distribution."""
    values = compare(noise(2000, 3, 0).exp(), noise(2000, 3, 1).exp(), k=4)
    assert values["density"] == pytest.approx(1, abs=0.06)
    assert values["coverage"] == pytest.approx(1 - 2**-4, abs=0.02)


def test_the_same_set_is_complete() -> None:
    real = noise(100, 6, 3)
    values = compare(real, real.clone())
    assert values["precision"] == values["recall"] == values["coverage"] == 1.0


def test_far_from_the_origin_distances_keep_their_digits() -> None:
    real, generated = noise(80, 4, 0), noise(80, 4, 1)
    near = compare(real, generated)
    assert compare(real + 1000, generated + 1000) == pytest.approx(near, abs=0.03)


def test_too_few_images_are_named() -> None:
    with pytest.raises(ComputationError, match=r"3 real images are too few .* 3-th") as caught:
        compare_manifolds(rows(noise(3, 2, 0)), rows(noise(9, 2, 1)), ["precision"])
    assert "4 images or more" in str(caught.value.hint)


# --- clean-fid's own functions on the same features ----------------------------------------------


def test_kernel_distance_is_clean_fids() -> None:
    a, b = noise(400, 16, 0), 1.3 * noise(400, 16, 1, mean=0.2)
    theirs = their_kernel_distance(a.numpy(), b.numpy())
    assert kernel_distance(rows(a), rows(b), seed=0) == pytest.approx(theirs, rel=1e-4)
    # Larger sets: other subsets than theirs, the same mean.
    a, b = noise(3000, 16, 2), 1.3 * noise(2500, 16, 3, mean=0.2)
    np.random.seed(0)
    theirs = their_kernel_distance(a.numpy(), b.numpy())
    assert kernel_distance(rows(a), rows(b), seed=0) == pytest.approx(theirs, rel=0.02)


def test_kernel_distance_of_the_recorded_subsets() -> None:
    io = load_file(GOLDEN / "fid-kid" / "io.safetensors")
    results = json.loads((GOLDEN / "fid-kid" / "meta.json").read_text())["results"]
    real, fake = io["real"].double(), io["fake"].double()
    chosen = zip(io["kid_idx_real"].long(), io["kid_idx_fake"].long(), strict=True)
    values = [discrepancy(real[i], fake[j]) for i, j in chosen]
    assert np.mean(values) == pytest.approx(
        results["kid_cleanfid_seed802_float64_features"], rel=1e-9
    )


def test_kernel_distance_in_closed_form() -> None:
    """One number each, always the same: (aa + 1)³ + (bb + 1)³ - 2 (ab + 1)³."""
    a, b = torch.full((5, 1), 2.0), torch.full((9, 1), 3.0)
    assert kernel_distance(rows(a), rows(b), seed=0) == pytest.approx(5**3 + 10**3 - 2 * 7**3)
    with pytest.raises(ComputationError, match="2 samples"):
        kernel_distance(rows(a[:1]), rows(b), seed=0)


# --- rows on disk --------------------------------------------------------------------------------


def test_rows_come_back(cache: Path) -> None:
    values = noise(30, 3, 0)
    made = rows(values)
    assert len(made) == 30
    assert torch.equal(made.block(0, 30), values)
    assert torch.equal(made.take(torch.tensor([29, 0, 7])), values[[29, 0, 7]])
    assert torch.equal(torch.cat([block for _, block in made.blocks(8)]), values)
    assert not list((cache / "features").iterdir())  # a scratch file has no name
    with pytest.raises(ShapeError, match="features must be"):
        made.append(values[:, :2])
    with pytest.raises(ComputationError, match="not finite"):
        made.append(values * math.inf)


@pytest.fixture
def network() -> FeatureNetwork:
    return FeatureNetwork(
        "test", sha256="0" * 64, dim=3, resolution=8, resize="none",
        prepare=lambda images: images, network=torch.nn.Identity(),
    )  # fmt: skip


def test_real_features_are_kept_and_checked(cache: Path, network: FeatureNetwork) -> None:
    values, told, calls = noise(20, 3, 0), [], []

    def compute() -> FeatureRows:
        calls.append(1)
        return rows(values)

    def ask(data: str = "a" * 64) -> FeatureRows:
        return rows_for(data, network, compute, count=20, warn=told.append)

    for _ in range(2):
        assert torch.equal(ask().block(0, 20), values)
    assert len(calls) == 1
    ask("b" * 64)
    assert len(calls) == 2
    for path in (cache / "features").iterdir():
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    assert torch.equal(ask().block(0, 20), values)
    assert len(calls) == 3
    assert "damaged" in told[0]


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, network: FeatureNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "file" / "cache"))
    told: list[str] = []
    values = noise(5, 3, 0)
    kept = rows_for("a" * 64, network, lambda: rows(values), count=5, warn=told.append)
    assert torch.equal(kept.block(0, 5), values)
    assert "not kept" in told[0]


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, content: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    made = feature_rows.FeatureRows(Full(), 3)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="no space left on the device"):
        made.append(noise(2, 3, 0))
