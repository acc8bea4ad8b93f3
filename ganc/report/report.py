"""``ganc.write_report``: what ``ganc.evaluate`` found of one or several models, as an HTML page."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ganc.data.dataset import open_dataset
from ganc.data.inputs import ImageInputs, open_inputs
from ganc.data.label_tables import data_labels
from ganc.errors import UsageError
from ganc.models.labels import LabelTable
from ganc.models.model import Model
from ganc.models.network import ImageGenerator, LatentGenerator, Translator
from ganc.progress import Progress, silent
from ganc.report.entry import Entry, in_order
from ganc.report.page import check_page, write_page

Result = Mapping[str, Any]
"""What ``ganc.evaluate`` returns for a model."""

TITLE_NAMES = 4
"""The first so many models make the title."""


def check_report(
    path: str | os.PathLike[str],
    models: Mapping[str, Model],
    *,
    network: str = "generator",
    force: bool = False,
) -> None:
    """Refuse, before anything is measured, a report that could not be written.

    Args:
        path, models, force: See ``write_report``.
        network: Which generator of each model is to be measured: a name in ``GENERATORS``.
    Raises:
        UsageError, InputError: The models cannot stand on one page, see ``entry.in_order``.
        OutputError, MissingDependencyError: See ``page.check_page``.
    """
    check_page(path, force=force)
    blank = {"settings": {"network": network}}
    in_order([Entry(name, model, blank) for name, model in models.items()])


def write_report(
    results: Result | Sequence[Result],
    path: str | os.PathLike[str],
    models: Mapping[str, Model],
    *,
    force: bool = False,
    device: str | torch.device = "auto",
    progress: Progress = silent,
) -> None:
    """Write what was measured as one HTML page that needs nothing beside itself.

    Its images are made for it, with the seed and the truncation that the results name, from the
    inputs and with the labels of the files that they name. The result that others were measured
    against, if it is among them, is the teacher's.

    Args:
        results: What ``ganc.evaluate`` returned for models of one kind, or JSON made of it.
        path: Where to write, atomically.
        models: What the page calls a model → the model; in the order of the results.
        force: Replace ``path`` if it exists.
        device: Where the images are made.
        progress: Told how many models have made theirs.
    Raises:
        UsageError: Results and models do not belong together.
        InputError: The images that the results name are not there any more.
        UsageError, InputError, OutputError, MissingDependencyError: See ``check_report``.
    Guarantees: the same arguments give the same bytes on one machine.
    """
    found = [results] if isinstance(results, Mapping) else list(results)
    entries = _entries(found, models)
    generator, settings = entries[0].generator, entries[0].result["settings"]
    write_page(
        path, entries, title=" · ".join(entry.name for entry in entries[:TITLE_NAMES]), force=force,
        inputs=_inputs(settings["input"], generator), labels=_labels(settings["data"], generator),
        seed=settings["seed"], device=device, progress=progress,
    )  # fmt: skip


def _entries(results: Sequence[Result], models: Mapping[str, Model]) -> list[Entry]:
    """Lay results beside their models.

    Raises:
        UsageError: They do not belong together, or cannot stand on one page; likewise InputError.
    """
    if len(results) != len(models):
        raise UsageError(
            f"a report takes a model for each result, got {len(results)} results and"
            f" {len(models)} models",
            "pass the models that were evaluated, by name",
        )
    teachers = [result["settings"]["teacher"] for result in results]
    entries = []
    for (name, model), result in zip(models.items(), results, strict=True):
        measured = result["settings"]["model"]
        if measured["content_hash"] != model.content_hash():
            raise UsageError(
                f"the result in the place of `{name}` is another model's",
                "pass the models in the order of the results",
            )
        is_teacher = result["settings"]["teacher"] is None and measured in teachers
        entries.append(Entry(name, model, result, is_teacher))
    return in_order(entries)


def _inputs(used: Mapping[str, Any] | None, generator: ImageGenerator) -> ImageInputs | None:
    """Open again what a translator's results were measured on."""
    if used is None:
        return None
    assert isinstance(generator, Translator)  # others have been measured on latents
    return open_inputs(used["path"], generator, resize=used["resize"])


def _labels(used: Mapping[str, Any] | None, generator: ImageGenerator) -> LabelTable | None:
    """Return the labels that samples had which were compared with real images."""
    if used is None or not isinstance(generator, LatentGenerator) or not generator.c_dim:
        return None
    dataset = open_dataset(
        used["path"], resolution=generator.img_resolution, channels=generator.img_channels,
        resize=used["resize"],
    )  # fmt: skip
    return data_labels(dataset, generator.c_dim)
