"""The page itself: models with what was measured of them, as one self-contained HTML file."""

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import torch

from ganc.devices import resolve_device
from ganc.extras import require
from ganc.files import atomic_write, check_output
from ganc.models.labels import LabelTable
from ganc.models.sampling import ImageSource, Latents
from ganc.models.style import StyleGenerator
from ganc.progress import Progress, silent
from ganc.report import plots, tables
from ganc.report.entry import Entry, in_order
from ganc.report.pictures import interpolation_gallery, samples_gallery
from ganc.report.plots import Point, colour
from ganc.report.summary import summarise
from ganc.report.values import INTERVAL, short
from ganc.values import VALUES, bounds
from ganc.version import __version__


def check_page(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Refuse what ``write_page`` could not write, before the slow part.

    Raises:
        OutputError: See ``ganc.files.check_output``.
        MissingDependencyError: matplotlib is not installed.
    """
    check_output(Path(path), force=force)
    require("plot")


def write_page(
    path: str | os.PathLike[str],
    entries: Sequence[Entry],
    *,
    title: str,
    force: bool = False,
    inputs: ImageSource | None = None,
    labels: LabelTable | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: Progress = silent,
) -> None:
    """Write an evaluation as one HTML page that needs nothing beside itself.

    Args:
        path: Where to write, atomically.
        entries: Models of one kind, with what was measured; any order.
        title: Heading of the page.
        force: Replace ``path`` if it exists.
        inputs: What translators are shown on; without it their page has no images.
        labels: What samples of conditional models draw their labels from; None: uniform classes.
        seed: Of the latents that the images start from; truncation is the evaluation's, noise the
            stored constants.
        device: Where the images are made.
        progress: Told how many models have made theirs.
    Raises:
        OutputError, MissingDependencyError: See ``check_page``.
        UsageError, InputError: The entries cannot stand on one page, see ``in_order``; an input
            cannot be read.
    Guarantees: the same arguments give the same bytes on one machine.
    """
    check_page(path, force=force)
    models = in_order(entries)
    psi = models[0].result["settings"]["truncation_psi"]
    latents = Latents(seed, "const", psi, labels=labels)
    where = resolve_device(device)
    samples = samples_gallery(models, latents, inputs, device=where, progress=progress)
    interpolation = interpolation_gallery(models, latents, device=where, progress=progress)
    page = _page(
        _numbers(models) | _plots(models) | {
            "title": title, "samples": samples, "interpolation": interpolation, "seed": seed,
            "through_w": isinstance(models[0].generator, StyleGenerator),
        }
    )  # fmt: skip
    with atomic_write(Path(path), force=force) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _numbers(models: Sequence[Entry]) -> dict[str, Any]:
    """Return what the template writes of the models and their numbers."""
    among = tables.competitors(models)
    colours = {entry.name: colour(index) for index, entry in enumerate(models)}
    return {
        "models": [
            {"name": entry.name, "is_teacher": entry.is_teacher, "colour": colours[entry.name]}
            for entry in models
        ],
        "colours": colours,
        "summary": summarise(models),
        "columns": tables.metric_columns(models),
        "competing": "of the students" if len(among) < len(models) else "value of a column",
        "spread": _spread_note(models),
        "widths": tables.width_bars(models),
        "requirements": tables.requirements(models),
        "settings": tables.settings(models),
        "protocols": tables.protocols(models),
        "histories": tables.histories(models),
    }


def _spread_note(models: Sequence[Entry]) -> str:
    if any(entry.result.get("std") for entry in models):
        return "±: standard deviation over the repeats."
    found = {name for entry in models for name in entry.metrics}
    notes = {
        "±: half the 95 % interval of the mean.": {name + INTERVAL for name in found},
        "… to …: the 95 % interval.": {end for name in found for end in bounds(name)},
    }
    return " ".join(note for note, ends in notes.items() if found & ends)


@dataclass(frozen=True)
class Plot:
    """A plot, and the same in words for those who do not see it."""

    name: str
    better: str
    svg: str
    text: str


def _plots(models: Sequence[Entry]) -> dict[str, Any]:
    """Return the plots for which there are numbers; one model alone has no trade-off to show."""
    if len(models) < 2:
        return {"scatters": [], "precision_recall": None}
    qualities = [name for name, shown in VALUES.items() if shown.is_quality]
    drawn = [_against_macs(models, name) for name in qualities if _count(models, name) > 1]
    has_both = all(_count(models, name) for name in ("precision", "recall"))
    return {"scatters": drawn, "precision_recall": _precision_recall(models) if has_both else None}


def _count(models: Sequence[Entry], name: str) -> int:
    return sum(name in entry.metrics for entry in models)


def _against_macs(models: Sequence[Entry], name: str) -> Plot:
    points = [
        Point(entry.name, entry.generator.macs(), entry.metrics[name], index,
              tables.deviation(entry, name))
        for index, entry in enumerate(models) if name in entry.metrics
    ]  # fmt: skip
    text = f"{name} against multiply-accumulates per image: " + _in_words(points)
    svg = plots.against_macs(points, name)
    return Plot(name, VALUES[name].better, svg, text)


def _precision_recall(models: Sequence[Entry]) -> Plot:
    points = [
        Point(entry.name, entry.metrics["recall"], entry.metrics["precision"], index)
        for index, entry in enumerate(models) if entry.metrics.keys() >= {"precision", "recall"}
    ]  # fmt: skip
    svg = plots.precision_recall(points)
    text = "recall, precision: " + _in_words(points)
    return Plot("precision and recall", VALUES["precision"].better, svg, text)


def _in_words(points: Sequence[Point]) -> str:
    return "; ".join(f"{point.name} {short(point.x)}, {short(point.y)}" for point in points)


def _page(context: dict[str, Any]) -> str:
    """Fill the template, which escapes everything but what it marks as safe: our own markup."""
    read = partial(_own_file, folder=resources.files("ganc.report"))
    style, script = read("style.css"), read("script.js")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.from_string(read("page.html")).render(
        context, style=style, script=script, policy=_policy(script),
        version=__version__,
    )  # fmt: skip


def _own_file(name: str, *, folder: Any) -> str:
    text: str = (folder / name).read_text(encoding="utf-8")
    return text


def _policy(script: str) -> str:
    """Return a content security policy: no network, and no script but our own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
        f" script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
