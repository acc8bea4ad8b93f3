"""``--report``: what was measured, as a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganc.models.model import Model
    from ganc.progress import Progress


def write(
    path: str,
    results: Mapping[str, dict[str, Any]],
    teacher: dict[str, Any] | None,
    models: Mapping[str, "Model"],
    judge: "Model | None",
    *,
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
        results: Checkpoint → its result.
        teacher, judge: The teacher's result and the teacher, or None.
        models: Checkpoint → its model.
    """
    from ganc.data.inputs import open_source
    from ganc.models.sampling import ImageSource, Latents, pick_generator
    from ganc.report.entry import Entry
    from ganc.report.report import write_report

    names = short_names([*results, *([teacher["checkpoint"]] if teacher else [])])
    entries = [Entry(names[ckpt], models[ckpt], result) for ckpt, result in results.items()]
    if teacher is not None and judge is not None:
        entries.insert(0, Entry(names[teacher["checkpoint"]], judge, teacher, is_teacher=True))
    source = None
    if input is not None:
        generator = pick_generator(next(iter(models.values())), network)
        source = open_source(generator, Latents(), input, defaults=Latents(), resize=resize)
    write_report(
        path, entries, title=" · ".join(entry.name for entry in entries[:4]), force=force,
        inputs=source if isinstance(source, ImageSource) else None,
        seed=seed, device=device, progress=progress,
    )  # fmt: skip


def short_names(paths: list[str]) -> dict[str, str]:
    """Return path → file name without its ending, with as many folders as tell them apart."""
    parts = {path: Path(path).with_suffix("").parts if path != "-" else ("stdin",)
             for path in paths}  # fmt: skip
    depth = 1
    while len({names[-depth:] for names in parts.values()}) < len(parts) and depth < 32:
        depth += 1
    return {path: "/".join(names[-depth:]) for path, names in parts.items()}
