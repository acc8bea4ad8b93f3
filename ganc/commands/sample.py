"""``ganc sample``."""

from pathlib import Path
from typing import Annotated

import typer

from ganc.commands import _shared as shared


def _classes(text: str) -> list[int]:
    """Parse 0,3,7 or 0-9."""
    classes: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise typer.BadParameter(f"`{text}` is no list of classes; allowed: 3 or 0,3,7 or 0-9")
        classes += range(int(first), int(last or first) + 1)
    return classes


def sample(
    ckpt: shared.Checkpoint,
    output: shared.Output,
    num: Annotated[int, typer.Option("-n", "--num", min=1, help="Number of images.")] = 16,
    columns: Annotated[
        int | None, typer.Option("--columns", min=1, help="Images per row; default: square.")
    ] = None,
    truncation: Annotated[
        float, typer.Option("--truncation", help="Truncation psi; 1 changes nothing.")
    ] = 1.0,
    truncation_cutoff: Annotated[
        int | None, typer.Option("--truncation-cutoff", help="Truncate this many ws only.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="CLASSES", help="Classes, e.g. 3 or 0,3,7 or 0-9."),
    ] = None,
    noise_mode: Annotated[
        str, typer.Option("--noise-mode", help="const, random or none.")
    ] = "const",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per step.")] = 16,
    device: shared.Device = "auto",
    seed: shared.Seed = 0,
    force: shared.Force = False,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
) -> None:
    """Look at what a model generates: one PNG with a grid of samples.

    Sample i depends on the seed alone, so grids of teacher and student show the same latents.

    Example: ganc sample faces.safetensors -o grid.png -n 32 --truncation 0.7
    """
    settings = {
        "num": num,
        "seed": seed,
        "truncation_psi": truncation,
        "truncation_cutoff": truncation_cutoff,
        "labels": None if labels is None else _classes(labels),
        "noise_mode": noise_mode,
    }
    if dry_run:
        return shared.emit_settings(
            "sample",
            {"checkpoint": ckpt, "output": output, "device": device, "batch": batch, **settings},
            as_json,
        )
    shared.check_output(output, force)
    from ganc.data.grid import save_grid, zoom_for
    from ganc.models.sampling import sample as draw

    model = shared.load_model(ckpt, quiet)
    images = draw(
        model,
        num,
        seed=seed,
        truncation_psi=truncation,
        truncation_cutoff=truncation_cutoff,
        labels=None if labels is None else _classes(labels),
        noise_mode=noise_mode,
        batch=batch,
        device=device,
    )
    save_grid(images, Path(output), columns=columns, zoom=zoom_for(images.shape[-1]), force=force)
    result = {"output": output, "images": num, "resolution": images.shape[-1], "settings": settings}
    shared.emit(result, as_json, lambda: [shared.key_values(result)])
    return None
