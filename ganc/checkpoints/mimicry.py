"""Reader for SN-GAN checkpoints in the layout of kwotsin/mimicry.

Takes networks whose layers have other widths as well. A network of its other families, whose blocks
look alike, is refused at the first name that differs.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ganc.checkpoints.foreign import Conversion, as_float
from ganc.checkpoints.normalise import Found
from ganc.errors import CheckpointError
from ganc.models import sngan
from ganc.models.model import build_network

_Config = dict[str, Any]
_Names = list[tuple[str, str]]
"""Pairs of a regular expression for the layout's names and the template of ours."""

_CONV = "weight|bias"
_NORM = "weight|bias|running_mean|running_var|num_batches_tracked"
_SPECTRAL = "weight_orig|weight_u|weight_v|bias"

# The last layer per resolution. At 48 px its number is that of the block before, and nothing else
# in the file tells that discriminator from the one at 64 px.
_HEADS = {32: "l5", 48: "l5", 64: "l6", 128: "l7"}


def recognises(found: Found) -> str | None:
    """Return the role of a network in this layout."""
    if not _has(found.state, r"block2\.c1\."):
        return None
    if _has(found.state, r"l1\."):
        return "generator"
    return "discriminator" if _has(found.state, r"block1\.c1\.") else None


def convert(found: Found, given: Mapping[str, Any]) -> Conversion:
    """Build a recognised network. Its tensors say everything: no setting is assumed.

    Raises:
        CheckpointError: A tensor's name or shape does not fit; the message names the first.
    """
    role = recognises(found)
    convert_one = convert_generator if role == "generator" else convert_discriminator
    config, tensors = convert_one(found.state)
    inferred = {name: value for name, value in config.items() if name != "widths"}
    step = found.beside.get("global_step")
    network = build_network("sngan", str(role), config, tensors)
    settings = {"global_step": step} if isinstance(step, int) else {}
    return Conversion(network, inferred, settings=settings)


def convert_generator(state: Mapping[str, Tensor]) -> tuple[_Config, dict[str, Tensor]]:
    """Return config and tensors of our generator.

    Raises:
        CheckpointError: A name or size does not fit.
    """
    num_blocks = _count_blocks(state)
    last = num_blocks + 2  # layers are numbered through: l1, block2, …, b5, c5
    names = [
        (rf"l1\.({_CONV})", r"stem.\1"),
        (rf"(block\d+)\.c([12])\.({_CONV})", r"\1.conv\2.\3"),
        (rf"(block\d+)\.c_sc\.({_CONV})", r"\1.skip.\2"),
        (rf"(block\d+)\.b([12])\.({_NORM})", r"\1.norm\2.\3"),
        (rf"b{last}\.({_NORM})", r"norm.\1"),
        (rf"c{last}\.({_CONV})", r"torgb.\1"),
    ]
    tensors = _rename(state, names, "generator")
    rows, stem = _size(tensors, "stem.weight", 0), _size(tensors, "block2.norm1.weight", 0)
    bottom_width = math.isqrt(rows // stem)
    if bottom_width**2 * stem != rows:
        raise CheckpointError(f"generator: l1 has {rows} rows, no square map for {stem} channels")
    img_resolution = bottom_width << num_blocks
    plan = sngan.PLANS.get(img_resolution)
    if plan is None or plan.bottom_width != bottom_width:
        known = ", ".join(f"{p.bottom_width} and {side}" for side, p in sngan.PLANS.items())
        raise CheckpointError(
            f"generator: begins at {bottom_width} px and makes {img_resolution} px, no SN-GAN of"
            f" mimicry's does that; known: {known}"
        )
    _, *groups = sngan.generator_group_names(img_resolution, bottom_width)
    config = {
        "z_dim": _size(tensors, "stem.weight", 1),
        "img_resolution": img_resolution,
        "img_channels": _size(tensors, "torgb.weight", 0),
        "bottom_width": bottom_width,
        "widths": {"stem": stem, **_widths(tensors, groups)},
    }
    return config, tensors


def convert_discriminator(state: Mapping[str, Tensor]) -> tuple[_Config, dict[str, Tensor]]:
    """Return config and tensors of our discriminator.

    Raises:
        CheckpointError: A name or size does not fit.
    """
    img_resolution = _resolution(state)
    names = [
        (rf"(block\d+)\.c([12])\.({_SPECTRAL})", r"\1.conv\2.\3"),
        (rf"(block\d+)\.c_sc\.({_SPECTRAL})", r"\1.skip.\2"),
        (rf"{_HEADS[img_resolution]}\.({_SPECTRAL})", r"out.\1"),
    ]
    tensors = _rename(state, names, "discriminator")
    config = {
        "img_resolution": img_resolution,
        "img_channels": _size(tensors, "block1.conv1.weight", 1),
        "widths": _widths(tensors, sngan.discriminator_widths(img_resolution)),
    }
    return config, tensors


def _resolution(state: Mapping[str, Tensor]) -> int:
    """Return the resolution whose discriminator has these blocks, shortcuts and last layer.

    Raises:
        CheckpointError: There is none.
    """
    blocks = [f"block{i}" for i in range(1, _count_blocks(state) + 1)]
    shortcuts = [_has(state, rf"{block}\.c_sc\.") for block in blocks]
    for resolution, plan in sngan.PLANS.items():
        is_alike = [step != "same" for step in plan.steps] == shortcuts
        if is_alike and _has(state, rf"{_HEADS[resolution]}\."):
            return resolution
    found = [block for block, is_there in zip(blocks, shortcuts, strict=True) if is_there]
    raise CheckpointError(
        f"discriminator: {len(blocks)} blocks, {', '.join(found) or 'none'} with a shortcut"
        f" convolution, are no SN-GAN of {', '.join(map(str, sngan.PLANS))} px"
    )


def _has(names: Iterable[str], start: str) -> bool:
    return any(re.match(start, name) for name in names)


def _count_blocks(names: Iterable[str]) -> int:
    return len({match[0] for name in names if (match := re.match(r"block\d+\.", name))})


def _rename(state: Mapping[str, Tensor], names: _Names, what: str) -> dict[str, Tensor]:
    """Translate every name; all but the counters become float32."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, template in names:
            if match := re.fullmatch(pattern, name):
                is_counter = name.endswith("num_batches_tracked")
                ours = match.expand(template).removesuffix("_orig")
                real = as_float(name, tensor)
                renamed[ours] = real.long() if is_counter else real
                break
        else:
            raise CheckpointError(f"{what}: {name} does not fit mimicry's SN-GAN layout")
    return renamed


def _widths(tensors: Mapping[str, Tensor], groups: Iterable[str]) -> dict[str, int]:
    return {group: _size(tensors, f"{group}.bias", 0) for group in groups}


def _size(tensors: Mapping[str, Tensor], name: str, dim: int) -> int:
    """Return one size of a tensor.

    Raises:
        CheckpointError: It is not there, or has no such size.
    """
    if name not in tensors:
        raise CheckpointError(f"{name} is missing")
    shape = tuple(tensors[name].shape)
    if len(shape) <= dim or 0 in shape:
        raise CheckpointError(f"{name} has shape {shape}, which no layer has")
    return shape[dim]
