"""What every reader of a foreign checkpoint gives back, and the table of readers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ganc.errors import CheckpointError
from ganc.models.network import Network
from ganc.models.stylegan2 import RESAMPLE_FILTER

R = TypeVar("R")


@dataclass
class Conversion:
    """The networks of a foreign checkpoint, and what had to be inferred to build them.

    Attributes:
        networks: By their name in ``Model`` ("generator", "discriminator", …).
        inferred: What the file does not say but its tensors show, for the user to check.
        settings: More for the provenance (a licence note, a training step).
    """

    networks: dict[str, Network]
    inferred: dict[str, Any]
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
    """How one foreign layout is recognised and converted.

    Attributes:
        architectures: The families it may hold.
        recognises: Whether an unpickled tree of plain containers and tensors is this layout.
        convert: The conversion; raises CheckpointError at the first key that does not fit.
    """

    architectures: tuple[str, ...]
    recognises: Callable[[Any], bool]
    convert: Callable[[Any], Conversion]


def is_state_dict(tree: Any) -> bool:
    """Whether ``tree`` maps names to tensors and nothing else."""
    return (
        isinstance(tree, Mapping)
        and bool(tree)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tree.items())
    )


def as_float(name: str, tensor: Tensor) -> Tensor:
    """Return a weight in float32.

    Raises:
        CheckpointError: It holds no real numbers, or none at all.
    """
    if not tensor.numel():
        raise CheckpointError(f"{name} is empty: it has shape {list(tensor.shape)}")
    if tensor.is_complex() or tensor.is_quantized:
        raise CheckpointError(f"{name} has the type {tensor.dtype}, expected real numbers")
    return tensor.float()


def describe(inferred: Mapping[str, Any]) -> str:
    """Return what was inferred as one line for a person."""
    return ", ".join(f"{name} {value}" for name, value in inferred.items()) or "nothing"


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


def exported_history(tree: Any) -> list[dict[str, Any]]:
    """Return the provenance that ``ganc export`` wrote into a tree's JSON ``config``, if it did."""
    text = tree.get("config") if isinstance(tree, Mapping) else None
    try:
        described = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return []
    steps = described.get("provenance") if isinstance(described, dict) else None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return []
    return steps
