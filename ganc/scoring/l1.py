"""Weight magnitude: the L1 norm of the weights that consume a channel.

Source: Li et al. 2017, "Pruning Filters for Efficient ConvNets", Section 3.1, read on the consuming
side as the content-aware GAN compression code does (its "l1-out" baseline).
"""

import torch
from torch import Tensor

from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.models.network import ImageGenerator
from ganc.models.sampling import latent_inputs
from ganc.models.style import StyleGenerator
from ganc.scoring.read import per_channel
from ganc.scoring.request import ScoreRequest


def l1_out(model: Model, request: ScoreRequest) -> dict[str, Tensor]:
    """Sum |weight| over output channels and kernel, per channel of the main consumer.

    With ``request.effective`` the weights are taken as they act: modulated and demodulated by the
    styles of ``request.samples`` latents, averaged over them.

    Raises:
        UsageError: ``effective`` on a generator whose weights are not modulated.
    """
    generator = model.generator
    weights = effective_weights(generator, request) if request.effective else {
        name: parameter.detach() for name, parameter in generator.named_parameters()
    }  # fmt: skip
    scores = {}
    for group in generator.groups():
        rows = [
            per_channel(weights[part.tensor].abs().double(), part, group.width).sum(dim=1)
            for part in group.scored_by
        ]
        scores[group.name] = torch.stack(rows).mean(dim=0)
    return scores


@torch.no_grad()
def effective_weights(generator: ImageGenerator, request: ScoreRequest) -> dict[str, Tensor]:
    """Return the mean |modulated, demodulated weight| over latents, per layer: [O, I, K, K]."""
    if not isinstance(generator, StyleGenerator):
        raise UsageError("--effective needs modulated weights; this generator has none")
    means: dict[str, Tensor] = {}
    for start in range(0, request.samples, request.batch):
        indices = range(start, min(start + request.batch, request.samples))
        inputs = latent_inputs(generator, indices, request.seed, noise_mode="none")
        inputs = inputs.to(request.device)
        for name, weight in _modulated(generator, generator.mapping(inputs.z, inputs.c)).items():
            share = weight.abs().double().sum(dim=0) / request.samples
            means[name] = means.get(name, 0) + share
        request.progress("scoring", indices.stop, request.samples)
    return means


def _modulated(generator: StyleGenerator, ws: Tensor) -> dict[str, Tensor]:
    return {
        f"{name}.weight": layer.effective_weight(ws[:, index])
        for name, layer, index in generator.modulated_layers()
    }
