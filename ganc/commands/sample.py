"""``ganc sample``."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ganc.commands import _shared as shared

LABELS = "3 or 0,3,7 or 0-9 (classes), 0.5,1;2,0 (vectors, one alone: 0.5,1;) or a file"

_MOST_CLASSES = 1_000_000
_LONGEST_RANGE = 20

Labels = list[int] | list[list[float]] | str
"""Class numbers, vectors, or the name of a file."""


def _parse_labels(text: str) -> Labels:
    """Parse one of the forms that ``LABELS`` lists."""
    if ";" in text:
        return [_vector(part, text) for part in text.removesuffix(";").split(";")]
    parts = [part.strip() for part in text.split(",")]
    if all(re.fullmatch(r"[0-9]+(-[0-9]+)?", part) for part in parts):
        return [number for part in parts for number in _classes(part)]
    path = Path(text)
    if (path.exists() and not path.is_dir()) or path.suffix == ".json":
        return text
    raise typer.BadParameter(f"`{text}` is none of: {LABELS}")


def _vector(part: str, text: str) -> list[float]:
    try:
        return [float(number) for number in part.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"`{text}` has no vector of numbers at `{part}`; allowed: {LABELS}"
        ) from None


def _classes(part: str) -> range:
    first, _, last = part.partition("-")
    classes = range(int(first), int(last or first) + 1)
    if len(part) > _LONGEST_RANGE or len(classes) > _MOST_CLASSES:
        raise typer.BadParameter(f"`{part}` holds more than {_MOST_CLASSES} classes")
    if not classes:
        raise typer.BadParameter(f"`{part}` holds no class; the lower one comes first")
    return classes


_Num = Annotated[
    int,
    typer.Option(
        "-n", "--num", min=1, help="Number of images; with --input at most as many as it holds."
    ),
]
_Columns = Annotated[
    int | None, typer.Option("--columns", min=1, help="Images per row; default: square.")
]
_Truncation = Annotated[float, typer.Option("--truncation", help="Truncation psi; 1 is none.")]
_TruncationCutoff = Annotated[
    int | None, typer.Option("--truncation-cutoff", help="Truncate only the first this many ws.")
]
_Labels = Annotated[
    str | None,
    typer.Option("--labels", help=f"Labels, used in turn: {LABELS}."),
]
_NoiseMode = Annotated[
    str, typer.Option("--noise-mode", help="Noise inputs: const, random or none.")
]
_Input = Annotated[
    str | None,
    typer.Option("--input", metavar="PATH", help="Image, folder or zip for a translator."),
]
_Resize = Annotated[
    bool, typer.Option("--resize", help="Scale square inputs to the model's resolution.")
]
_Batch = Annotated[int, typer.Option("--batch", min=1, help="Images per step.")]


def sample(
    ckpt: shared.Checkpoint,
    output: shared.Output,
    num: _Num = 16,
    columns: _Columns = None,
    truncation: _Truncation = 1.0,
    truncation_cutoff: _TruncationCutoff = None,
    labels: _Labels = None,
    noise_mode: _NoiseMode = "const",
    input: _Input = None,
    resize: _Resize = False,
    network: shared.Network = "generator",
    batch: _Batch = 16,
    device: shared.Device = "auto",
    seed: shared.Seed = 0,
    force: shared.Force = False,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
) -> None:
    """Show what a model makes: one PNG with a grid of images.

    Latent i depends on the seed alone, so grids of teacher and student show the same latents. A
    translator needs --input; the grid shows each image beside its translation.

    Example: ganc sample faces.safetensors -o grid.png -n 32 --truncation 0.7
    """
    settings: dict[str, Any] = {
        "seed": seed, "truncation_psi": truncation, "truncation_cutoff": truncation_cutoff,
        "labels": None if labels is None else _parse_labels(labels), "noise_mode": noise_mode,
        "input": input, "resize": resize, "network": network,
    }  # fmt: skip
    if dry_run:
        shown = {"checkpoint": ckpt, "output": output, "device": device, "batch": batch}
        return shared.emit_settings("sample", {**shown, "num": num, **settings}, as_json)
    shared.check_output(output, force)
    from ganc.data.grid import save_grid, zoom_for
    from ganc.sampling import beside_inputs
    from ganc.sampling import sample as draw

    model = shared.load_model(ckpt, quiet)
    images = draw(model, num, batch=batch, device=device, warn=shared.warner(quiet), **settings)
    count, (height, width) = len(images), images.shape[2:]
    if input is not None:
        images = beside_inputs(model, images, input, resize=resize, network=network)
    with shared.destination(output) as path:
        save_grid(images, path, columns=columns, zoom=zoom_for(width), force=force)
    result = {
        "output": output, "images": count, "resolution": width,
        "size": [height, width], "settings": {"num": num, **settings},
    }  # fmt: skip
    if output != "-":
        shared.emit(result, as_json, lambda: [shared.key_values(result)])
    return None
