from pathlib import Path

import pytest

from ganc.perceptual.features import FEATURE_NETWORKS, FeatureNetwork
from ganc.progress import Progress

from .witnesses import MeanColour


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty cache of its own, and no network."""
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GANC_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def mean_colour(monkeypatch: pytest.MonkeyPatch) -> str:
    """A feature network of three numbers: the mean colour in [-1, 1]."""

    def build(offline: bool, progress: Progress) -> FeatureNetwork:
        return FeatureNetwork(
            "mean-colour", sha256="0" * 64, dim=3, resolution=8, resize="none",
            prepare=lambda images: images.float() / 127.5 - 1, network=MeanColour(),
        )  # fmt: skip

    monkeypatch.setitem(FEATURE_NETWORKS, "mean-colour", build)
    return "mean-colour"
