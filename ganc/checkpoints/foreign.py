"""What every reader of a foreign checkpoint is given and gives back."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ganc import seeds
from ganc.checkpoints.normalise import Found
from ganc.checkpoints.refusals import printable
from ganc.errors import CheckpointError, UsageError
from ganc.models.layers import RESAMPLE_FILTER, MappingNetwork
from ganc.models.model import check_tensors
from ganc.models.network import Network
from ganc.models.stylegan2 import generator_group_names

R = TypeVar("R")

_LARGEST_IMAGE = 4096  # side; a few small tensors of many blocks would ask for any memory

LR_MULTIPLIER = 0.01
"""Of StyleGAN2's and 3's mapping networks in every published configuration; no tensor shows it."""

W_AVG_SAMPLES = 10_000
W_AVG_COMPUTED = f"mean of {W_AVG_SAMPLES} mapped latents, seed 0"


class SettingError(UsageError):
    """What the user says of a checkpoint cannot be."""


@dataclass
class Conversion:
    """One network of a foreign checkpoint, and what had to be inferred to build it.

    Attributes:
        network: In eval mode, on the CPU.
        inferred: What the file does not say but its tensors show, and what is assumed, for the user
            to check.
        assumed: Names of config entries that the file does not show, so that the user may set them.
        settings: More for the provenance (a licence note, a training step).
    """

    network: Network
    inferred: dict[str, Any]
    assumed: frozenset[str] = frozenset()
    settings: dict[str, Any] = field(default_factory=dict)


class Layout(NamedTuple):
    """A model in a foreign layout, as a writer gives it back.

    Attributes:
        tree: Plain dicts of tensors.
        arguments: What the public code builds each network from, the nearest where its rule for
            widths cannot give ours.
        unfit_widths: Group → (its width, what the arguments give), where they differ: strict
            loading needs code that takes the widths of layers one by one.
        notes: What else the layout cannot hold.
    """

    tree: dict[str, Any]
    arguments: dict[str, Any]
    unfit_widths: dict[str, tuple[int, int]]
    notes: tuple[str, ...]


def best_rule(
    widths: Mapping[str, int], rules: Mapping[R, Mapping[str, int]]
) -> tuple[R, dict[str, tuple[int, int]]]:
    """Return the rule that gives the most of some widths, and those that it does not give.

    Args:
        widths: Group → channels.
        rules: Arguments of a rule → the widths that they give; the first of equals is taken.
    Returns:
        The arguments, and group → (its width, the rule's) where they differ.
    """
    differing = {
        chosen: {name: (n, given[name]) for name, n in widths.items() if n != given[name]}
        for chosen, given in rules.items()
    }
    best = min(differing, key=lambda chosen: len(differing[chosen]))
    return best, differing[best]


class Reader(NamedTuple):
    """How the networks of one foreign layout are recognised and converted.

    Attributes:
        about: Whose files these are, as the README says it.
        architectures: The families it may hold.
        recognises: The role of a network that is of this layout, "generator" or "discriminator";
            None of any other.
        convert: The conversion, given what the user says of it (``--set``); raises CheckpointError
            at the first name or size that does not fit.
        goes_by_names: Whether names decide. A reader that goes by shapes claims relatives too, so
            it is asked where no names are known, and what it cannot convert may be nothing of its.
    """

    about: str
    architectures: tuple[str, ...]
    recognises: Callable[[Found], str | None]
    convert: Callable[[Found, Mapping[str, Any]], Conversion]
    goes_by_names: bool = True


def as_float(name: str, tensor: Tensor) -> Tensor:
    """Return a weight in float32.

    Raises:
        CheckpointError: It holds no real numbers, or none at all.
    """
    if not tensor.numel():
        raise CheckpointError(f"{name} is empty: it has shape {list(tensor.shape)}")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise CheckpointError(f"{name} is a {tensor.layout} tensor, expected a dense one")
    is_counter = name.endswith("num_batches_tracked") and not tensor.is_complex()
    if not tensor.is_floating_point() and not is_counter:
        raise CheckpointError(f"{name} has the type {tensor.dtype}, expected real numbers")
    return tensor.float()


def describe(inferred: Mapping[str, Any]) -> str:
    """Return what was inferred, as the end of a line for a person."""
    shown = {name.replace("passed_over", "ignored"): value for name, value in inferred.items()}
    said = ", ".join(f"{name} = {value}" for name, value in shown.items())
    return said and f"; {said}"


def fill_noise(tensors: dict[str, Tensor], img_resolution: int, inferred: dict[str, Any]) -> None:
    """Draw the noise maps of a StyleGAN2 that was saved without them: that code makes them anew.

    Args:
        tensors: By our names; gains the maps.
        img_resolution: Of the generator.
        inferred: Gains a note.
    Raises:
        CheckpointError: Some are there and others are not.
    """
    if img_resolution > _LARGEST_IMAGE:
        raise CheckpointError(
            f"its blocks make images of {img_resolution} px, at most {_LARGEST_IMAGE} are read"
        )
    layers = generator_group_names(img_resolution)[1:]
    names = [f"synthesis.{layer}.noise_const" for layer in layers]
    missing = [name for name in names if name not in tensors]
    if missing and len(missing) < len(names):
        raise CheckpointError(f"{missing[0]} is missing, though other noise maps are there")
    if missing:
        sides = [int(layer.split(".")[0][1:]) for layer in layers]
        maps = seeds.noise_maps(0, "noise_const", range(1), [(side, side) for side in sides])
        tensors |= {name: noise[0] for name, noise in zip(names, maps, strict=True)}
        inferred["noise_maps"] = f"{len(names)} drawn from seed 0"


def mean_w(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tensor:
    """Return the mean of w over the latents of seed 0: [D_w], float32.

    Computed in float64: the checkpoint's content hash includes it and must not depend on the
    machine's order of summation.

    Raises:
        CheckpointError: The mapping network's tensors do not fit each other.
    """
    mapping = MappingNetwork(
        config["z_dim"], config["c_dim"], config["w_dim"], 1, **config["mapping_kwargs"]
    ).double()
    own = {k: t for k, t in tensors.items() if k.startswith("mapping.")}
    own["mapping.w_avg"] = mapping.w_avg
    check_tensors({f"mapping.{k}": tuple(t.shape) for k, t in mapping.state_dict().items()}, own)
    mapping.load_state_dict({k.removeprefix("mapping."): t for k, t in own.items()})
    z = seeds.normal(0, "w_avg", range(W_AVG_SAMPLES), (config["z_dim"],)).double()
    with torch.no_grad():
        return mapping(z)[:, 0].mean(dim=0).float()


def fir_taps(kernels: Sequence[Tensor]) -> list[float]:
    """Return the taps of the one blur kernel that a StyleGAN2 checkpoint stores many times.

    Args:
        kernels: [K, K] each, at any gain; none of them means the usual taps.
    Returns:
        Taps of sum 1; the usual ones as the integers that they are known by.
    Raises:
        CheckpointError: The kernels differ, or are not separable.
    """
    if not kernels:
        return list(RESAMPLE_FILTER)
    normal = [kernel / kernel.sum() for kernel in kernels]
    taps = normal[0].sum(dim=0)
    for kernel in normal:
        if kernel.shape != normal[0].shape or not torch.allclose(kernel, taps.outer(taps)):
            raise CheckpointError("its blur kernels differ, or are not separable")
    usual = torch.tensor(RESAMPLE_FILTER, dtype=taps.dtype)
    if taps.shape == usual.shape and torch.allclose(taps, usual / usual.sum()):
        return list(RESAMPLE_FILTER)
    return taps.tolist()


def assumed_number(settings: Mapping[str, Any], name: str, usual: float) -> float:
    """Return a number that no file records: what the user says, or what is usual.

    Raises:
        SettingError: The user's is not a finite number.
    """
    value = settings.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SettingError(f"--set {name}={printable(str(value))} is no number")
    return value


def assumed_taps(settings: Mapping[str, Any]) -> list[float]:
    """Return the FIR taps of a network that stores none: the user's, or the usual.

    Raises:
        SettingError: The user's are no list of numbers.
    """
    taps = settings.get("resample_filter", list(RESAMPLE_FILTER))
    is_list = isinstance(taps, list) and 0 < len(taps) <= 16
    if not is_list or not all(type(tap) in (int, float) for tap in taps):
        raise SettingError(
            f"--set resample_filter={printable(str(taps))} is not a list of numbers, such as"
            " [1,3,3,1]"
        )
    return taps


def as_assumed(settings: Mapping[str, Any], name: str, value: Any) -> str:
    """Say that a value is assumed, or that it is the user's."""
    return f"{value} (given)" if name in settings else f"{value} (assumed)"


def check_square(name: str, tensor: Tensor, side: int) -> None:
    """Check the map that a StyleGAN begins with: [..., side, side].

    Raises:
        CheckpointError: It is a rectangle, or of another size.
    """
    height, width = tensor.shape[-2:] if tensor.ndim > 1 else (0, 0)
    if height != width:
        raise CheckpointError(
            f"{name} is {height}x{width}: its images are not square",
            "only square images are supported: train on padded ones",
        )
    if height != side:
        raise CheckpointError(
            f"{name} is {height}x{width}: this generator does not start at {side}x{side}"
        )


def exported_history(tree: Any) -> list[dict[str, Any]]:
    """Return the provenance that ``ganc export`` wrote into a tree's JSON ``config``, if it did."""
    text = dict.get(tree, "config") if isinstance(tree, dict) else None
    try:
        described = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return []
    steps = described.get("provenance") if isinstance(described, dict) else None
    if not isinstance(steps, list):
        return []
    is_history = all(isinstance(s, dict) and isinstance(s.get("command"), str) for s in steps)
    return steps if is_history else []
