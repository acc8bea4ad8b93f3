"""Perceptual distances: LPIPS on its three trunks, and an LPIPS-like one that needs no download."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lpips
import torch
import torch.nn.functional as F

from ganc.errors import InputError, ShapeError, UsageError, WeightsError, unknown_name
from ganc.perceptual import effnet
from ganc.perceptual.channels import SEEN, as_colour
from ganc.progress import Progress, silent
from ganc.weights.cache import (
    check_sha256,
    known_sha256,
    load_strictly,
    read_tensors,
    weights_path,
)
from ganc.weights.carried import read_carried
from ganc.weights.probe import KNOWN_DISTANCES, TOLERANCE, probe_images
from ganc.weights.published import WEIGHTS

SOURCE = "source"
"""Of a protocol: the file that weights were read from. Two files of the same tensors compare."""
_EFFNET_SIDE = 128
_RANGE_TOLERANCE = 1e-3  # far above rounding, far below a wrong range ([0, 255] or [-2, 2])


class PerceptualDistance(torch.nn.Module):
    """How different two images look, differentiable in both.

    Features of several stages are scaled to unit length over their channels; the squared
    differences are averaged over pixels, weighted over channels and summed over stages.
    Source: Zhang et al. 2018 (LPIPS), Eq. 1.

    Args:
        name: Its row in ``PERCEPTUAL_DISTANCES``.
        sha256: Of its weights: of LPIPS' trunk the tensors', since several files hold them; else
            the file's.
        source: SHA-256 of the file that they were read from, where that is another.
        stages: Images [N, 3, H, W] in [-1, 1] → one [N, C_k, h_k, w_k] per stage.
        channel_weights: One non-negative [C_k] per stage.
        resolution: Side that images are resized to (bilinear, antialiased) before the network;
            None takes them as they are.
        smallest_side: The network cannot take smaller images.
    """

    def __init__(
        self,
        name: str,
        *,
        sha256: str,
        stages: torch.nn.Module,
        channel_weights: Sequence[torch.Tensor],
        resolution: int | None,
        smallest_side: int,
        source: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.sha256 = sha256
        self.source = source
        self.resolution = resolution
        self.smallest_side = smallest_side
        self._stages = stages
        self._channel_weights = torch.nn.ParameterList(channel_weights)
        self.requires_grad_(False).eval()

    @property
    def protocol(self) -> dict[str, Any]:
        """What a number on this distance depends on, as JSON data."""
        source = {} if self.source is None else {SOURCE: self.source}
        return {"network": self.name, "sha256": self.sha256, **source}

    def forward(self, a: torch.Tensor, b: torch.Tensor, *, checked: bool = False) -> torch.Tensor:
        """Compare images pairwise.

        Args:
            a: [N, 3, H, W], float, nominal range [-1, 1]; not [0, 1], which would flatter. One
                channel is repeated.
            b: As ``a``.
            checked: Refuse values outside [-1, 1]. Off by default: generators overshoot a little,
                and whether to clamp them first is the caller's choice.
        Returns:
            [N], float32, never negative.
        Raises:
            ShapeError: The shapes differ, are not [N, 1 or 3, H, W], or are too small.
            UsageError: ``checked``, and a value is outside [-1, 1].
        """
        self._check(a, b, checked)
        distance = torch.zeros(len(a), device=a.device)
        features = (self._features(as_colour(images)) for images in (a, b))
        stages = zip(*features, self._channel_weights, strict=True)
        for stage_a, stage_b, weight in stages:
            difference = (stage_a - stage_b).square().mean(dim=(2, 3))  # [N, C_k]
            # Not `difference @ weight`: autocast would round that product to bfloat16.
            distance = distance + (difference * weight).sum(dim=1)
        return distance

    def _features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Unit-length features per stage, in float32 under autocast too."""
        if self.resolution is not None and images.shape[2:] != (self.resolution,) * 2:
            size = (self.resolution, self.resolution)
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        return [lpips.normalize_tensor(stage.float()) for stage in self._stages(images)]

    def _check(self, a: torch.Tensor, b: torch.Tensor, checked: bool) -> None:
        if a.shape != b.shape or a.ndim != 4 or a.shape[1] not in SEEN:
            raise ShapeError(
                f"`{self.name}` needs two batches [N, 1 or 3, H, W], got {list(a.shape)} and "
                f"{list(b.shape)}",
                "it was trained on RGB; it does not exist for RGBA models",
            )
        side = self.resolution or min(a.shape[2:])
        if side < self.smallest_side:
            raise ShapeError(
                f"`{self.name}` needs images of at least {self.smallest_side} px, got {side}"
            )
        if checked:
            low = torch.minimum(a.min(), b.min()).item()
            high = torch.maximum(a.max(), b.max()).item()
            if not (low >= -1 - _RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):  # NaN too
                raise UsageError(
                    f"`{self.name}` needs images in [-1, 1], got [{low:.4g}, {high:.4g}]",
                    "scale uint8 images by x / 127.5 - 1; clamp what a generator overshoots",
                )


