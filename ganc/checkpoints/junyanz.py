"""Reader for pix2pix and CycleGAN networks: ``latest_net_*.pth`` of junyanz's code, and relatives.

Such a file is a bare state dict, of which projects and versions name and number the modules
differently. So names count for little here: the file's convolutions, with the norms behind them,
are laid beside those of our networks in the order they run, and every shape must agree.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ganc.checkpoints.foreign import Conversion, as_float
from ganc.checkpoints.normalise import Found, State
from ganc.errors import CheckpointError
from ganc.groups import ChannelGroup
from ganc.models.model import ARCHITECTURES, build_network
from ganc.models.network import Network
from ganc.models.translation import ConvLayer

ASSUMED_RESOLUTION = 256
"""Size at which networks that take any size are trained and compared; no file records it."""

ASSUMED = {
    "resnet_translator": {"img_resolution", "norm_statistics", "padding"},
    "unet_translator": {"img_resolution", "norm_statistics", "use_dropout"},
    "patchgan": {"img_resolution", "norm_statistics"},
}
"""What a file says nothing about."""

UNTRACKED = "norm.num_batches_tracked"
"""Batch norm's counter; nothing reads it."""

_RUNNING = ("running_mean", "running_var", "num_batches_tracked")
_NORM_PARTS = ("weight", "bias", *_RUNNING)
_CONV_PARTS = {"weight": "weight", "weight_orig": "weight", "bias": "bias",
               "weight_u": "weight_u", "weight_v": "weight_v"}  # fmt: skip
"""A convolution's tensors, spectrally normalised or not: the file's name → ours."""
_WEIGHTS = ("weight", "weight_orig")
_LONGEST_NUMBER = 9

LayerNames = dict[str, str]
"""One convolution and the norm behind it: our name of each tensor ("norm.bias") → the file's."""


@dataclass(frozen=True)
class Candidate:
    """A network that a file may hold.

    Attributes:
        architecture, role: Its row and column in the table of architectures.
        arguments: Its sizes; widths and norm are read off the layers.
    """

    architecture: str
    role: str
    arguments: dict[str, Any]

    def build(self, **arguments: Any) -> Network:
        """Build it without memory."""
        network_class = getattr(ARCHITECTURES[self.architecture], self.role)
        with torch.device("meta"):
            network: Network = network_class(**self.arguments, **arguments)
        return network


def recognises(found: Found) -> str | None:
    """Return the role of a network that may be of this layout, by its 7x7 or 4x4 convolutions.

    Claims relatives that ``convert`` refuses as well, so that the error can name what does not fit.
    """
    ordered = _ordered(found.state)
    weights = [t for name, t in ordered.items() if name.endswith(_WEIGHTS) and t.ndim == 4]
    kernels = {_kernel(weight) for weight in weights}
    if not (kernels & {4, 7} or kernels == {1}):
        return None
    is_judge = kernels == {1} or (7 not in kernels and len(weights[-1]) == 1)
    return "discriminator" if is_judge else "generator"


def _ordered(state: State) -> State:
    """Return a network's tensors in the order they run in.

    Modules run in the order of their numbers, whatever order a file lists them in (safetensors
    sorts by type and name); words, in the order in which they come first.
    """
    ranks: dict[tuple[str, ...], int] = {}

    def key(name: str) -> list[tuple[int, int]]:
        path = name.split(".")
        return [
            (0, int(part)) if part.isdecimal() and len(part) < _LONGEST_NUMBER
            else (1, ranks.setdefault(tuple(path[: depth + 1]), len(ranks)))
            for depth, part in enumerate(path)
        ]  # fmt: skip

    keys = {name: key(name) for name in state}
    return {name: state[name] for name in sorted(state, key=keys.__getitem__)}


def convert(found: Found, settings: Mapping[str, Any]) -> Conversion:
    """Build a recognised network.

    Raises:
        CheckpointError: A tensor does not fit; the message names the first, and what was expected.
    """
    state = _ordered(found.state)
    layers = layers_of(state)
    findings = []
    for candidate in candidates_of(state, layers):
        try:
            return _convert(candidate, state, layers, settings)
        except CheckpointError as error:
            findings.append(error)
    raise findings[0]


