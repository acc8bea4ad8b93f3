"""Channel groups: channels that live and die together.

A model declares its groups once, as plain data: which slices of which tensors belong to channel c
of a group. Scoring, plans, slicing, masking, budgets and counts work from that declaration and know
nothing else about an architecture.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ganc.errors import ShapeError, UsageError

Role = Literal["out", "in", "style"]
Keep = Mapping[str, Sequence[int]]
"""Group name → sorted indices of the channels that stay. A group that is absent stays whole."""


@dataclass(frozen=True)
class Slice:
    """The part of one tensor that belongs to a group's channels.

    Channel c owns ``repeat`` neighbouring indices of dimension ``dim``, from
    ``offset + c * repeat`` on.

    Args:
        tensor: Name of the tensor.
        dim: Dimension that the group's channels run along.
        role: "out" produces the channels, "in" consumes them (its weights decide what a channel is
            worth), "style" goes along with a consumer (the affine layer of a modulated weight, the
            vector v of a spectrally normalised one).
        offset: First index that belongs to the group (concatenations put several side by side).
        repeat: Indices per channel (a linear layer behind a flattened map has H·W).
        fan_in_gain: The layer divides by sqrt(fan-in) at run time, so the kept weights must shrink
            by sqrt(fan-in after / before) for its output to stay the same.
        spectral_norm: The layer divides by sigma = uᵀ W v at run time, of the vectors u and v that
            are stored as ``<tensor>_u`` and ``<tensor>_v``; u changes so that sigma does not.
    """

    tensor: str
    dim: int
    role: Role
    offset: int = 0
    repeat: int = 1
    fan_in_gain: bool = False
    spectral_norm: bool = False

    def indices(self, channels: Iterable[int]) -> list[int]:
        """Return the indices along ``dim`` that ``channels`` own."""
        return [
            self.offset + channel * self.repeat + part
            for channel in channels
            for part in range(self.repeat)
        ]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are scored, kept and removed together.

    Args:
        name: Public name (design: "b8.conv0", "discriminator.b8.conv0").
        width: Number of channels.
        slices: All parts of all tensors that the channels own.
        scored_by: The slices whose weights importance is read from: the main path's consumers.
        prunable: False where removing a channel changes the rest for good (the discriminator's last
            features before minibatch standard deviation, which averages over all of them).
    """

    name: str
    width: int
    slices: tuple[Slice, ...]
    scored_by: tuple[Slice, ...] = ()
    prunable: bool = True

    def prefixed(self, name: str, tensor: str) -> "ChannelGroup":
        """Return the group as seen from outside its network: names with prefixes."""

        def move(part: Slice) -> Slice:
            return replace(part, tensor=tensor + part.tensor)

        return replace(
            self,
            name=name + self.name,
            slices=tuple(map(move, self.slices)),
            scored_by=tuple(map(move, self.scored_by)),
        )


def widths_of(groups: Iterable[ChannelGroup]) -> dict[str, int]:
    """Return group name → width, in network order."""
    return {group.name: group.width for group in groups}


def check_groups(groups: Sequence[ChannelGroup], shapes: Mapping[str, Sequence[int]]) -> None:
    """Check a declaration against the tensors it speaks of.

    Raises:
        ShapeError: A slice names a tensor that is not there, or reaches past its end.
    """
    for group in groups:
        for part in group.slices:
            if part.tensor not in shapes:
                raise ShapeError(f"group {group.name}: no tensor {part.tensor}")
            size = shapes[part.tensor][part.dim]
            if part.offset + group.width * part.repeat > size:
                raise ShapeError(
                    f"group {group.name}: {part.tensor} has {size} entries in dimension {part.dim},"
                    f" the group needs {part.offset + group.width * part.repeat}"
                )


def _check_keep(groups: Sequence[ChannelGroup], keep: Keep) -> dict[str, list[int]]:
    by_name = {group.name: group for group in groups}
    for name, channels in keep.items():
        if name not in by_name:
            raise UsageError(f"the plan names group {name}, which the model does not have")
        group, chosen = by_name[name], list(channels)
        if not chosen:
            raise UsageError(f"group {name}: a plan must keep at least one channel, got none")
        if chosen != sorted(set(chosen)) or chosen[0] < 0 or chosen[-1] >= group.width:
            raise UsageError(
                f"group {name}: kept channels must be sorted, distinct and below {group.width}"
            )
        if not group.prunable and len(chosen) != group.width:
            raise UsageError(f"group {name} cannot be pruned")
    return {name: list(channels) for name, channels in keep.items()}


def slice_tensors(
    tensors: Mapping[str, Tensor], groups: Sequence[ChannelGroup], keep: Keep
) -> dict[str, Tensor]:
    """Remove channels from every tensor that owns a part of them.

    Args:
        tensors: All tensors of the networks that the groups speak of.
        groups: The declaration.
        keep: Channels that stay, per group.
    Returns:
        A new dict; tensors that lose nothing are the same objects, the others are contiguous
        copies, rescaled to keep fan-in gain and spectral norm.
    Raises:
        UsageError: ``keep`` names an unknown group, an empty selection or channels out of range.
    """
    keep = _check_keep(groups, keep)
    sliced = dict(tensors)
    gains: dict[str, float] = {}
    removed: dict[tuple[str, int], set[int]] = {}
    for group in groups:
        gone = sorted(set(range(group.width)) - set(keep.get(group.name, range(group.width))))
        for part in group.slices if gone else ():
            # Several groups may share a dimension (concatenations): collect, then cut once.
            removed.setdefault((part.tensor, part.dim), set()).update(part.indices(gone))
            if part.fan_in_gain:
                gains[part.tensor] = math.prod(tensors[part.tensor].shape[1:])
    for (name, dim), indices in removed.items():
        size = tensors[name].shape[dim]
        stay = torch.tensor([i for i in range(size) if i not in indices], dtype=torch.int64)
        sliced[name] = sliced[name].index_select(dim, stay.to(sliced[name].device)).contiguous()
    for name, fan_in in gains.items():
        sliced[name] = sliced[name] * math.sqrt(math.prod(sliced[name].shape[1:]) / fan_in)
    return sliced | _keep_sigma(tensors, sliced, groups)


