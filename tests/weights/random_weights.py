"""Weights files of the published layout with seeded random numbers, put into a temporary cache.

The published files are too large to carry and cannot be downloaded by a test, so what is tested is
that every tensor lands where the `lpips` package and clean-fid would put it.
"""

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import lpips
import pytest
import torch

from ganc.weights.probe import DISTANCE_ON, KNOWN_DISTANCES
from ganc.weights.published import WEIGHTS, WeightsFile

TRUNK_OF = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}


def install(
    monkeypatch: pytest.MonkeyPatch, name: str, write: Callable[[Path], object]
) -> WeightsFile:
    """Write a file into ``$GANC_CACHE`` and make the cache's table expect exactly it."""
    row = WEIGHTS[name]
    path = Path(os.environ["GANC_CACHE"]) / "weights" / row.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    made = WeightsFile(row.file_name, row.url, sha256, len(content))
    monkeypatch.setitem(WEIGHTS, name, made)
    if name in DISTANCE_ON:
        monkeypatch.delitem(KNOWN_DISTANCES, DISTANCE_ON[name], raising=False)
    return made


def random_lpips(net: str) -> lpips.LPIPS:
    """The package's own LPIPS with a random trunk and the linear weights that it carries."""
    torch.manual_seed(821)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision deprecates how lpips calls it
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def published_trunk(slices: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name a trunk's tensors as torchvision's file does: slice2.3.weight → features.3.weight."""
    trunk = {f"features.{key.split('.', 1)[1]}": tensor for key, tensor in slices.items()}
    return {**trunk, "classifier.1.weight": torch.zeros(2, 2)}


def save_inception(path: Path) -> None:
    """Save a torchscript module that clean-fid can call: `layers` maps 299 px to 2048 features."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, kernel_size=9, stride=8),
                torch.nn.ReLU(),
                torch.nn.AdaptiveAvgPool2d(16),
                torch.nn.Flatten(),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    torch.manual_seed(822)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchscript is what clean-fid loads
        torch.jit.script(Net()).save(str(path))