def layers_of(state: State) -> list[LayerNames]:
    """Read the convolutions, each with the norm behind it, in the order they run.

    Raises:
        CheckpointError: A tensor is neither a convolution's nor a norm's.
    """
    layers: list[LayerNames] = []
    for parts in _modules(state):
        is_conv = any(state[parts[part]].ndim == 4 for part in _WEIGHTS if part in parts)
        for part, key in parts.items():
            _check_part(part, key, state[key], is_conv=is_conv)
        if is_conv:
            _check_spectral(parts)
            if "weight_orig" in parts:  # beside it early versions kept the normalised weight
                parts.pop("weight", None)
            layers.append({f"conv.{_CONV_PARTS[part]}": key for part, key in parts.items()})
            continue
        first = next(iter(parts.values()))
        if not layers or any(ours.startswith("norm.") for ours in layers[-1]):
            raise CheckpointError(f"{first} does not fit: expected a convolution before this norm")
        layers[-1] |= {f"norm.{part}": key for part, key in parts.items()}
    return layers


def _modules(state: State) -> list[dict[str, str]]:
    """Return each module's tensors: its name for it ("weight") → key."""
    modules: dict[str, dict[str, str]] = {}
    for key in state:
        module, _, part = key.rpartition(".")
        modules.setdefault(module, {})[part] = key
    return list(modules.values())


def _check_part(part: str, key: str, tensor: Tensor, *, is_conv: bool) -> None:
    if part not in (_CONV_PARTS if is_conv else _NORM_PARTS):
        raise CheckpointError(
            f"{key} does not fit: expected a convolution's weight and bias, or a norm's"
        )
    if (
        not tensor.numel()
        or (tensor.ndim > 1 and part not in _WEIGHTS)
        or (tensor.ndim > 1 and not is_conv)
    ):
        raise CheckpointError(
            f"{key} has shape {_shape(tensor)}, expected a convolution's [C, C, K, K] or a norm's"
            " [C]"
        )


def _check_spectral(parts: Mapping[str, str]) -> None:
    """Refuse a spectrally normalised weight without the vectors that say what divides it."""
    spectral = [part for part in ("weight_orig", "weight_u", "weight_v") if part in parts]
    if 0 < len(spectral) < 3:
        raise CheckpointError(
            f"{parts[spectral[0]]} does not fit: expected weight_orig, weight_u and weight_v of a"
            f" spectral norm, got {', '.join(spectral)} alone"
        )


def candidates_of(state: State, layers: list[LayerNames]) -> list[Candidate]:
    """Return what the file may hold, the likeliest first.

    Raises:
        CheckpointError: It has too few convolutions for any, or those of a pixel discriminator.
    """
    weights = {layer["conv.weight"]: state[layer["conv.weight"]] for layer in layers}
    kernels = [_kernel(weight) for weight in weights.values()]
    last, last_weight = list(weights.items())[-1]
    if set(kernels) == {1}:
        raise CheckpointError(
            f"{last} is a 1x1 convolution: pixel discriminators are not supported",
            "expected a patch discriminator, whose convolutions are 4x4",
        )
    # The first and last convolution of a ResNet are 7x7; a discriminator ends in one logit.
    kernel, least, make = (
        (3, 2, _resnets) if 7 in kernels
        else (4, 3, _patchgan) if len(last_weight) == 1
        else (4, 4, _unet)
    )  # fmt: skip
    names = [name for name, weight in weights.items() if _kernel(weight) == kernel]
    if len(names) < least:
        raise CheckpointError(
            f"it ends with {last}: expected at least {least} {kernel}x{kernel} convolutions,"
            f" got {len(names)}"
        )
    return make(list(weights.values()), names)


def _resnets(weights: list[Tensor], names: list[str]) -> list[Candidate]:
    """Return every split of the 3x3 convolutions into downsampling, blocks and upsampling.

    Where widths are equal, shapes cannot tell a block's convolution from one that downsamples. In
    all known layouts the blocks' names are nested deeper; where they show nothing, two
    downsamplings come first, as published.
    """
    depths = [name.count(".") for name in names]
    nested = [i for i, depth in enumerate(depths) if depth > min(depths)]
    halves = len(names) // 2
    return [
        Candidate(
            "resnet_translator",
            "generator",
            {
                "in_channels": weights[0].shape[1],
                "img_channels": weights[-1].shape[0],
                "img_resolution": max(ASSUMED_RESOLUTION, 2**num_downsampling),
                "num_blocks": halves - num_downsampling,
                "num_downsampling": num_downsampling,
                "use_dropout": _has_dropout_slot(names[num_downsampling:]),
            },
        )
        for num_downsampling in dict.fromkeys([*nested[:1], 2, *range(1, halves + 1)])
        if 1 <= num_downsampling <= halves
    ]