def _keep_sigma(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], groups: Sequence[ChannelGroup]
) -> dict[str, Tensor]:
    """Return vectors u under which the spectrally normalised weights that changed keep sigma.

    u = sigma W v / |W v|²: the direction that a power iteration would give it, at the length that
    makes uᵀ W v the old sigma. In train mode the iteration normalises u, and sigma follows the
    weights that are left.

    Raises:
        UsageError: W v is zero, so that no u can do it.
    """
    parts = [part for group in groups for part in group.slices if part.spectral_norm]
    vectors = {}
    for name in dict.fromkeys(part.tensor for part in parts):
        if after[name] is before[name]:
            continue
        u, v = before[f"{name}_u"].double(), before[f"{name}_v"].double()
        sigma = u @ (before[name].double().flatten(1) @ v)
        image = after[name].double().flatten(1) @ after[f"{name}_v"].double()
        if not image.any():
            raise UsageError(f"{name}: the plan leaves nothing of its spectral norm")
        vectors[f"{name}_u"] = (sigma * image / image.square().sum()).to(before[f"{name}_u"].dtype)
    return vectors


def mask_consumers(
    tensors: Mapping[str, Tensor], groups: Sequence[ChannelGroup], keep: Keep
) -> dict[str, Tensor]:
    """Set the consumers' weights of the removed channels to zero, at full size.

    The model with these tensors gives the same images as the sliced one: the property that ties
    every family's declaration to its forward pass.
    """
    keep = _check_keep(groups, keep)
    gates = {}
    for group in groups:
        if group.name in keep:
            gates[group.name] = torch.zeros(group.width)
            gates[group.name][keep[group.name]] = 1.0
    return {**tensors, **gate_consumers(tensors, groups, gates)}


def gate_consumers(
    tensors: Mapping[str, Tensor], groups: Sequence[ChannelGroup], gates: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Multiply what consumes each channel by its gate: 1 leaves it, 0 removes it.

    A consumer reads a channel after norm and activation, so no norm can divide the gate out again,
    and with gates of 0 and 1 the model gives the images of the sliced one (``mask_consumers``).

    Args:
        gates: Group name → [width], on the tensors' device; differentiable. Groups without gates
            stay as they are.
    Returns:
        The tensors that change, of spectrally normalised ones the vector u as well.
    Raises:
        UsageError: All consumers of a spectrally normalised layer are closed.
    """
    factors: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        for part in group.slices if group.name in gates else ():
            if part.role != "in":
                continue
            # Several groups may share a dimension (concatenations): one product per tensor.
            place, tensor = (part.tensor, part.dim), tensors[part.tensor]
            gate = gates[group.name].to(tensor)
            if place not in factors:
                factors[place] = gate.new_ones(tensor.shape[part.dim])
            ahead = part.offset + group.width * part.repeat
            own = gate.repeat_interleave(part.repeat)
            pieces = [factors[place][: part.offset], own, factors[place][ahead:]]
            factors[place] = torch.cat(pieces)
    gated: dict[str, Tensor] = {}
    for (name, dim), factor in factors.items():
        tensor = gated.get(name, tensors[name])
        shape = [-1 if i == dim else 1 for i in range(tensor.ndim)]
        gated[name] = tensor * factor.reshape(shape)
    return gated | _keep_sigma(tensors, {**tensors, **gated}, groups)


def sliced_shapes(
    shapes: Mapping[str, Sequence[int]],
    groups: Sequence[ChannelGroup],
    widths: Mapping[str, int],
) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the tensors have at other group widths, without touching a tensor.

    Groups without a width keep theirs. Widths that are scalar tensors (sums of gates) give sizes
    that are, with gradient.
    """
    result = {name: list(shape) for name, shape in shapes.items()}
    for group in groups:
        if group.name not in widths:
            continue
        for part in group.slices:
            result[part.tensor][part.dim] -= (group.width - widths[group.name]) * part.repeat
    return {name: tuple(shape) for name, shape in result.items()}


def count_macs(shapes: Mapping[str, Sequence[int]], positions: Mapping[str, int]) -> int:
    """Count multiply-accumulates per image.

    Args:
        shapes: Shape of every tensor.
        positions: How often each weight is applied per image: the number of output pixels of a
            convolution (input pixels of a transposed one), 1 for a linear layer.
    """
    return sum(math.prod(shapes[name]) * count for name, count in positions.items())


def count_params(shapes: Mapping[str, Sequence[int]], parameters: Iterable[str]) -> int:
    """Count the numbers in the tensors that are parameters (not buffers)."""
    return sum(math.prod(shapes[name]) for name in parameters)
