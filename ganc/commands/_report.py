"""``--report``: what was measured, as a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganc.models.labels import LabelTable
    from ganc.models.model import Model
    from ganc.models.network import ImageGenerator
    from ganc.progress import Progress
    from ganc.report.entry import Entry


def check(
    path: Path, models: Mapping[str, "Model"], teacher: str | None, network: str, *, force: bool
) -> None:
    """Refuse, before anything is measured, a report that could not be written.

    Raises:
        UsageError, InputError: The models cannot stand on one page.
        OutputError, MissingDependencyError: See ``report.check_report``.
    """
    from ganc.report.entry import in_order
    from ganc.report.report import check_report

    check_report(path, force=force)
    blank = {ckpt: {"settings": {"network": network}, "metrics": {}} for ckpt in models}
    in_order(_entries(models, blank, teacher))


def write(
    path: Path,
    models: Mapping[str, "Model"],
    results: Mapping[str, dict[str, Any]],
    teacher: str | None,
    *,
    data: str | None,
    input: str | None,
    resize: bool,
    network: str,
    seed: int,
    device: str,
    force: bool,
    progress: "Progress",
) -> None:
    """Write the report of an evaluation.

    Args:
        models, results: Checkpoint → its model and its result, the teacher's among them.
        teacher: Which of them is the teacher, or None.
        data: Real images; where these are labelled, conditional models show their labels.
    """
    from ganc.data.inputs import open_source
    from ganc.models.sampling import ImageSource, Latents, pick_generator
    from ganc.report.report import write_report

    entries = _entries(models, results, teacher)
    generator = pick_generator(entries[0].model, network)
    source = None
    if input is not None:
        source = open_source(generator, Latents(), input, defaults=Latents(), resize=resize)
    write_report(
        path, entries, title=" · ".join(entry.name for entry in entries[:4]), force=force,
        inputs=source if isinstance(source, ImageSource) else None,
        labels=None if data is None else _labels(data, generator, resize),
        seed=seed, device=device, progress=progress,
    )  # fmt: skip


def _labels(data: str, generator: "ImageGenerator", resize: bool) -> "LabelTable | None":
    """Return the labels that the samples of an evaluation against ``data`` have."""
    from ganc.data.dataset import open_dataset
    from ganc.data.label_tables import data_labels
    from ganc.models.network import LatentGenerator

    if not isinstance(generator, LatentGenerator) or not generator.c_dim:
        return None
    dataset = open_dataset(
        data, resolution=generator.img_resolution, channels=generator.img_channels, resize=resize
    )
    return data_labels(dataset, generator.c_dim)


def _entries(
    models: Mapping[str, "Model"], results: Mapping[str, dict[str, Any]], teacher: str | None
) -> list["Entry"]:
    from ganc.report.entry import Entry

    names = short_names(list(models))
    return [
        Entry(names[ckpt], model, results[ckpt], is_teacher=ckpt == teacher)
        for ckpt, model in models.items()
    ]


def short_names(paths: list[str]) -> dict[str, str]:
    """Return path → file name without its ending; with ending and folders where names are alike."""
    whole = {path: Path(path) for path in paths if path != "-"}
    shortest = [
        {path: full.stem for path, full in whole.items()},
        {path: full.name for path, full in whole.items()},
        *(
            {path: "/".join(full.parts[-depth:]) for path, full in whole.items()}
            for depth in (2, 3)
        ),
        {path: path for path in whole},
    ]
    names = next(names for names in shortest if len(set(names.values())) == len(names))
    return {path: names.get(path, "stdin") for path in paths}