def _has_dropout_slot(block: list[str]) -> bool:
    """Whether the numbers of a block's two convolutions leave room for a dropout layer.

    Reflection, convolution, norm, ReLU, (dropout,) reflection, convolution.

    Raises:
        CheckpointError: They leave none for the reflections: the block pads with zeros.
    """
    names = [re.fullmatch(r"(.*\.)?(\d+)\.weight", name) for name in block[:2]]
    if len(names) < 2 or not (names[0] and names[1]) or names[0][1] != names[1][1]:
        return False
    first, second = int(names[0][2]), int(names[1][2])
    if first == 0:
        raise CheckpointError(
            f"{block[0]} does not fit: nothing comes before it that pads, expected a reflection",
            "blocks that pad with zeros are not supported",
        )
    return second - first == 5


def _unet(weights: list[Tensor], names: list[str]) -> list[Candidate]:
    num_downs = len(names) // 2
    arguments = {
        "in_channels": weights[0].shape[1],
        "img_channels": weights[-1].shape[1],
        "num_downs": num_downs,
        "img_resolution": 2**num_downs,
    }
    return [Candidate("unet_translator", "generator", arguments)]


def _patchgan(weights: list[Tensor], names: list[str]) -> list[Candidate]:
    num_layers = len(names) - 2
    arguments = {
        "in_channels": weights[0].shape[1],
        "img_resolution": max(ASSUMED_RESOLUTION, 4 * 2**num_layers),
        "num_layers": num_layers,
    }
    return [Candidate("patchgan", "discriminator", arguments)]


def _convert(
    candidate: Candidate, state: State, layers: list[LayerNames], settings: Mapping[str, Any]
) -> Conversion:
    """Lay the layers beside a candidate's.

    Raises:
        CheckpointError: The first that does not fit.
    """
    skeleton = candidate.build(norm="batch")
    slots = [name for name, part in skeleton.named_modules() if isinstance(part, ConvLayer)]
    if len(layers) < len(slots):
        raise CheckpointError(
            f"it ends with {layers[-1]['conv.weight']}, the convolution {len(layers)} of at least"
            f" {len(slots)} that a {candidate.architecture} has"
        )
    laid = dict(zip(slots, layers, strict=False))
    normed = next(n for n in slots if skeleton.get_submodule(n).get_submodule("norm").state_dict())
    spectral = [slot for slot, layer in laid.items() if "conv.weight_u" in layer]
    arguments = norm_arguments(laid[normed], is_spectral=bool(spectral))
    _check_norm(laid[normed], arguments, settings)
    if spectral and candidate.architecture != "patchgan":
        raise CheckpointError(
            f"{laid[spectral[0]]['conv.weight']} is spectrally normalised, which a"
            f" {candidate.architecture} is not known to be"
        )
    if spectral:
        arguments["spectral_norm"] = spectral
    widths = {group.name: _width(group, laid, state) for group in skeleton.groups()}
    network = candidate.build(widths=widths, **arguments)
    tensors: dict[str, Tensor] = {}
    for slot, layer in laid.items():
        tensors |= _fit(network, slot, layer, state)
    if len(layers) > len(slots):
        key = layers[len(slots)]["conv.weight"]
        raise CheckpointError(f"{key} does not fit: the {candidate.architecture} ends before it")
    if candidate.architecture == "patchgan":
        _check_numbers([layer["conv.weight"] for layer in layers])
    built = build_network(candidate.architecture, candidate.role, network.config, tensors)
    assumed = _assumed(built, layers)
    return Conversion(built, _inferred(built, layers, assumed), frozenset(assumed - {"padding"}))


def norm_arguments(layer: LayerNames, *, is_spectral: bool = False) -> dict[str, Any]:
    """Return which norm a layer has, by our networks' arguments.

    Running averages without a weight are what instance norm stored until 2018 and never used.
    Without any tensor of a norm the bias tells: these projects give one to a convolution before
    instance norm only. In spectrally normalised networks, whose convolutions mostly stand alone, it
    is the other way round: the bias is left out where an instance norm would take it away.
    """
    is_affine, has_bias = "norm.weight" in layer, "conv.bias" in layer
    has_running = "norm.running_mean" in layer
    is_batch = is_affine and has_running
    is_instance = is_affine or has_running or has_bias != is_spectral
    norm = "batch" if is_batch else "instance" if is_instance else "none"
    return {"norm": norm, "norm_affine": is_affine, "bias": has_bias}


