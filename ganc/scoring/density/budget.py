"""From probabilities to a set of channels that meets a budget exactly."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ganc.errors import ComputationError, InputError
from ganc.scoring.density.gates import GatedNetwork


def budget_loss(macs: Tensor, target: float, form: str) -> Tensor:
    """Return how far a count is off its target: |log(macs / target)|, or from above alone.

    Source: the log-ratio penalties of the same authors' pruning work (Gao et al. 2021 on).
    """
    ratio = torch.log(macs / target)
    return ratio.abs() if form == "two-sided" else ratio.clamp(min=0)


def check_budget(network: GatedNetwork, name: str, target: float, floor: Mapping[str, int]) -> None:
    """Refuse a budget that no mask can meet.

    Raises:
        InputError: The narrowest network that is allowed costs more.
    """
    least = network.macs_at(floor)
    if least > target:
        raise InputError(
            f"no mask leaves the {name} {int(target)} MACs: at its least widths it has {least}",
            "ask for a smaller --set speedup (or a larger discriminator_macs), or lower"
            " min_width_share",
        )


def thresholds(
    network: GatedNetwork, values: Mapping[str, Tensor], target: float, floor: Mapping[str, int]
) -> dict[str, float]:
    """Return the least score that stays, per group: the largest network within a budget.

    One threshold for all groups, but that each keeps its ``floor`` best channels. Equal scores stay
    or go together.

    Args:
        values: Group name → scores [width].
        target: MACs at most; met by the floors (``check_budget``).
    Raises:
        ComputationError: So many scores are equal that no thresholds meet the target.
    """
    # The worst of a group's best channels: no threshold is above it.
    limits = {
        name: scores.sort(descending=True).values[floor[name] - 1].item()
        for name, scores in values.items()
    }

    def staying(cut: float) -> dict[str, Tensor]:
        return {name: scores[scores >= min(cut, limits[name])] for name, scores in values.items()}

    def cost(cut: float) -> Any:
        return network.macs_at({name: len(scores) for name, scores in staying(cut).items()})

    cuts = torch.cat(list(values.values())).unique().tolist()  # ascending
    cuts.append(math.inf)  # the floors alone
    if cost(math.inf) > target:
        raise ComputationError(
            "too many gates are alike for any threshold to meet the budget",
            "learn for longer: --set steps=N",
        )
    low, high = 0, len(cuts) - 1
    while low < high:  # fewer channels stay above a higher cut: find the first that fits
        middle = (low + high) // 2
        if cost(cuts[middle]) <= target:
            high = middle
        else:
            low = middle + 1
    return {name: scores.min().item() for name, scores in staying(cuts[low]).items()}
