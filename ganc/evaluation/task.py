"""What a metric is given, and what it has to offer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ganc.data.dataset import ImageDataset
from ganc.errors import InputError, UsageError, WeightsError, unknown_name
from ganc.evaluation.sampling import Batch
from ganc.models.model import Model
from ganc.models.network import LatentGenerator
from ganc.models.stylegan2 import NOISE_MODES
from ganc.perceptual.distance import PERCEPTUAL_DISTANCES, PerceptualDistance, load_perceptual
from ganc.perceptual.features import FEATURE_NETWORKS, FeatureNetwork, load_features
from ganc.progress import Progress, Warn

FEW_SAMPLES = 10_000
"""Below this many images a Fréchet distance says more about the count than about the model."""


@dataclass(frozen=True)
class Settings:
    """The numbers and names of one evaluation.

    Attributes:
        samples: Images for distances between sets, pairs for diversity; at least 2.
        seed: Of latents, labels and noise.
        batch: Images per forward pass.
        truncation_psi: Of model and teacher; 1 is none.
        noise_mode: Of model and teacher: "random" (by seed and index), "const" or "none".
        features: Feature network of ``fd``.
        perceptual: LPIPS network of ``lpips`` and ``lpips-diversity``.
        offline: Never fetch weights.
    Raises:
        UsageError: A value is out of range or a name unknown.
    """

    samples: int = 2000
    seed: int = 0
    batch: int = 32
    truncation_psi: float = 1.0
    noise_mode: str = "random"
    features: str = "effnet-lite0"
    perceptual: str = "lpips-alex"
    offline: bool = False

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise UsageError(f"--samples {self.samples} is too few, at least 2 are needed")
        if self.batch < 1:
            raise UsageError(f"--batch {self.batch} is too small, at least 1 is needed")
        if self.noise_mode not in NOISE_MODES:
            raise unknown_name("noise_mode", self.noise_mode, NOISE_MODES)
        if self.features not in FEATURE_NETWORKS:
            raise unknown_name("--features", self.features, FEATURE_NETWORKS)
        lpips = [name for name in PERCEPTUAL_DISTANCES if name.startswith("lpips-")]
        if self.perceptual not in lpips:
            # Only the networks that the LPIPS authors calibrated may carry the name.
            raise unknown_name("--perceptual", self.perceptual, lpips)


@dataclass(eq=False)
class Networks:
    """Feature networks and perceptual distances, each loaded once."""

    device: torch.device
    offline: bool
    _features: dict[str, FeatureNetwork] = field(default_factory=dict)
    _distances: dict[str, PerceptualDistance] = field(default_factory=dict)

    def features(self, name: str) -> FeatureNetwork:
        """Return a feature network on the device.

        Raises:
            WeightsError, MissingDependencyError: Its weights cannot be had.
        """
        if name not in self._features:
            with _offer("fd", "the Fréchet distance"):
                self._features[name] = load_features(name, self.device, offline=self.offline)
        return self._features[name]

    def distance(self, name: str) -> PerceptualDistance:
        """Return a perceptual distance on the device; raises as ``features`` does."""
        if name not in self._distances:
            with _offer("perceptual or perceptual-diversity", "a perceptual distance"):
                self._distances[name] = load_perceptual(name, self.device, offline=self.offline)
        return self._distances[name]