def _check_norm(
    layer: LayerNames, arguments: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Refuse batch norm that was saved without its running averages, as ``parameters()`` are.

    These projects leave the bias out in front of batch norm alone, so its absence tells.

    Raises:
        CheckpointError: It is, and the user does not say that it is instance norm.
    """
    is_alike = arguments["norm"] == "instance" and arguments["norm_affine"]
    if is_alike and not arguments["bias"] and settings.get("norm") != "instance":
        raise CheckpointError(
            f"{layer['norm.weight']} comes without running_mean and running_var, expected"
            " both: batch norm that was saved without its buffers",
            "save the network's whole state_dict(); of instance norm, pass --set norm=instance",
        )


def _check_numbers(names: Sequence[str]) -> None:
    """Refuse a discriminator with something before its last convolution that has no tensors.

    Convolution, norm, leaky ReLU: its numbers are at most three apart. A padding in between moves
    them, and every logit.

    Raises:
        CheckpointError: They are farther apart.
    """
    numbers = [re.fullmatch(r"(?:.*\.)?(\d+)\.weight(?:_orig)?", name) for name in names]
    for before, after in itertools.pairwise(numbers):
        if before and after and int(after[1]) - int(before[1]) > 3:
            raise CheckpointError(
                f"{after[0]} does not fit: a layer without tensors, such as a padding, stands"
                " before it, expected none"
            )


def _width(group: ChannelGroup, laid: Mapping[str, LayerNames], state: State) -> int:
    """Return a group's width: the output channels of the first layer that makes it."""
    made = group.slices[0]
    weight = state[laid[made.tensor.removesuffix(".conv.weight")]["conv.weight"]]
    return weight.shape[made.dim]


def _fit(network: Network, slot: str, layer: LayerNames, state: State) -> dict[str, Tensor]:
    """Return one layer's tensors by our names.

    Raises:
        CheckpointError: The first that is too many, missing, or of another shape.
    """
    ours = network.get_submodule(slot)
    assert isinstance(ours, ConvLayer)
    shapes = {name: list(tensor.shape) for name, tensor in ours.state_dict().items()}
    where = f"{slot}, a {'transposed ' if ours.out_dim else ''}convolution"
    kept = {part: key for part, key in layer.items() if not is_old_buffer(part, layer)}
    for part, key in kept.items():
        if part not in shapes:
            raise CheckpointError(f"{key} does not fit: expected no {part} in {where}")
        if _shape(state[key]) != shapes[part]:
            raise CheckpointError(
                f"{key} has shape {_shape(state[key])}, expected {shapes[part]} ({where})"
            )
    for part in [part for part in shapes if part not in kept]:
        raise CheckpointError(
            f"{layer['conv.weight']} comes without a {part}, expected {shapes[part]} ({where})"
        )
    tensors = {part: as_float(key, state[key]) for part, key in kept.items()}
    if UNTRACKED in shapes:
        tensors[UNTRACKED] = tensors[UNTRACKED].to(torch.int64)
    return {f"{slot}.{part}": tensor for part, tensor in tensors.items()}


def is_old_buffer(part: str, layer: LayerNames) -> bool:
    """Whether a tensor is a running average that instance norm stored until 2018, never used."""
    return part.removeprefix("norm.") in _RUNNING and "norm.weight" not in layer


def _assumed(network: Network, layers: list[LayerNames]) -> set[str]:
    """Return the names of what the file does not show."""
    has_norms = any(part.startswith("norm.") for layer in layers for part in layer)
    has_averages = any("norm.running_var" in layer for layer in layers)
    is_guess = network.config.get("spectral_norm") and not has_norms
    is_given = has_norms and not has_averages and not network.config["bias"]
    return ASSUMED[network.architecture] | ({"norm"} if is_guess or is_given else set())


def _inferred(network: Network, layers: list[LayerNames], assumed: set[str]) -> dict[str, Any]:
    """Say what the file does not, for the user to check."""
    inferred = {k: v for k, v in network.config.items() if k != "widths"}
    if inferred["norm"] != "batch":
        del inferred["norm_statistics"]  # instance norm has no choice
    if network.architecture == "resnet_translator":
        inferred["padding"] = "reflect"
    for name in inferred.keys() & assumed:
        inferred[name] = f"{inferred[name]} (assumed)"
    dropped = sum(is_old_buffer(part, layer) for layer in layers for part in layer)
    if dropped:
        inferred["dropped"] = f"{dropped} buffers of instance norms, which are never used"
    return {"architecture": network.architecture, **inferred}


def _kernel(tensor: Tensor) -> int | None:
    """Return the side of a convolution's kernel, None of anything else."""
    is_kernel = tensor.ndim == 4 and tensor.shape[2] == tensor.shape[3]
    return tensor.shape[2] if is_kernel else None


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
