"""What a layer reads and what it should give, at some pixels of many samples."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ganc import seeds
from ganc.errors import ComputationError
from ganc.models.fitting import FitLayer
from ganc.models.network import ImageGenerator
from ganc.models.sampling import InputSource
from ganc.ops.modulated_conv2d import demodulation_coefficients

ROWS = 2**14
"""Pixels of all samples together that a layer is fitted to; memory follows them."""

Caught = dict[str, Any]
"""Module → its arguments, or of a sum what the module gave."""


class _ReachedError(Exception):
    """What is behind a layer need not run."""


@dataclass(frozen=True)
class Rows:
    """A least-squares problem: ``columns``, scaled by styles, times a matrix should be ``target``.

    Attributes:
        columns: See ``FitConv.columns``, those of several convolutions side by side,
            [N, P, K], not modulated.
        target: What the teacher's layer gives there, [N, P, C_out].
        w: [N, D_w] of a modulated layer, else None.
    """

    columns: Tensor
    target: Tensor
    w: Tensor | None

    def part(self, samples: slice) -> "Rows":
        """Return the rows of some samples."""
        w = None if self.w is None else self.w[samples]
        return Rows(self.columns[samples], self.target[samples], w)


@dataclass(frozen=True)
class SharedInputs:
    """The inputs that teacher and student share.

    Attributes:
        source: Where they come from.
        count: How many.
        batch: How many run at once.
        seed: Of the pixels that are looked at.
    """

    source: InputSource[Any]
    count: int
    batch: int
    seed: int

    def ranges(self) -> list[range]:
        """Return the batches."""
        starts = range(0, self.count, self.batch)
        return [range(a, min(a + self.batch, self.count)) for a in starts]

    def places(self, layer: str, indices: range, pixels: int) -> Tensor:
        """Draw the pixels of some samples, [n, P]; sample i's depend on seed, layer and i alone."""
        count = min(pixels, max(1, ROWS // self.count))
        if count == pixels:
            return torch.arange(pixels).expand(len(indices), -1)
        drawn = [
            seeds.generator(self.seed, f"refit/{layer}", i).choice(pixels, count, replace=False)
            for i in indices
        ]
        return torch.stack([torch.from_numpy(own) for own in drawn])


def teacher_targets(
    teacher: ImageGenerator,
    keep: Mapping[str, Sequence[int]],
    samples: SharedInputs,
    tell: Callable[[int], None],
) -> dict[str, Tensor]:
    """Return what every layer gives in the channels that stay: layer → [N, P, C_out].

    One pass over the samples serves all layers.
    """
    layers = teacher.fit_layers()
    found: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    for indices in samples.ranges():
        caught = catch(teacher, samples, indices, layers)
        for layer in layers:
            kept = None if layer.group is None else keep.get(layer.group)
            seen = look(layer, caught, samples, indices)
            made = seen.total if layer.total is not None else layer_output(layer, seen, kept)
            if layer.total is not None and kept is not None:
                made = made[..., list(kept)]
            found[layer.name].append(_finite(made, layer).cpu())
        tell(indices.stop)
    return {name: torch.cat(parts) for name, parts in found.items()}


def student_rows(
    student: ImageGenerator, layer: FitLayer, target: Tensor, samples: SharedInputs
) -> Rows:
    """Return the problem of one layer, of the student as it is now.

    Args:
        target: ``teacher_targets`` of the layer.
    """
    columns, wanted, ws = [], [], []
    for indices in samples.ranges():
        seen = look(layer, catch(student, samples, indices, [layer]), samples, indices)
        own = target[indices.start : indices.stop].to(seen.columns.device)
        if layer.total is not None:
            own = own - (seen.total - layer_output(layer, seen))
        columns.append(seen.columns)
        wanted.append(own)
        ws += [] if seen.w is None else [seen.w]
    return Rows(torch.cat(columns), torch.cat(wanted), torch.cat(ws) if ws else None)


class Seen(NamedTuple):
    """What a layer meets in a batch, at some pixels.

    Attributes:
        columns: See ``Rows``.
        w: See ``Rows``.
        total: The sum that it is a part of, [n, P, C]; nothing where it is compared by itself.
    """

    columns: Tensor
    w: Tensor | None
    total: Tensor


def look(layer: FitLayer, caught: Caught, samples: SharedInputs, indices: range) -> Seen:
    """Return what a layer meets."""
    parts = []
    for conv in layer.convs:
        prepared = conv.prepare(caught[conv.module][0])
        height, width = conv.size(prepared)
        places = samples.places(layer.name, indices, height * width).to(prepared.device)
        parts.append(conv.columns(prepared, places))
    w = None if layer.convs[0].affine is None else caught[layer.convs[0].module][1]
    total = parts[0][..., :0]
    if layer.total is not None:
        name, which = layer.total
        made = caught[name] if which is None else caught[name][which]
        index = places[:, None].expand(-1, made.shape[1], -1)
        total = made.flatten(2).gather(2, index).transpose(1, 2) * layer.scale
    return Seen(torch.cat(parts, dim=2), w, total)


def layer_output(layer: FitLayer, seen: Seen, keep: Sequence[int] | None = None) -> Tensor:
    """Return what a layer gives, [n, P, C_out]: its bias with it unless it demodulates.

    Args:
        keep: The channels that are asked for; None for all.
    """
    chosen = None if keep is None else list(keep)
    matrix = torch.cat([conv.matrix(chosen) for conv in layer.convs], dim=1)
    columns, first = seen.columns, layer.convs[0]
    if first.affine is not None:
        assert seen.w is not None
        styles = first.affine(seen.w)
        columns = columns * spread(styles, columns.shape[2])[:, None]
    made = columns @ matrix.t()
    if layer.demodulates:
        weight = first.weight if chosen is None else first.weight[chosen]
        return made * demodulation_coefficients(weight, styles)[:, None]
    if layer.bias is None:
        return made
    return made + (layer.bias if chosen is None else layer.bias[chosen])


def spread(styles: Tensor, width: int) -> Tensor:
    """Return the style of each column [N, K], of one per channel [N, C_in]."""
    return styles.repeat_interleave(width // styles.shape[1], dim=1)


def _finite(made: Tensor, layer: FitLayer) -> Tensor:
    if not made.isfinite().all():
        raise ComputationError(
            f"the features of the teacher's {layer.name} are not finite",
            "a fit needs a teacher that works; look at it: ganc sample CKPT -o grid.png",
        )
    return made


def catch(
    generator: ImageGenerator, samples: SharedInputs, indices: range, layers: Sequence[FitLayer]
) -> Caught:
    """Run a generator on some samples, as far as some layers are; return what they saw."""
    run = samples.source.feed(generator, indices)
    caught: Caught = {}
    wanted = [conv.module for layer in layers for conv in layer.convs]
    totals = [layer.total[0] for layer in layers if layer.total is not None]
    awaited = {*wanted, *totals}

    def enter(name: str) -> Callable[..., None]:
        def look(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            caught[name] = arguments
            _stop_after(name)

        return look

    def leave(name: str) -> Callable[..., None]:
        def look(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            caught[name] = output
            _stop_after(name)

        return look

    def _stop_after(name: str) -> None:
        awaited.discard(name)
        if not awaited:
            raise _ReachedError

    with ExitStack() as hooks, torch.no_grad():
        for name in wanted:
            module = generator.get_submodule(name)
            hooks.enter_context(module.register_forward_pre_hook(enter(name)))
        for name in totals:
            hooks.enter_context(generator.get_submodule(name).register_forward_hook(leave(name)))
        with suppress(_ReachedError):
            run()
    assert not awaited, f"never called: {awaited}"
    return caught
