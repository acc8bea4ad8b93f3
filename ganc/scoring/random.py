"""Random scores: the baseline that every method has to beat."""

import torch
from torch import Tensor

from ganc import seeds
from ganc.scoring.scorer import State, WeightScorer


class Random(WeightScorer):
    """Score each channel with a uniform number in [0, 1) that depends on (seed, group) alone."""

    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        return {
            group.name: torch.from_numpy(
                seeds.generator(self.request.seed, f"random/{group.name}").random(group.width)
            )
            for group in self.groups
        }
