"""What reaches the consumers of a channel: how strong it is, how much it varies, its styles.

A channel's *feature* is what the main consumers of its group read, after norm, nonlinearity and
enlargement; it is caught where it enters the layer that owns their weight, so no method here knows
any family.
Source of the two activation criteria: Molchanov et al. 2017, "Pruning Convolutional Neural Networks
for Resource Efficient Inference", where the deviation is taken over all entries; ours is taken over
samples, per pixel, so that a pattern which is the same in every image counts for nothing.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ganc.data.inputs import open_inputs
from ganc.errors import UsageError
from ganc.groups import ChannelGroup, Slice
from ganc.models.model import Model
from ganc.models.network import ImageGenerator, Translator
from ganc.models.sampling import InputSource, Latents, latent_inputs
from ganc.models.style import StyleGenerator
from ganc.options import flag_of
from ganc.scoring.read import per_channel
from ganc.scoring.request import ScoreRequest
from ganc.scoring.scorer import Scorer, State, batch_ranges
from ganc.scoring.sides import SIDES

Visit = Callable[[ChannelGroup, int, int, Tensor], None]
"""Gets a group, the number of one of its main consumers, the place of a sample in the batch, and
what that consumer reads of it: [width, pixels], a view of it that must not be kept or changed."""

MANY_PIXELS = 64 * 64
"""From here on sums per pixel are float32: over so many pixels their roundings average out, to 5e-8
of a score at 1000 samples and 1e-6 at 20 000. Fewer pixels cost nothing in float64."""
CHUNK = 1 << 20
"""Entries that are looked at in float64 at a time."""


class FeatureScorer(Scorer):
    """A method that runs the generator and looks at the features.

    Of a translator it takes the images of ``request.data`` (``data_b`` for the other direction), at
    most as many as there are.

    Raises:
        UsageError: A translator without images, or a setting that does not go with the generator.
        DataError: ``data`` holds no images, or the first one cannot serve.
    """

    def __init__(self, model: Model, request: ScoreRequest) -> None:
        super().__init__(model, request)
        self.source = _input_source(self.network, self.generator, request)
        count = self.source.count
        if count is not None:
            samples = min(request.samples, count)
            self.request = replace(request, samples=samples, batch=min(request.batch, samples))
        self.ranges = batch_ranges(self.request.samples, self.request.batch)

    def batches(self) -> Sequence[range]:
        return self.ranges

    def read(self, indices: range, visit: Visit) -> None:
        """Run the generator on some samples and visit their features."""
        read_features(
            self.generator, self.groups, lambda: self.source.images(self.generator, indices), visit
        )


class MeanActivation(FeatureScorer):
    """Mean |feature| over samples and pixels; over the main consumers, where several read it."""

    def empty(self) -> State:
        return _zeros(self.groups)

    def step(self, number: int, indices: range) -> State:
        total = _zeros(self.groups, self.request.device)

        def visit(group: ChannelGroup, consumer: int, place: int, feature: Tensor) -> None:
            strength = feature.abs().mean(dim=1, dtype=torch.float64)
            total[group.name] += strength / len(group.scored_by)

        self.read(indices, visit)
        return {name: summed.cpu() for name, summed in total.items()}

    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        return {name: summed / samples for name, summed in total.items()}


class Asv(FeatureScorer):
    """Mean over pixels of the standard deviation of the feature over samples.

    Every pixel of every feature has two sums, of x − x₀ and of its square. x₀, the feature of
    sample 0, keeps the difference of the two from cancelling, and makes a feature that never
    changes (StyleGAN2's constant) score exactly 0. The sums lie where the generator runs.
    """

    def __init__(self, model: Model, request: ScoreRequest) -> None:
        super().__init__(model, request)
        self.reference: dict[str, Tensor] = {}

        def visit(group: ChannelGroup, consumer: int, place: int, feature: Tensor) -> None:
            self.reference[f"{group.name}/{consumer}"] = feature.clone()

        self.read(range(1), visit)

    def empty(self) -> State:
        return {
            f"{name}/{power}": torch.zeros_like(x, dtype=_sum_type(x))
            for name, x in self.reference.items()
            for power in (1, 2)
        }

    def add(self, total: State, number: int, indices: range) -> None:
        def visit(group: ChannelGroup, consumer: int, place: int, feature: Tensor) -> None:
            name = f"{group.name}/{consumer}"
            change = feature - self.reference[name]
            total[f"{name}/1"] += change
            total[f"{name}/2"] += change.to(_sum_type(change)).square_()

        self.read(indices, visit)

    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        scores = {}
        for group in self.groups:
            rows = []
            for consumer in range(len(group.scored_by)):
                name = f"{group.name}/{consumer}"
                rows.append(_mean_deviation(total[f"{name}/1"], total[f"{name}/2"], samples))
            scores[group.name] = torch.stack(rows).mean(dim=0).cpu()
        return scores


def _sum_type(feature: Tensor) -> torch.dtype:
    return torch.float32 if feature.shape[1] >= MANY_PIXELS else torch.float64


def _mean_deviation(changes: Tensor, squares: Tensor, samples: int) -> Tensor:
    """Return the mean over pixels of the deviation of n samples, from sums [width, pixels]."""
    rows = max(1, CHUNK // changes.shape[1])
    parts = []
    for change, square in zip(changes.split(rows), squares.split(rows), strict=True):
        variance = square.double() / samples - (change.double() / samples).square_()
        parts.append(variance.clamp_(min=0).sqrt_().mean(dim=1))
    return torch.cat(parts)


class Style(Scorer):
    """Mean |style| over latents: the factor by which the main consumer scales the channel.

    It is what the consumer's affine layer makes of its w, before any gain.

    Raises:
        UsageError: The generator has no styles.
    """

    def __init__(self, model: Model, request: ScoreRequest) -> None:
        super().__init__(model, request)
        if not isinstance(self.generator, StyleGenerator):
            raise UsageError(
                f"method style reads the styles of modulated layers, a {model.architecture} has"
                " none",
                "score it with --method activation, asv, l1-in or l1-out",
            )
        self.style_generator = self.generator

    def batches(self) -> Sequence[range]:
        return batch_ranges(self.request.samples, self.request.batch)

    def empty(self) -> State:
        return _zeros(self.groups)

    @torch.no_grad()
    def step(self, number: int, indices: range) -> State:
        generator = self.style_generator
        inputs = latent_inputs(generator, indices, self.request.seed, noise_mode="none")
        inputs = inputs.to(self.request.device)
        ws = generator.mapping(inputs.z, inputs.c)
        styles = {
            f"{name}.weight": layer.affine(ws[:, at]).abs().double()
            for name, layer, at in generator.modulated_layers()
        }
        total = {}
        for group in self.groups:
            rows = [per_channel(styles[p.tensor], p, group.width) for p in group.scored_by]
            total[group.name] = torch.stack(rows).mean(dim=0).sum(dim=1).cpu()
        return total

    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        return {name: summed / samples for name, summed in total.items()}


def read_features(
    network: nn.Module, groups: Sequence[ChannelGroup], run: Callable[[], object], visit: Visit
) -> None:
    """Run a network and visit every feature on its way into a main consumer.

    Args:
        network: Owns the tensors that the groups name.
        groups: The declaration.
        run: Runs the network, once.
        visit: See ``Visit``; called once per group, consumer and sample.
    Guarantees: no hook stays behind, whatever ``run`` raises.
    """
    expected = {(g.name, consumer) for g in groups for consumer in range(len(g.scored_by))}
    seen = set()

    def hook(group: ChannelGroup, consumer: int, part: Slice) -> Callable[..., None]:
        def look(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            seen.add((group.name, consumer))
            samples = _by_channel(arguments[0].detach(), part, group.width)
            for place, sample in enumerate(samples):
                visit(group, consumer, place, sample)

        return look

    with ExitStack() as hooks:
        for group in groups:
            for consumer, part in enumerate(group.scored_by):
                layer = network.get_submodule(part.tensor.rpartition(".")[0])
                look = hook(group, consumer, part)
                hooks.enter_context(layer.register_forward_pre_hook(look))
        run()
    assert seen == expected, f"never called: {expected - seen}"


def _by_channel(x: Tensor, part: Slice, width: int) -> Tensor:
    """Return a consumer's input [N, C, …] as [N, width, everything else of a channel]."""
    own = x.narrow(1, part.offset, width * part.repeat)
    return own.reshape(x.shape[0], width, -1)


def _zeros(groups: Sequence[ChannelGroup], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    return {g.name: torch.zeros(g.width, dtype=torch.float64, device=device) for g in groups}


def _input_source(
    network: str, generator: ImageGenerator, request: ScoreRequest
) -> InputSource[Any]:
    """Return what the generator runs on: latents of the seed, or the images of ``--data``."""
    option = SIDES[network].data
    images, flag = getattr(request, option), flag_of(option)
    if not isinstance(generator, Translator):
        if images is not None:
            raise UsageError(
                f"{flag} goes with translators, the model is a {generator.architecture} that starts"
                " from latents",
                f"leave {flag} out",
            )
        return Latents(request.seed, request.noise_mode)
    if request.noise_mode != ScoreRequest.noise_mode:
        raise UsageError(
            f"--noise-mode goes with latents, the model is a {generator.architecture} that"
            " translates images",
            "leave --noise-mode out",
        )
    if images is None:
        alone = "" if network == "generator" else ", or one direction with --network generator"
        raise UsageError(
            f"{flag} is missing: the features of a {generator.architecture} ({network}) need images"
            " to translate",
            f"pass {flag} with a folder or zip of images, or score with --method l1-in or l1-out"
            f"{alone}",
        )
    return open_inputs(images, generator, warn=request.warn)
