"""A budget in milliseconds: plans ranked by the sum of their layers, the chosen one measured.

What no layer owns (a mapping network, images that are enlarged and added up) is a constant: what
a network of a third of the widths, in whole blocks, takes beyond its layers. A runtime that merges
layers may take less for it than they take one by one; then all sums shrink by that factor. Whatever
the sum is wrong by, the measured plan corrects for all others, and the choice is made again.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.models.network import ImageGenerator
from ganc.models.sampling import pick_generator
from ganc.progress import Progress, Warn
from ganc.pruning.costs import Cost
from ganc.pruning.latency.cost_file import read_costs, write_costs
from ganc.pruning.latency.interpolation import LayerCost, Span, sampled_sizes
from ganc.pruning.latency.layers import Layers, Sizes, TimedLayer, filled
from ganc.pruning.latency.measuring import Stand
from ganc.pruning.slicing import Widths
from ganc.runtimes.graph import graph_of
from ganc.runtimes.measure import Timing
from ganc.runtimes.program import Program

CLOSE = 0.97
"""A measured plan that takes this share of the budget is good enough: clocks are no better."""

MOST_MEASURED = 8
"""Whole generators that are measured before the best of them is taken."""


AT_ONCE = 60
"""Layers that are prepared at once: an export takes a second beside what its layers take. They hold
a few hundred MB of weights at most, since few of a layer's samples are as wide as it can be."""


class LatencyTable:
    """Predicts how long a generator takes at any widths.

    Args:
        generator: At the widths it has.
        stand: Where it is timed.
        progress, warn: Told how far the measurements are, and what is wrong with their cache.
    """

    def __init__(
        self, generator: ImageGenerator, stand: Stand, progress: Progress, warn: Warn
    ) -> None:
        self.stand = stand
        self.layers = Layers(generator, stand.batch)
        typical = self.layers.typical
        self._anchor = {
            n: Span(1, full).whole_blocks(typical[n]) for n, full in self.layers.full.items()
        }
        self._costs = self._known(progress, warn)
        self._sampled = {layer.name: self._layer_cost(layer) for layer in self.layers.layers}
        self._cached: dict[tuple[str, Sizes], float] = {}
        whole, total = self._costs[self._whole_key()], self._sum(self._anchor)
        self.constant, self.factor = max(0.0, whole - total), min(1.0, whole / total)

    def predict(self, widths: Widths) -> float:
        """Return milliseconds per pass at some widths; groups without a width keep theirs."""
        return self.factor * (self._sum(widths) + self.constant)

    def _sum(self, widths: Widths) -> float:
        return sum(self._layer(layer, widths) for layer in self.layers.layers)

    def _layer(self, layer: TimedLayer, widths: Widths) -> float:
        sizes = self.layers.sizes(layer, widths)
        place = (layer.name, sizes)
        if place not in self._cached:
            self._cached[place] = self._sampled[layer.name].at(sizes)
        return self._cached[place]

    def _layer_cost(self, layer: TimedLayer) -> LayerCost:
        spans = self._spans(layer)
        keys = {sizes: self.layers.key(layer, sizes) for sizes in sampled_sizes(spans)}
        return LayerCost(spans, {sizes: self._costs[key] for sizes, key in keys.items()})

    def _spans(self, layer: TimedLayer) -> list[Span]:
        full = self.layers.sizes(layer)
        return [Span(len(groups), most) for groups, most in zip(layer.axes, full, strict=True)]

    def _whole_key(self) -> str:
        network = self.layers.network
        parts = [network.architecture, network.config, self._anchor]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def _known(self, progress: Progress, warn: Warn) -> dict[str, float]:
        """Return all costs by key; what the cache lacks is measured, and kept there."""
        machine = self.stand.machine()
        known = read_costs(machine, warn)
        missing = self._missing(known)
        done, total = 0, len(missing) + 1

        def keep(keys: Iterable[str], programs: Sequence[Program]) -> None:
            progress("measuring layers", done, total)
            measured = dict(zip(keys, self.stand.least(programs), strict=True))
            write_costs(machine, measured, warn)
            known.update(measured)

        for done in range(0, len(missing), AT_ONCE):
            samples = dict(list(missing.items())[done : done + AT_ONCE])
            keep(samples, self.layers.programs(list(samples.values())))
        whole = self._whole_key()
        if whole not in known:
            network = filled(self.layers.built(self._anchor))
            keep([whole], [graph_of(network)])
        return known

    def _missing(self, known: Mapping[str, float]) -> dict[str, tuple[TimedLayer, Sizes]]:
        """Return what has to be measured, by key: the first sample of every layer, the second, …"""
        samples = [
            (number, layer, sizes)
            for layer in self.layers.layers
            for number, sizes in enumerate(sampled_sizes(self._spans(layer)))
        ]
        samples.sort(key=lambda sample: sample[0])  # so that few networks have them all
        keyed = {self.layers.key(layer, sizes): (layer, sizes) for _, layer, sizes in samples}
        return {key: sample for key, sample in keyed.items() if key not in known}


