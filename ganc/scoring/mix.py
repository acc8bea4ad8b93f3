"""A mix of methods: weighted ranks.

Methods measure in units that cannot be compared, so each is replaced by its ranks within a group
before the weights mean anything.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ganc.errors import UsageError
from ganc.scores import Scores


class Share(NamedTuple):
    """One method's part in a mix."""

    weight: float
    scores: Scores


def parse_mix(method: str) -> dict[str, float]:
    """Read "diversity:0.7,content:0.3" into name → weight; a name alone weighs 1.

    Raises:
        UsageError: A weight is no positive number, or a method is named twice.
    """
    weights: dict[str, float] = {}
    for part in method.split(","):
        name, colon, text = part.strip().partition(":")
        try:
            weight = float(text) if colon else 1.0
        except ValueError:
            weight = math.nan
        if not (weight > 0 and math.isfinite(weight)):
            raise UsageError(
                f"--method {method}: the weight of {name} is `{text}`, allowed is a number above 0",
                "a mix reads diversity:0.7,content:0.3",
            )
        if name in weights:
            raise UsageError(f"--method {method} names {name} twice")
        weights[name] = weight
    return weights


def mixed(method: str, shares: Sequence[Share]) -> Scores:
    """Add up the normalised ranks of several scores of one model, by weight.

    Returns:
        Scores in [0, 1] of the groups that all of them have; their settings lie under the methods'
        names.
    """
    total = sum(share.weight for share in shares)
    first, *others = (share.scores for share in shares)
    groups = [name for name in first.keys() if all(name in s.values for s in others)]  # noqa: SIM118
    values = {
        name: sum(
            (share.weight / total * normalised_ranks(share.scores[name]) for share in shares),
            torch.zeros(()),
        )
        for name in groups
    }
    settings = {
        share.scores.method: {"weight": share.weight, **share.scores.settings} for share in shares
    }
    sampled = {share.scores.settings["samples"] for share in shares} - {0}
    samples = max(sampled, default=0)
    return Scores(values, method, {"samples": samples, "mix": settings}, first.content_hash)


def normalised_ranks(values: Tensor) -> Tensor:
    """Return ranks from 0 (lowest) to 1, equal scores sharing their mean rank: [width], float64.

    A group of one channel, or of equal scores, gets one half.
    """
    below = (values[:, None] > values[None, :]).sum(dim=1).double()
    equal = (values[:, None] == values[None, :]).sum(dim=1).double()
    if len(values) == 1:
        return torch.full((1,), 0.5, dtype=torch.float64)
    return (below + (equal - 1) / 2) / (len(values) - 1)
