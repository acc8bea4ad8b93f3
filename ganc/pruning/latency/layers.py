"""The layers of a generator, each by itself and at any width: what a latency is the sum of.

A layer is a submodule with one weight that channel groups have a part in and all that hangs on it
(styles, noise, bias, a norm), or one without such a weight, such as a norm. No family declares
them: its groups say which submodules they are, and a forward pass says what goes in.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ganc.groups import Slice, sliced_shapes, widths_of
from ganc.models.network import ImageGenerator
from ganc.runtimes.graph import graph_of
from ganc.runtimes.program import NamedInputs, Program, fixed

Sizes = tuple[int, ...]
"""Channels along each of a layer's axes."""
Shapes = Mapping[str, Sequence[int]]
Module = TypeVar("Module", bound=nn.Module)

TYPICAL_SHARE = 3
"""Layers get their inputs in the layout that these have in a network of a third of the widths."""


class TensorLike(NamedTuple):
    """What a tensor has to be like for a layer to take as long as with any other."""

    shape: tuple[int, ...]
    is_channels_last: bool

    @classmethod
    def of(cls, x: Tensor) -> "TensorLike":
        is_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return cls(tuple(x.shape), is_last and not x.is_contiguous())  # one channel: both

    def with_channels(self, channels: int) -> "TensorLike":
        return self._replace(shape=(self.shape[0], channels, *self.shape[2:]))

    def drawn(self) -> Tensor:
        x = torch.randn(self.shape)
        return x.contiguous(memory_format=torch.channels_last) if self.is_channels_last else x


class _Calling(NamedTuple):
    """How a submodule was called, and what it made."""

    arguments: tuple[Any, ...]
    made: tuple[int, ...]


@dataclass(frozen=True)
class TimedLayer:
    """A layer, and how it is called.

    Attributes:
        name: Of the submodule.
        axes: The groups that it reads, then those that it makes; an axis without any is left out.
            Behind a concatenation an axis has several.
        reads: Tensor and dimension that say how many channels come in; None where that is fixed.
        arguments: What it was called with, tensors as ``TensorLike``.
        settings: What it is apart from channels, as JSON data.
    """

    name: str
    axes: tuple[tuple[str, ...], ...]
    reads: tuple[str, int] | None
    arguments: tuple[Any, ...]
    settings: Any

    def arguments_at(self, shapes: Shapes) -> list[Any]:
        """Return what it is called with where the generator's tensors have these shapes."""
        first, *rest = self.arguments
        if self.reads is not None:
            tensor, dim = self.reads
            first = first.with_channels(shapes[tensor][dim])
        return [first, *rest]


