"""Weight magnitude: the L1 norm of the weights that consume a channel.

Source: Li et al. 2017, "Pruning Filters for Efficient ConvNets", Section 3.1, read on the consuming
side as the content-aware GAN compression code does (its "l1-out" baseline).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.models.sampling import latent_inputs
from ganc.models.style import StyleGenerator
from ganc.scoring.read import per_channel
from ganc.scoring.request import ScoreRequest
from ganc.scoring.scorer import Scorer, State, batch_ranges


class L1Out(Scorer):
    """Sum |weight| over output channels and kernel, per channel of the main consumers.

    With ``request.effective`` the weights are taken as they act: modulated and demodulated by the
    styles of ``request.samples`` latents, averaged over them.

    Raises:
        UsageError: ``effective`` on a generator whose weights are not modulated.
    """

    def __init__(self, model: Model, request: ScoreRequest) -> None:
        super().__init__(model, request)
        if request.effective and not isinstance(self.generator, StyleGenerator):
            raise UsageError("--effective needs modulated weights; this generator has none")

    def batches(self) -> Sequence[range]:
        if not self.request.effective:
            return ()
        return batch_ranges(self.request.samples, self.request.batch)

    def empty(self) -> State:
        if not (self.request.effective and isinstance(self.generator, StyleGenerator)):
            return {}
        names = [f"{name}.weight" for name, *_ in self.generator.modulated_layers()]
        shapes = {name: self.generator.get_parameter(name).shape for name in names}
        return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}

    @torch.no_grad()
    def step(self, number: int, indices: range) -> State:
        assert isinstance(self.generator, StyleGenerator)
        inputs = latent_inputs(self.generator, indices, self.request.seed, noise_mode="none")
        inputs = inputs.to(self.request.device)
        ws = self.generator.mapping(inputs.z, inputs.c)
        return {
            f"{name}.weight": layer.effective_weight(ws[:, at]).abs().double().sum(dim=0).cpu()
            for name, layer, at in self.generator.modulated_layers()
        }

    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        weights = {name: summed / samples for name, summed in total.items()} or {
            name: parameter.detach() for name, parameter in self.generator.named_parameters()
        }
        scores = {}
        for group in self.groups:
            rows = [
                per_channel(weights[part.tensor].abs().double(), part, group.width).sum(dim=1)
                for part in group.scored_by
            ]
            scores[group.name] = torch.stack(rows).mean(dim=0)
        return scores
