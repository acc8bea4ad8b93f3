"""Feature networks: images in, one vector per image out, with everything a protocol must name."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer

from ganc.data.images import to_uint8
from ganc.errors import ShapeError, UsageError, WeightsError, unknown_name
from ganc.perceptual import effnet
from ganc.perceptual.channels import SEEN, as_colour
from ganc.progress import Progress, silent
from ganc.weights.cache import weights_path
from ganc.weights.probe import KNOWN_FEATURES, probe
from ganc.weights.published import WEIGHTS


class FeatureNetwork(torch.nn.Module):
    """A frozen network that describes images, with the facts its numbers depend on.

    Args:
        name: Its row in ``FEATURE_NETWORKS``.
        sha256: Of its weights file.
        dim: Length of a feature vector.
        resolution: Side that every image is resized to.
        resize: How, in words that go into a result's protocol.
        prepare: uint8 [N, 3, H, W] → the float input of ``network``.
        network: Prepared images → [N, dim].
    """

    def __init__(
        self,
        name: str,
        *,
        sha256: str,
        dim: int,
        resolution: int,
        resize: str,
        prepare: Callable[[torch.Tensor], torch.Tensor],
        network: torch.nn.Module,
    ) -> None:
        super().__init__()
        self.name = name
        self.sha256 = sha256
        self.dim = dim
        self.resolution = resolution
        self.resize = resize
        self._prepare = prepare
        self._network = network
        self.requires_grad_(False).eval()

    @property
    def protocol(self) -> dict[str, Any]:
        """What a number on these features depends on, as JSON data."""
        return {
            "features": self.name,
            "sha256": self.sha256,
            "resolution": self.resolution,
            "resize": self.resize,
            "quantisation": "uint8, in memory",
        }

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Describe a batch of images.

        Args:
            images: [N, 3, H, W], uint8, any size and device; one channel is repeated.
        Returns:
            [N, dim], float32, on the network's device.
        Raises:
            UsageError: The images are not uint8.
            ShapeError: They are not [N, 1 or 3, H, W].
        Guarantees: an image's features do not depend on its batch beyond rounding.
        """
        self._check(images)
        device = next(self._network.parameters()).device
        prepared = self._prepare(as_colour(images).to(device))
        return self._network(prepared.to(device)).float()

    def _check(self, images: torch.Tensor) -> None:
        if images.dtype != torch.uint8:
            raise UsageError(f"`{self.name}` features need uint8 images, got {images.dtype}")
        if images.ndim != 4 or images.shape[1] not in SEEN:
            raise ShapeError(
                f"`{self.name}` features need images [N, 1 or 3, H, W], got {list(images.shape)}",
                "it was trained on RGB; metrics that use it do not exist for RGBA models",
            )


def feature_key(dataset_hash: str, network: FeatureNetwork, count: int) -> str:
    """Return what the features of ``count`` images of a set depend on, as a key for caches."""
    return json.dumps(
        {
            "data": dataset_hash,
            "features": network.name,
            "sha256": network.sha256,
            "resize": network.resize,
            "count": count,
        },
        sort_keys=True,
    )


def load_features(
    name: str,
    *,
    device: torch.device | str = "cpu",
    offline: bool = False,
    progress: Progress = silent,
) -> FeatureNetwork:
    """Load a feature network with verified weights and test it once.

    Raises:
        UsageError: ``name`` is not in ``FEATURE_NETWORKS``.
        WeightsError: Its weights are missing, damaged, or give impossible features.
        MissingDependencyError: The package that carries it is not installed.
    """
    if name not in FEATURE_NETWORKS:
        raise unknown_name("features", name, FEATURE_NETWORKS)
    network = FEATURE_NETWORKS[name](offline, progress)
    probe_features(network)
    return network.to(device)


def probe_features(network: FeatureNetwork) -> float:
    """Run a loaded network's self-test and return its number; see ``probe``."""
    known = KNOWN_FEATURES.get(network.name)
    return probe(network.name, lambda x: network(to_uint8(x)), (network.dim,), known)


def _load_inception(offline: bool, progress: Progress) -> FeatureNetwork:
    """Clean-fid's Inception: its resizer, its torchscript file, its way of calling it."""
    path = weights_path("inception", offline=offline, progress=progress)
    try:
        with warnings.catch_warnings():
            # torch.jit.load warns, as either by version; the published file is torchscript.
            for category in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", category)
            network = InceptionV3W(str(path.parent), download=False)
    except (RuntimeError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read as clean-fid's Inception") from error
    return FeatureNetwork(
        "inception",
        sha256=WEIGHTS["inception"].sha256,
        dim=2048,
        resolution=299,
        resize="clean-fid: PIL bicubic, antialiased, float32, clipped to [0, 255]",
        prepare=_resize_clean,
        network=network,
    )


_clean_resizer = build_resizer("clean")


def _resize_clean(images: torch.Tensor) -> torch.Tensor:
    """Resize image by image on the CPU, as clean-fid does: [N, 3, 299, 299] in [0, 255]."""
    pixels = images.cpu().permute(0, 2, 3, 1).numpy()  # [N, H, W, 3]
    resized = np.stack([_clean_resizer(image) for image in pixels])
    return torch.from_numpy(resized).permute(0, 3, 1, 2)


def _load_effnet(offline: bool, progress: Progress) -> FeatureNetwork:
    """EfficientNet-Lite0; installed with a package, so it needs neither network nor progress."""
    return FeatureNetwork(
        "effnet-lite0",
        sha256=effnet.SHA256,
        dim=effnet.FEATURE_DIM,
        resolution=128,
        resize="torch bilinear, antialiased, float32",
        prepare=_resize_bilinear,
        network=effnet.EffNetLite0(),
    )


def _resize_bilinear(images: torch.Tensor) -> torch.Tensor:
    """Resize on the images' device: [N, 3, 128, 128] in [-1, 1]."""
    x = images.float() / 127.5 - 1
    return F.interpolate(x, size=(128, 128), mode="bilinear", antialias=True)


FEATURE_NETWORKS: dict[str, Callable[[bool, Progress], FeatureNetwork]] = {
    "inception": _load_inception,
    "effnet-lite0": _load_effnet,
}