class Layers:
    """The layers of a generator.

    Args:
        generator: Stays as it is.
        batch: Images per pass.
    """

    def __init__(self, generator: ImageGenerator, batch: int) -> None:
        self.network = generator
        self.groups, self.shapes = generator.groups(), generator.shapes()
        self.full = widths_of(self.groups)
        self.typical = {name: -(-width // TYPICAL_SHARE) for name, width in self.full.items()}
        self.layers = self._find(batch)

    def sizes(self, layer: TimedLayer, widths: Mapping[str, int] | None = None) -> Sizes:
        """Return the channels along a layer's axes at some widths; groups without keep theirs."""
        at = self.full | dict(widths or {})
        return tuple(sum(at[name] for name in axis) for axis in layer.axes)

    def widths(self, layer: TimedLayer, sizes: Sizes) -> dict[str, int]:
        """Return widths of a layer's groups at which it has these sizes."""
        found = {}
        for axis, size in zip(layer.axes, sizes, strict=True):
            total = sum(self.full[name] for name in axis)
            *others, last = axis
            for name in others:
                found[name] = max(1, self.full[name] * size // total)
            found[last] = max(1, size - sum(found[name] for name in others))
        return found

    def key(self, layer: TimedLayer, sizes: Sizes) -> str:
        """Return what tells a layer of these sizes from every other, of whatever network."""
        shapes = sliced_shapes(self.shapes, self.groups, self.widths(layer, sizes))
        own = sorted(shape for n, shape in shapes.items() if n.startswith(f"{layer.name}."))
        parts = [layer.settings, own, layer.arguments_at(shapes)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def built(self, widths: Mapping[str, int]) -> ImageGenerator:
        """Return the generator at other widths, without weights."""
        config = self.network.config
        with torch.device("meta"):
            return type(self.network)(**{**config, "widths": {**config["widths"], **widths}})

    def programs(self, wanted: Sequence[tuple[TimedLayer, Sizes]]) -> list[Program]:
        """Return layers at some sizes, ready for a runtime."""
        made: dict[int, Program] = {}
        for widths, numbers in _together([self.widths(*own) for own in wanted]):
            network = self.built(widths)
            shapes = sliced_shapes(self.shapes, self.groups, widths)
            for number in numbers:
                layer, _ = wanted[number]
                made[number] = _program(network, layer, layer.arguments_at(shapes))
        return [made[number] for number in range(len(wanted))]

    @torch.no_grad()
    def _find(self, batch: int) -> list[TimedLayer]:
        graph = graph_of(filled(self.built(self.typical)))
        calls: dict[str, _Calling] = {}

        def note(name: str, given: tuple[Any, ...], made: Any) -> None:
            if isinstance(made, Tensor):
                arguments = tuple(TensorLike.of(x) if isinstance(x, Tensor) else x for x in given)
                calls[name] = _Calling(arguments, tuple(made.shape[2:]))

        for name, module in graph.generator.named_modules():
            module.register_forward_hook(lambda _, given, made, name=name: note(name, given, made))
        graph.module(**graph.draw(range(batch)))
        return [
            self._layer(name, module, calls[name])
            for name, module in self._outermost("", graph.generator, calls)
        ]

    def _outermost(
        self, name: str, module: nn.Module, calls: Mapping[str, _Calling]
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield the largest submodules that are layers, in network order."""
        parts = [part for _, part in self._parts(name)]
        if not parts:
            return
        weights = {p.tensor for p in parts if p.role != "style" and len(self.shapes[p.tensor]) > 1}
        if len(weights) <= 1 and name in calls:
            yield name, module
            return
        for child, inner in module.named_children():
            yield from self._outermost(f"{name}.{child}" if name else child, inner, calls)

    def _parts(self, name: str) -> list[tuple[str, Slice]]:
        """Return the groups' parts of a submodule's tensors, with the groups' names."""
        prefix = f"{name}." if name else ""
        return [
            (g.name, part) for g in self.groups for part in g.slices
            if part.tensor.startswith(prefix)
        ]  # fmt: skip

    def _layer(self, name: str, module: nn.Module, call: _Calling) -> TimedLayer:
        parts = self._parts(name)
        read = {group: part for group, part in parts if part.role == "in"}
        made = {group: part for group, part in parts if part.role == "out" and group not in read}
        has_weight = any(len(self.shapes[part.tensor]) > 1 for _, part in parts)
        # A norm reads what it makes.
        counted = read if has_weight else made
        reads = next(((part.tensor, part.dim) for part in counted.values()), None)
        axes = tuple(tuple(axis) for axis in (read, made) if axis)
        return TimedLayer(name, axes, reads, call.arguments, [_settings(module), call.made])


class _Called(nn.Module):
    """A layer that takes its tensors by name, and has the rest."""

    def __init__(self, layer: nn.Module, arguments: Sequence[Any]) -> None:
        super().__init__()
        self.layer, self.arguments = layer, arguments

    def inputs(self) -> NamedInputs:
        tensors = enumerate(self.arguments)
        return {f"x{i}": x.drawn() for i, x in tensors if isinstance(x, TensorLike)}

    def forward(self, **tensors: Tensor) -> Tensor:
        made: Tensor = self.layer(*(tensors.get(f"x{i}", x) for i, x in enumerate(self.arguments)))
        return made


def _program(network: nn.Module, layer: TimedLayer, arguments: Sequence[Any]) -> Program:
    called = _Called(filled(network.get_submodule(layer.name)), arguments)
    return fixed(called, called.inputs())


def _together(wanted: Sequence[dict[str, int]]) -> list[tuple[dict[str, int], list[int]]]:
    """Return the widths of a few networks, and which of the wanted ones each has.

    To build a network takes longer than to run a layer of it.
    """
    networks: list[tuple[dict[str, int], list[int]]] = []
    for number, own in enumerate(wanted):
        fitting = (n for n in networks if all(n[0].get(g, w) == w for g, w in own.items()))
        network = next(fitting, None)
        if network is None:
            network = ({}, [])
            networks.append(network)
        network[0].update(own)
        network[1].append(number)
    return networks


def _settings(module: nn.Module) -> list[Any]:
    """Return what a module is apart from channels: kinds, numbers and words, shapes of filters."""
    found: list[Any] = []
    for name, inner in module.named_modules():
        kept = set(inner.state_dict())
        words = {
            key: value for key, value in vars(inner).items()
            if isinstance(value, int | float | str | tuple) and not key.startswith("_")
            and not key.endswith(("channels", "features", "gain"))  # these follow the widths
        }  # fmt: skip
        filters = {n: list(b.shape) for n, b in inner.named_buffers() if n not in kept}
        found.append(
            [name, type(inner).__qualname__, sorted(words.items()), sorted(filters.items())]
        )
    return found


def filled(module: Module) -> Module:
    """Give a module that was built without weights random ones, in place; in eval mode.

    They are small and positive: variances have to be, and nothing must overflow.
    """
    state = {
        name: torch.rand(t.shape) / 16 + 0.01 if t.is_floating_point() else torch.zeros(t.shape)
        for name, t in module.state_dict().items()
    }
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)
