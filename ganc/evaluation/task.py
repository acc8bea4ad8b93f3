"""What a metric is given, and what it has to offer."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ganc.data.dataset import ImageDataset
from ganc.data.inputs import ImageInputs
from ganc.errors import DataError, InputError, UsageError, WeightsError
from ganc.evaluation.options import EvalOptions
from ganc.evaluation.sampling import Batch
from ganc.evaluation.segmentation import LabelMaps, Segmenter
from ganc.models.model import Model
from ganc.models.network import ImageGenerator, LatentGenerator, Network
from ganc.models.sampling import GENERATORS, InputSource, Latents, pick_generator
from ganc.perceptual.channels import check_channels
from ganc.perceptual.channels import protocol as channels_protocol
from ganc.perceptual.distance import (
    PerceptualDistance,
    check_side,
    load_perceptual,
)
from ganc.perceptual.features import FeatureNetwork, load_features
from ganc.progress import Progress, Warn

FEW_SAMPLES = 10_000
"""Below this many images a Fréchet distance says more about the count than about the model."""


SAMPLING = ("seed", "truncation_psi", "noise_mode")
"""Settings that every number from samples depends on."""


@dataclass(eq=False)
class Networks:
    """Feature networks and perceptual distances, each loaded once.

    Raises (both methods):
        WeightsError, MissingDependencyError: Its weights, or the package they come in, are missing.
    """

    device: torch.device
    offline: bool
    progress: Progress
    _features: dict[str, FeatureNetwork] = field(default_factory=dict)
    _distances: dict[str, PerceptualDistance] = field(default_factory=dict)

    def features(self, name: str) -> FeatureNetwork:
        """Return a feature network on the device."""
        if name not in self._features:
            self._features[name] = load_features(
                name, device=self.device, offline=self.offline, progress=self.progress
            )
        return self._features[name]

    def distance(self, name: str) -> PerceptualDistance:
        """Return a perceptual distance on the device."""
        if name not in self._distances:
            self._distances[name] = load_perceptual(
                name, device=self.device, offline=self.offline, progress=self.progress
            )
        return self._distances[name]


NO_DOWNLOAD = {
    "fid": "fd",
    "kid": "kd",
    "lpips": "perceptual",
    "lpips-diversity": "perceptual-diversity",
    "lpips-target": "perceptual-target",
    "ppl": "perceptual-ppl",
    "projection": "perceptual-projection",
}
"""Metric → the same idea on EfficientNet-Lite0, for hints: no weights to fetch, images of any size.
"""


@contextlib.contextmanager
def _offering(way: str | None) -> Iterator[None]:
    """Say in the hint of weights that are missing what needs none."""
    try:
        yield
    except WeightsError as error:
        offer = way and f"needs no download: {way}"
        hint = "; ".join(text for text in (error.hint, offer) if text)
        raise WeightsError(error.message, hint or None) from error


@dataclass(frozen=True, eq=False)
class Task:
    """One model to measure, and what it may be compared with.

    Attributes:
        model: On ``networks.device``.
        teacher: On the same device, with inputs and images of the same sizes, or None.
        source: Where model and teacher get their inputs; None where a translator was given none.
        dataset: Real images of the model's size, or None.
        targets: What a translator should make of each input, or None.
        labels: The classes that it should show, or None.
        segmenter: What finds them in translations, or None.
        shared: What metrics of this task compute together, by a name of their own.
    """

    model: Model
    teacher: Model | None
    source: InputSource[Any] | None
    dataset: ImageDataset | None
    settings: EvalOptions
    networks: Networks
    progress: Progress
    warn: Warn
    targets: ImageInputs | None = None
    labels: LabelMaps | None = None
    segmenter: Segmenter | None = None
    shared: dict[str, Any] = field(default_factory=dict, init=False)

    @property
    def device(self) -> torch.device:
        """Where everything runs."""
        return self.networks.device

    @property
    def generator(self) -> ImageGenerator:
        """The generator that is measured.

        Raises:
            InputError: The model has no such generator.
        """
        return pick_generator(self.model, self.settings.network)

    @property
    def network(self) -> Network:
        """What is counted: the generator, or what the model has instead."""
        is_default = self.settings.network == GENERATORS[0]
        return self.model.primary if is_default else self.generator

    def samples(self, metric: str, *, inputs_each: int = 1, least_inputs: int = 1) -> int:
        """Return how many samples a metric gets.

        Args:
            inputs_each: Inputs that one sample takes: 2 where samples are pairs.
            least_inputs: Below so many the metric has no value.
        Raises:
            UsageError: There are no inputs.
            InputError: There are too few, or there is no generator.
        """
        generator = self.generator
        if self.source is None:
            raise UsageError(
                f"{metric} needs images for the {generator.architecture} to translate, got none",
                "pass --input with a folder or zip of images",
            )
        if self.source.count is None:
            return self.settings.samples
        if self.source.count < least_inputs:
            raise InputError(
                f"{metric} needs {least_inputs} images or more, --input holds {self.source.count}"
            )
        return min(self.settings.samples, self.source.count // inputs_each)

    def check_real_images(self, metric: str, least: int = 2) -> None:
        """Refuse real images, where there are some, that are too few for a metric.

        Raises:
            DataError: There are fewer than ``least``.
        """
        if self.dataset is None or len(self.dataset) >= least:
            return
        count = len(self.dataset)
        raise DataError(
            f"{self.dataset.source.path}: holds {count} image{'s'[: count != 1]}, {metric} needs"
            f" {least} or more",
            "add real images to --data, or leave it out to compare with --teacher",
        )

    def features(self, metric: str, name: str) -> FeatureNetwork:
        """Return the feature network ``name`` for a metric.

        Raises:
            InputError: The network cannot see the model's images, or cannot be had.
        """
        check_channels(metric, self.generator.img_channels, self._without_networks())
        other = NO_DOWNLOAD.get(metric)
        way = "--features effnet-lite0" if other is None else f"--metrics {other} (effnet-lite0)"
        with _offering(way):
            return self.networks.features(name)

    def distance(self, metric: str, name: str) -> PerceptualDistance:
        """Return the perceptual distance ``name`` for a metric; raises as ``features`` does."""
        generator, source, other = self.generator, self.source, NO_DOWNLOAD.get(metric)
        check_channels(metric, generator.img_channels, self._without_networks())
        # Translations are as large as what is translated.
        side = min(source.size) if isinstance(source, ImageInputs) else generator.img_resolution
        check_side(metric, name, side, way_out=other and f"--metrics {other} takes any size")
        with _offering(other and f"--metrics {other} (effnet-lite0)"):
            return self.networks.distance(name)

    def _without_networks(self) -> str:
        """Return what can be measured of images of any number of channels."""
        paired = ["l1", "psnr"] if self.teacher is not None else []
        known = ["l1-target", "psnr-target"] if self.targets is not None else []
        return f"{', '.join([*paired, *known, 'macs', 'params'])} and latency take any"

    def protocol_of(self, network: FeatureNetwork | PerceptualDistance) -> dict[str, Any]:
        """Return what a number on a network depends on, as JSON data."""
        return network.protocol | channels_protocol(self.generator.img_channels)

    @property
    def latents(self) -> Latents:
        """Where the latents and labels of a generator that takes some come from."""
        assert isinstance(self.source, Latents)
        return self.source

    @property
    def labels_protocol(self) -> dict[str, Any]:
        """Which labels the samples have, as JSON data; nothing where the model takes none."""
        generator, source = self.generator, self.source
        if not (isinstance(source, Latents) and isinstance(generator, LatentGenerator)):
            return {}
        return source.protocol(generator)

    def with_seed(self, seed: int) -> "Task":
        """Return the task with other samples."""
        settings, source = replace(self.settings, seed=seed), self.source
        if isinstance(source, Latents):
            source = replace(source, seed=seed)
        return replace(self, settings=settings, source=source)

    def of_teacher(self) -> "Task":
        """Return the task that measures the teacher, alone, in the same way."""
        assert self.teacher is not None
        return replace(self, model=self.teacher, teacher=None)


class Measurement:
    """A metric at work: made, prepared, fed with samples, asked for its result.

    Making one loads its networks, so that everything missing is found before anything slow.

    Attributes:
        num_images: It is fed with samples 0 … ``num_images`` - 1; 0 for a metric that needs none.
        uses_teacher: Whether batches must hold the teacher's images of the same inputs as well.
    """

    num_images: int = 0
    uses_teacher: bool = False

    def prepare(self) -> None:
        """Do what may fail or takes time and needs no samples (statistics of real images)."""

    def update(self, batch: Batch) -> None:
        """Take in the next samples, in order, without gradient."""

    def result(self) -> Mapping[str, float]:
        """Return value by name: the metric's own name first, further ones beside it."""
        raise NotImplementedError

    def protocol(self) -> dict[str, Any]:
        """Return everything needed to reproduce the number: JSON data."""
        return {}