class Milliseconds(Cost):
    """What a pass takes, in milliseconds.

    Args:
        table: Predicts them.
        most: What a plan may take.
        student: Widths → the model that a plan leaves; None measures no plan.
    """

    falls = False  # widths between two blocks may cost more than the block above them

    def __init__(
        self,
        table: LatencyTable,
        most: float,
        student: Callable[[Widths], Model] | None,
    ) -> None:
        self.table, self.most, self.student = table, most, student
        self.measured: dict[tuple[tuple[str, int], ...], Timing] = {}
        self.correction = 1.0

    def of(self, widths: Widths) -> float:
        timing = self.measured.get(_place(widths))
        if timing is not None:
            return timing.median_ms
        return self.correction * self.table.predict(widths)

    def is_settled(self, widths: Widths) -> bool:
        if self.student is None or _place(widths) in self.measured:
            return True
        timing = self.table.stand.whole(pick_generator(self.student(widths)))
        self.measured[_place(widths)] = timing
        self.correction = timing.median_ms / self.table.predict(widths)
        fits = any(other.median_ms <= self.most for other in self.measured.values())
        if fits and len(self.measured) >= MOST_MEASURED:
            self.correction = math.inf  # only what was measured counts from now on
        return CLOSE * self.most <= timing.median_ms <= self.most

    def refusal(self, widths: Widths, level: float) -> UsageError:
        found = self.findings(widths)["timing"]
        times = f"{found['predicted_ms']:.3g} ms predicted"
        if "measured_ms" in found:
            times += f", {found['measured_ms']:.3g} measured"
        how = f"{found['runtime']}, {found['precision']}, {found['threads']} threads"
        return UsageError(
            f"no plan takes at most {self.most:.4g} ms: the fastest, --prune-ratio {level:.4g},"
            f" takes {times} ({how})",
            "raise --latency, lower --min-width or --round-to, or try another --runtime or --dtype",
        )

    def findings(self, widths: Widths) -> dict[str, Any]:
        timing = self.measured.get(_place(widths))
        stand = self.table.stand
        found = {"predicted_ms": self.table.predict(widths)}
        if timing is not None:
            found["measured_ms"] = timing.median_ms
        return {"timing": {**found, "batch": stand.batch, **asdict(stand.conditions())}}


def latency_of(
    model: Model,
    most: float,
    stand: Stand,
    student: Callable[[Widths], Model] | None,
    progress: Progress,
    warn: Warn,
) -> Milliseconds:
    """Return what plans for a model's generator take, in milliseconds; measures its layers.

    Raises:
        InputError: The model holds no generator.
        UsageError, InputError, ComputationError: See ``Stand.check``.
    """
    stand.check()
    table = LatencyTable(pick_generator(model), stand, progress, warn)
    return Milliseconds(table, most, student)


def _place(widths: Widths) -> tuple[tuple[str, int], ...]:
    return tuple(widths.items())
