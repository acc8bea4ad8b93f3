"""Random scores: the baseline that every method has to beat."""

import torch
from torch import Tensor

from ganc import seeds
from ganc.models.model import Model
from ganc.scoring.request import ScoreRequest


def random(model: Model, request: ScoreRequest) -> dict[str, Tensor]:
    """Score each channel with a uniform number in [0, 1) that depends on (seed, group) alone."""
    return {
        group.name: torch.from_numpy(
            seeds.generator(request.seed, f"random/{group.name}").random(group.width)
        )
        for group in model.generator.groups()
    }
