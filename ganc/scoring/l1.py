"""Weight magnitude: the L1 norm of the weights that make or consume a channel.

Source: Li et al. 2017, "Pruning Filters for Efficient ConvNets", Section 3.1, whose filters are the
making side ("l1-in"). The content-aware GAN compression code reads the consuming side ("l1-out").
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ganc.errors import UsageError
from ganc.groups import ChannelGroup, Slice
from ganc.models.model import Model
from ganc.models.sampling import latent_inputs
from ganc.models.style import StyleGenerator
from ganc.scoring.read import per_channel
from ganc.scoring.request import ScoreRequest
from ganc.scoring.scorer import State, WeightScorer, batch_ranges


class L1In(WeightScorer):
    """Sum |weight| over input channels and kernel, of the weights that make a channel.

    Where several make it together (the writers of a residual trunk, a shortcut), the mean over
    them. Biases and norms are no weights: only tensors of more than one dimension count.
    """

    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        return {group.name: self._norms(group) for group in self.groups}

    def _norms(self, group: ChannelGroup) -> Tensor:
        made = [
            (self.tensors[part.tensor], part)
            for part in group.slices
            if part.role == "out" and self.tensors[part.tensor].ndim > 1
        ]
        return torch.stack([l1_norms(w, part, group.width) for w, part in made]).mean(dim=0)


class L1Out(WeightScorer):
    """Sum |weight| over output channels and kernel, per channel of the main consumers.

    With ``request.effective`` the modulated weights are taken as they act: modulated and
    demodulated by the styles of ``request.samples`` latents, averaged over them.

    Raises:
        UsageError: ``effective`` on a generator whose weights are not modulated.
    """

    def __init__(self, model: Model, request: ScoreRequest) -> None:
        super().__init__(model, request)
        self.modulated: StyleGenerator | None = None
        if request.effective:
            if not isinstance(self.generator, StyleGenerator):
                raise UsageError("--effective needs modulated weights; this generator has none")
            self.modulated = self.generator

    def batches(self) -> Sequence[range]:
        if self.modulated is None:
            return ()
        return batch_ranges(self.request.samples, self.request.batch)

    def empty(self) -> State:
        if self.modulated is None:
            return {}
        names = [f"{self.network}.{name}.weight" for name, *_ in self.modulated.modulated_layers()]
        return {n: torch.zeros(self.tensors[n].shape, dtype=torch.float64) for n in names}

    @torch.no_grad()
    def step(self, number: int, indices: range) -> State:
        assert self.modulated is not None
        inputs = latent_inputs(self.modulated, indices, self.request.seed, noise_mode="none")
        inputs = inputs.to(self.request.device)
        ws = self.modulated.mapping(inputs.z, inputs.c)
        return {
            f"{self.network}.{name}.weight": layer.effective_weight(ws[:, at])
            .abs().double().sum(dim=0).cpu()
            for name, layer, at in self.modulated.modulated_layers()
        }  # fmt: skip

    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        weights = self.tensors | {name: summed / samples for name, summed in total.items()}
        scores = {}
        for group in self.groups:
            rows = [l1_norms(weights[part.tensor], part, group.width) for part in group.scored_by]
            scores[group.name] = torch.stack(rows).mean(dim=0)
        return scores


def l1_norms(weight: Tensor, part: Slice, width: int) -> Tensor:
    """Return the L1 norm of each channel's part of a weight: [width], float64, on the CPU."""
    return per_channel(weight.abs().double(), part, width).sum(dim=1).cpu()