def load_perceptual(
    name: str,
    *,
    device: torch.device | str = "cpu",
    offline: bool = False,
    resolution: int | None = None,
    progress: Progress = silent,
) -> PerceptualDistance:
    """Load a perceptual distance with verified, frozen weights and test it once.

    Args:
        name: A row of ``PERCEPTUAL_DISTANCES``.
        resolution: Side that images are resized to; None keeps the network's own choice
            (LPIPS: as given; `effnet-lite0`: 128).
    Raises:
        UsageError: ``name`` is not in ``PERCEPTUAL_DISTANCES``.
        WeightsError: Its weights are missing or damaged, or fail the test.
        MissingDependencyError: The package that carries it is not installed.
    """
    if name not in PERCEPTUAL_DISTANCES:
        raise unknown_name("perceptual distance", name, PERCEPTUAL_DISTANCES)
    row = PERCEPTUAL_DISTANCES[name]
    distance = row.build(name, offline, progress)
    probe_distance(distance, KNOWN_DISTANCES.get(name))
    if resolution is not None:
        distance.resolution = resolution
    return distance.to(device)


def probe_distance(distance: PerceptualDistance, known: float | None = None) -> float:
    """Return the distance of the self-test's two images; see ``probe``.

    Raises:
        WeightsError: It is not the known one, or no positive number where none is known.
    """
    found = float(distance(*probe_images().split(1)))
    fits = found > 0 if known is None else abs(found / known - 1) < TOLERANCE
    if not (fits and found < float("inf")):
        expected = "a positive number" if known is None else known
        raise WeightsError(
            f"`{distance.name}` gives {found:.6g} for its test pair, expected {expected}",
            "its weights or the package that runs them are not the published ones",
        )
    return found


@dataclass(frozen=True)
class _LpipsTrunk:
    """A trunk of the `lpips` package and the two files that it consists of."""

    build: Callable[..., torch.nn.Module]
    weights: str  # the trunk's row in the cache's table
    linear_sha256: str  # of the version 0.1 channel weights that the package carries
    smallest_side: int


def _load_lpips(
    net: str, trunk: _LpipsTrunk, name: str, offline: bool, progress: Progress
) -> PerceptualDistance:
    path = weights_path(trunk.weights, offline=offline, progress=progress)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore", UserWarning)  # torchvision: `pretrained` is deprecated
        module = trunk.build(pretrained=False)
    # lpips calls torchvision's features.3.weight slice2.3.weight; the classifier is not used.
    names = {key.split(".", 1)[1]: key for key in module.state_dict()}
    heads = _load_linear(net, trunk)
    carried = WEIGHTS[trunk.weights].carried
    if carried is not None and carried.is_named_by(path):
        tensors, source = _carried_trunk(path, names, heads), carried.sha256
    else:
        tensors, source = _published_trunk(path), known_sha256(trunk.weights)
    load_strictly(module, {names.get(key, key): t for key, t in tensors.items()}, path)
    return PerceptualDistance(
        name,
        sha256=tensors_sha256(tensors),
        source=source,
        stages=torch.nn.Sequential(lpips.ScalingLayer(), module),
        channel_weights=heads,
        resolution=None,
        smallest_side=trunk.smallest_side,
    )


