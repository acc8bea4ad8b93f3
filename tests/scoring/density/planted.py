"""Redundancy that is planted: twice the channels, of which half do nothing, and the same images."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ganc.checkpoints.native import build_model
from ganc.groups import ChannelGroup, Slice
from ganc.models.model import Model
from ganc.pruning.slicing import with_widths
from ganc.scores import Scores


class Planted(NamedTuple):
    """A model that was widened.

    Attributes:
        model: Gives the images of the model before.
        live: Group name → the channels that do something; the others are read by zeros.
    """

    model: Model
    live: dict[str, set[int]]

    def share_found(self, scores: Scores, network: str) -> float:
        """Return which share of the channels of a network that the scores keep are live ones."""
        own = {group.name for group in getattr(self.model, network).groups()}
        prefix = "" if network == "generator" else f"{network}."
        kept = {
            name: set(torch.nonzero(values >= scores.thresholds[name]).flatten().tolist())
            for name, values in scores.values.items()
            if name in {prefix + group for group in own}
        }
        return sum(len(kept[n] & self.live[n]) for n in kept) / sum(map(len, kept.values()))


def plant(model: Model, seed: int = 0) -> Planted:
    """Add to every channel a dead one: made like it, of shuffled weights, and read by zeros."""
    random = torch.Generator().manual_seed(seed)
    tensors, live = dict(model.tensors()), {}
    grown: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for group in model.groups:
        # Position p holds channel order[p] of the live ones, followed by the dead ones.
        order = torch.randperm(2 * group.width, generator=random)
        live[group.name] = set(torch.nonzero(order < group.width).flatten().tolist())
        for part in group.slices:
            before = grown.setdefault((part.tensor, part.dim), [])
            offset = part.offset + sum(width for start, width in before if start < part.offset)
            tensors[part.tensor] = _widened(
                tensors[part.tensor], group, part, offset, order.tolist(), random
            )
            before.append((part.offset, group.width * part.repeat))
    config = with_widths(model.config, {group.name: 2 * group.width for group in model.groups})
    return Planted(build_model(model.architecture, config, tensors, []), live)


def _widened(
    tensor: Tensor,
    group: ChannelGroup,
    part: Slice,
    offset: int,
    order: Sequence[int],
    random: torch.Generator,
) -> Tensor:
    size = group.width * part.repeat
    own = tensor.narrow(part.dim, offset, size)
    shuffled = own.flatten()[torch.randperm(own.numel(), generator=random)].reshape(own.shape)
    dead = torch.zeros_like(own) if part.role == "in" else shuffled
    indices = torch.tensor([c * part.repeat + i for c in order for i in range(part.repeat)])
    both = torch.cat([own, dead], dim=part.dim).index_select(part.dim, indices)
    head = tensor.narrow(part.dim, 0, offset)
    tail = tensor.narrow(part.dim, offset + size, tensor.shape[part.dim] - offset - size)
    return torch.cat([head, both, tail], dim=part.dim)
