"""The tables of a report as plain data: what the template writes down cell by cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ganc.report.entry import Entry
from ganc.report.plots import colour
from ganc.report.values import INTERVAL, best, plain, short
from ganc.values import VALUES, bounds

LONGEST_LIST = 12
"""Longer lists of a provenance (kept channels) are counted instead of shown."""


@dataclass(frozen=True)
class Cell:
    """A number in the table of metrics.

    Attributes:
        text: The value; "–" where the model has none.
        spread: "± …": the deviation over repeats, or else half the 95 % interval; "… to …": that
            interval, where it is not symmetric; "" for none.
        beside: Of a cost, how it compares with the teacher's.
        is_best: Whether it is the best of the models that compete.
    """

    text: str
    spread: str = ""
    beside: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class MetricColumn:
    """One value of all models, in their order."""

    name: str
    unit: str
    better: str
    cells: list[Cell]


@dataclass(frozen=True)
class Bar:
    """A group's channels: of the model, of the widest model, and of the widest group on the page.

    Attributes:
        width: Channels that are there.
        share, outline: Length of bar and outline, 0 to 1.
    """

    width: int | None
    share: float
    outline: float


@dataclass(frozen=True)
class Agreement:
    """A setting, and who has which value of it; nobody is named where all agree."""

    name: str
    values: list[tuple[str, str]]


@dataclass(frozen=True)
class Step:
    """A step of a provenance, with its settings."""

    command: str
    settings: list[tuple[str, str]]


@dataclass(frozen=True)
class History:
    """Where a model comes from."""

    name: str
    colour: str
    checkpoint: str
    content_hash: str
    steps: list[Step]


def metric_columns(entries: Sequence[Entry]) -> list[MetricColumn]:
    """Return a column per value that any model has, in the order of ``VALUES``.

    Intervals join the value they belong to, as half a width or as two ends.
    """
    found = dict.fromkeys(name for entry in entries for name in entry.metrics)
    names = [name for name in VALUES if name in found] + [
        name for name in found if name not in VALUES
    ]
    joined = {end for name in names for end in (name + INTERVAL, *bounds(name))}
    return [_column(entries, name) for name in names if name not in joined]


def competitors(entries: Sequence[Entry]) -> list[Entry]:
    """Return those among whom the best is marked: the students, or all where there are none."""
    students = [entry for entry in entries if not entry.is_teacher]
    return students if len(students) > 1 else list(entries)


def _column(entries: Sequence[Entry], name: str) -> MetricColumn:
    numbers = {
        entry.name: entry.metrics[name] for entry in competitors(entries) if name in entry.metrics
    }
    winners = best(name, numbers)
    teacher = next((entry.metrics.get(name) for entry in entries if entry.is_teacher), None)
    cells = [_cell(entry, name, entry.name in winners, teacher) for entry in entries]
    shown = VALUES.get(name)
    return MetricColumn(name, shown.unit if shown else "", shown.better if shown else "", cells)


def _cell(entry: Entry, name: str, is_best: bool, teacher: float | None) -> Cell:
    value = entry.metrics.get(name)
    if value is None:
        return Cell("–")
    is_cost = name in VALUES and VALUES[name].is_cost
    beside = ""
    if is_cost and teacher and value and not entry.is_teacher:
        beside = times(teacher / value)
    return Cell(short(value), _spread(entry, name), beside, is_best)


def _spread(entry: Entry, name: str) -> str:
    half = deviation(entry, name) or entry.metrics.get(name + INTERVAL, 0.0)
    if half:
        return f"± {half:.2g}"
    ends = [short(entry.metrics[end]) for end in bounds(name) if end in entry.metrics]
    return " to ".join(ends)


def deviation(entry: Entry, name: str) -> float:
    """Return a value's standard deviation over repeats; 0 where it was measured once."""
    found: float = entry.result.get("std", {}).get(name, 0.0)
    return found


def times(ratio: float) -> str:
    """Say how a cost compares: "10.2× less", "1.5× more", "the same"."""
    if 0.995 < ratio < 1.005:
        return "the same"
    return f"{ratio:.3g}× less" if ratio > 1 else f"{1 / ratio:.3g}× more"


def width_bars(entries: Sequence[Entry]) -> list[tuple[str, list[Bar]]]:
    """Return for every channel group of any generator a bar per model.

    The outline is the teacher's width, or the largest of all models where there is no teacher.
    """
    widths = [{group.name: group.width for group in entry.generator.groups()} for entry in entries]
    names = dict.fromkeys(name for own in widths for name in own)
    references = widths[:1] if entries[0].is_teacher else widths
    longest = max(width for own in widths for width in own.values())
    rows = []
    for name in names:
        outline = max(own.get(name, 0) for own in references) / longest
        bars = [Bar(own.get(name), own.get(name, 0) / longest, outline) for own in widths]
        rows.append((name, bars))
    return rows


def requirements(entries: Sequence[Entry]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the requirements of each model that has any, with numbers as they are read."""
    return [
        (
            entry.name,
            [
                {**row, "value": short(row["value"]), "bound": short(row["bound"])}
                for row in entry.result["requirements"]
            ],
        )
        for entry in entries
        if entry.result.get("requirements")
    ]


def settings(entries: Sequence[Entry]) -> list[Agreement]:
    """Return the settings that hold for all metrics of a model."""
    flat = {}
    for entry in entries:
        own = entry.result["settings"]
        # The teacher itself was measured without one, which is no disagreement.
        apart = ("protocols", "model", *(["teacher"] if entry.is_teacher else []))
        flat[entry.name] = _flat({key: own[key] for key in own if key not in apart})
    return agreements(flat)


def protocols(entries: Sequence[Entry]) -> list[tuple[str, list[Agreement]]]:
    """Return each metric's own protocol; metrics that have none are left out."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in entries:
        for metric, protocol in entry.result["settings"]["protocols"].items():
            if protocol:
                found.setdefault(metric, {})[entry.name] = _flat(protocol)
    return [(metric, agreements(own)) for metric, own in found.items()]


def agreements(documents: Mapping[str, Mapping[str, Any]]) -> list[Agreement]:
    """Lay documents over each other: a value is written once for all that share it.

    Args:
        documents: Whose → its settings. One that lacks a setting has no say in it.
    """
    keys = dict.fromkeys(key for document in documents.values() for key in document)
    rows = []
    for key in keys:
        owners: dict[str, list[str]] = {}
        for who, document in documents.items():
            if key in document:
                owners.setdefault(plain(document[key]), []).append(who)
        agreed = len(owners) == 1
        values = [("" if agreed else ", ".join(who), text) for text, who in owners.items()]
        rows.append(Agreement(key, values))
    return rows


def histories(entries: Sequence[Entry]) -> list[History]:
    """Return every model's provenance, first step first."""
    return [
        History(
            entry.name,
            colour(index),
            str(entry.result.get("checkpoint", "")),
            entry.result["settings"]["model"]["content_hash"],
            [_step(step) for step in entry.model.provenance],
        )
        for index, entry in enumerate(entries)
    ]


def _step(step: Mapping[str, Any]) -> Step:
    rest = _flat({key: value for key, value in step.items() if key != "command"})
    return Step(str(step.get("command", "?")), [(key, _brief(rest[key])) for key in rest])


def _brief(value: Any) -> str:
    if isinstance(value, list) and len(value) > LONGEST_LIST:
        return f"{len(value)} values"
    return plain(value)


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dots in the names."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
