"""Which channels the others can be rebuilt from: scores for a model that is fitted after pruning.

Source of the idea: He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks",
Section 3.1, who keep the channels from which least squares rebuilds a layer's output best, and find
them with the lasso. Ours are picked greedily, so that one ranking serves every width.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ganc import seeds
from ganc.groups import ChannelGroup, Slice
from ganc.models.model import Model
from ganc.models.sampling import latent_inputs
from ganc.models.style import StyleGenerator
from ganc.scoring.features import FeatureScorer
from ganc.scoring.read import per_channel
from ganc.scoring.request import ScoreRequest
from ganc.scoring.scorer import State

PIXELS = 64
"""Of a sample that are looked at: neighbours tell little that is new."""
RIDGE = 1e-6
"""Share of a channel's power that nothing can rebuild: keeps what is left above rounding."""


class Rebuild(FeatureScorer):
    """The share of what all consumers read that is still missing when a channel is picked.

    Channels are picked one by one, each time the one after which the outputs of the layers that
    read the group can be rebuilt best from all that were picked. Every layer that reads them
    counts the same, shortcuts and toRGB included, for all of them will miss what is gone; so does
    every output channel of a layer, whose scale a norm or demodulation mostly takes away.

    The sums are the second moments of what each of those layers reads, [width, width], at
    ``PIXELS`` pixels of each sample; the positions of a kernel are looked at one by one.
    """

    def __init__(self, model: Model, request: ScoreRequest) -> None:
        super().__init__(model, request)
        self.groups = tuple(replace(group, scored_by=_readers(group)) for group in self.groups)

    def empty(self) -> State:
        return {
            _name(group, consumer): torch.zeros(
                group.width, group.width, dtype=torch.float64, device=self.request.device
            )
            for group in self.groups
            for consumer in range(len(group.scored_by))
        }

    def add(self, total: State, number: int, indices: range) -> None:
        styles = self._styles(indices)
        chosen: dict[tuple[int, int], Tensor] = {}

        def visit(group: ChannelGroup, consumer: int, place: int, feature: Tensor) -> None:
            key = (place, feature.shape[1])
            if key not in chosen:
                chosen[key] = self._pixels(indices[place], feature)
            read = feature[:, chosen[key]].double()
            scale = styles.get(group.scored_by[consumer].tensor)
            if scale is not None:
                read *= scale[place][:, None]
            total[_name(group, consumer)].addmm_(read, read.T)

        self.read(indices, visit)

    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        scores = {}
        for group in self.groups:
            named = enumerate(group.scored_by)
            moments = torch.stack([total[_name(group, i)].cpu() for i, _ in named])
            moments.diagonal(dim1=1, dim2=2).mul_(1 + RIDGE)
            weights = [
                _importance(self.generator.get_parameter(part.tensor), part, moment)
                for part, moment in zip(group.scored_by, moments, strict=True)
            ]
            scores[group.name] = left_before_pick(moments, torch.stack(weights))
        return scores

    def _pixels(self, sample: int, feature: Tensor) -> Tensor:
        """Draw pixels, the same for all features of one size: [at most ``PIXELS``]."""
        count = feature.shape[1]
        if count <= PIXELS:
            return torch.arange(count, device=feature.device)
        random = seeds.generator(self.request.seed, "pixels", sample)
        return torch.from_numpy(random.choice(count, PIXELS, replace=False)).to(feature.device)

    @torch.no_grad()
    def _styles(self, indices: range) -> dict[str, Tensor]:
        """Return by what samples scale the weight of each modulated layer: [N, C_in].

        Styles and demodulation in one: for each input channel the factor on the plain weight that
        comes closest to the weight as it acts.
        """
        if not isinstance(self.generator, StyleGenerator):
            return {}
        inputs = latent_inputs(self.generator, indices, self.request.seed, noise_mode="none")
        inputs = inputs.to(self.request.device)
        ws = self.generator.mapping(inputs.z, inputs.c)
        found = {}
        for name, layer, at in self.generator.modulated_layers():
            weight = self.generator.get_parameter(f"{name}.weight")
            power = weight.square().sum(dim=(0, 2, 3)).clamp(min=torch.finfo(weight.dtype).tiny)
            acting = layer.effective_weight(ws[:, at]).mul_(weight).sum(dim=(1, 3, 4))
            found[f"{name}.weight"] = (acting / power).double()
        return found


def left_before_pick(moments: Tensor, weights: Tensor) -> Tensor:
    """Pick channels one by one; return what was left to rebuild before each was picked.

    Of one layer with second moment Σ and importance M, a set of channels leaves tr(M S), where S is
    the part of Σ that they do not explain. Picking c takes (S M S)_cc / S_cc of it away.

    Args:
        moments: Σ of each layer, [L, C, C], float64; symmetric, none of them negative.
        weights: M of each layer, the same.
    Returns:
        Shares of what there was at first, [C], in [0, 1]; 1 for the first pick. All 0 where there
        was nothing.
    """
    tiny = torch.finfo(moments.dtype).tiny
    rest = moments.clone()
    left = everything = (rest * weights).sum()
    scores = torch.zeros(rest.shape[1], dtype=rest.dtype)
    was_picked = torch.zeros(rest.shape[1], dtype=torch.bool)
    if not everything > 0:
        return scores
    gains = ((weights @ rest) * rest).sum(dim=1)  # (S M S)_cc, [L, C]
    for _ in range(len(scores)):
        powers = rest.diagonal(dim1=1, dim2=2).clamp(min=tiny)
        taken = (gains.clamp(min=0) / powers).sum(dim=0).masked_fill_(was_picked, -1.0)
        pick = int(taken.argmax())
        scores[pick] = left.clamp(min=0) / everything
        left = left - taken[pick]
        was_picked[pick] = True
        # S loses u uᵀ / u_c, u its column; with t = M u that is a change of the gains as well.
        u = rest[:, :, pick, None].clone()
        power = powers[:, pick, None, None].clone()
        t = weights @ u
        change = u * (2 * (rest @ t) - u * ((u * t).sum(dim=1, keepdim=True) / power)) / power
        gains -= change[:, :, 0]
        rest.baddbmm_(u / power, u.mT, alpha=-1)
    return scores


def _importance(weight: Tensor, part: Slice, moment: Tensor) -> Tensor:
    """Return how much it matters to a layer what of its input is missing: [width, width].

    It is the sum of w wᵀ over its rows w (output channels, positions of the kernel), so scaled that
    all output channels count the same and all of them together 1.
    """
    rows = per_channel(weight.detach().double().cpu(), part, len(moment))
    rows = rows.unflatten(1, (weight.shape[1 - part.dim], -1))  # [C, O, K²]
    power = (rows * (moment @ rows.flatten(1)).view_as(rows)).sum(dim=(0, 2))
    tiny = torch.finfo(power.dtype).tiny
    scale = torch.where(power > tiny, 1 / power.clamp(min=tiny), 0.0)
    scaled = (rows * scale.sqrt()[:, None] / len(power) ** 0.5).flatten(1)
    return scaled @ scaled.T


def _readers(group: ChannelGroup) -> tuple[Slice, ...]:
    return tuple(part for part in group.slices if part.role == "in")


def _name(group: ChannelGroup, consumer: int) -> str:
    return f"{group.name}/{consumer}"
