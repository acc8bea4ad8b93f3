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
    rows = [_mean_abs(tensors[part.tensor], part, group.width) for part in group.scored_by]
    return torch.stack(rows).mean(dim=0)


def _mean_abs(values: Tensor, part: Slice, width: int) -> Tensor:
    """Reduce all but a slice's channels in one pass: ``per_channel`` would copy."""
    own = values.narrow(part.dim, part.offset, width * part.repeat).abs()
    split = own.unflatten(part.dim, (width, part.repeat))
    others = [dim for dim in range(split.ndim) if dim != part.dim]
    return split.mean(dim=others, dtype=torch.float64)


def scored_tensors(groups: Sequence[ChannelGroup]) -> list[str]:
    """Return the tensors that importance is read from, each once."""
    return list(dict.fromkeys(part.tensor for group in groups for part in group.scored_by))
