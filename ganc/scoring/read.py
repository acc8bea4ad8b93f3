"""Reading one number per channel off the weights that consume a group."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ganc.groups import ChannelGroup, Slice


def per_channel(values: Tensor, part: Slice, width: int) -> Tensor:
    """Arrange a tensor by the channels of one slice.

    Args:
        values: A tensor of the shape of ``part.tensor``.
        part: The slice.
        width: The group's width.
    Returns:
        [width, everything else].
    """
    own = values.narrow(part.dim, part.offset, width * part.repeat)
    return own.movedim(part.dim, 0).reshape(width, -1)


def mean_abs(tensors: Mapping[str, Tensor], group: ChannelGroup) -> Tensor:
    """Return the mean |value| per channel over the group's main consumers: [width], float64."""
    rows = [
        per_channel(tensors[part.tensor].abs().double(), part, group.width).mean(dim=1)
        for part in group.scored_by
    ]
    return torch.stack(rows).mean(dim=0)


def scored_tensors(groups: Sequence[ChannelGroup]) -> list[str]:
    """Return the tensors that importance is read from, each once."""
    return list(dict.fromkeys(part.tensor for group in groups for part in group.scored_by))