def _published_trunk(path: Path) -> dict[str, torch.Tensor]:
    """Read the convolutions of torchvision's file: layer → tensor, as "3.weight"."""
    return {
        key.removeprefix("features."): tensor
        for key, tensor in read_tensors(path).items()
        if key.startswith("features.")
    }


def _carried_trunk(
    path: Path, names: Iterable[str], heads: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Read the same from what a package carries, whose heads have to be those of `lpips`.

    Args:
        names: Of the network's tensors, in the order of its layers.
    """
    found = read_carried(path)
    if len(found.heads) != len(heads) or not all(map(torch.equal, found.heads, heads)):
        raise WeightsError(
            f"the heads in {path} are not those of LPIPS v0.1 in the package lpips",
            "another version of one of them is installed",
        )
    tensors = [tensor for conv in found.convs for tensor in conv]
    return dict(zip(names, tensors, strict=False))  # load_strictly tells what is missing


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return one hash of named tensors: names, types, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _load_linear(net: str, trunk: _LpipsTrunk) -> list[torch.Tensor]:
    """Read the version 0.1 channel weights that the package carries, one [C] per stage."""
    path = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    check_sha256(path, trunk.linear_sha256)
    tensors = read_tensors(path)
    return [tensors[f"lin{k}.model.1.weight"].flatten() for k in range(len(tensors))]


class _EffNetStages(torch.nn.Module):
    """The stages of EfficientNet-Lite0 as a module of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.network = effnet.EffNetLite0()

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self.network.stages(images)


def _load_effnet(name: str, offline: bool, progress: Progress) -> PerceptualDistance:
    """Five stages of EfficientNet-Lite0, all channels equal, averaged over stages."""
    widths = effnet.STAGE_WIDTHS
    return PerceptualDistance(
        name,
        sha256=effnet.SHA256,
        stages=_EffNetStages(),
        channel_weights=[torch.full((width,), 1 / len(widths)) for width in widths],
        resolution=_EFFNET_SIDE,
        smallest_side=1,
    )


@dataclass(frozen=True)
class PerceptualRow:
    """How to build a distance.

    Attributes:
        build: Loads its weights.
        smallest_side, resolution: See ``PerceptualDistance``; here, so that images are checked
            before weights are looked for.
    """

    build: Callable[[str, bool, Progress], PerceptualDistance]
    smallest_side: int
    resolution: int | None = None


_VGG = _LpipsTrunk(
    build=lpips.pretrained_networks.vgg16,
    weights="vgg16",
    linear_sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    smallest_side=16,
)
_ALEX = _LpipsTrunk(
    build=lpips.pretrained_networks.alexnet,
    weights="alexnet",
    linear_sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    smallest_side=31,
)
_SQUEEZE = _LpipsTrunk(
    build=lpips.pretrained_networks.squeezenet,
    weights="squeezenet1_1",
    linear_sha256="4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
    smallest_side=17,
)


def _lpips_row(net: str, trunk: _LpipsTrunk) -> PerceptualRow:
    return PerceptualRow(partial(_load_lpips, net, trunk), smallest_side=trunk.smallest_side)


PERCEPTUAL_DISTANCES: dict[str, PerceptualRow] = {
    "lpips-vgg": _lpips_row("vgg", _VGG),
    "lpips-alex": _lpips_row("alex", _ALEX),
    "lpips-squeeze": _lpips_row("squeeze", _SQUEEZE),
    "effnet-lite0": PerceptualRow(_load_effnet, smallest_side=1, resolution=_EFFNET_SIDE),
}


def check_side(
    what: str, name: str, side: int, *, resolution: int | None = None, way_out: str | None = None
) -> None:
    """Refuse images that are too small for a distance, before its weights are looked for.

    Args:
        what: Who needs the distance.
        name: A row of ``PERCEPTUAL_DISTANCES``.
        side: The shorter one of the model's images.
        resolution: As for ``load_perceptual``.
        way_out: What a hint offers.
    Raises:
        InputError: See above.
    """
    row = PERCEPTUAL_DISTANCES[name]
    seen = resolution or row.resolution or side
    if seen < row.smallest_side:
        raise InputError(
            f"{what} on {name} needs images of {row.smallest_side} px or more, it would see {seen}",
            way_out,
        )
