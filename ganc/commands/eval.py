"""``ganc eval``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared
from ganc.errors import EXIT_REQUIREMENT

if TYPE_CHECKING:
    from rich.table import Table


def eval_(
    ckpt: shared.Checkpoint,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Names with commas between them; default: macs,params,latency and, with a teacher,"
            " l1,psnr; with --require just what that needs.",
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Checkpoint to compare with.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR|ZIP", help="Real images to compare with.")
    ] = None,
    input: Annotated[
        str | None,
        typer.Option("--input", metavar="DIR|ZIP", help="Images for a translator to translate."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            help="Condition, exit 1 if it is not met: 'fd<=80', 'macs<=4.1G', 'fd<=1.2*teacher'."
            " Repeatable.",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples", help="Images for fid and fd, pairs for diversity; at most all of --input."
        ),
    ] = 2000,
    batch: Annotated[int, typer.Option("--batch", help="Images per forward pass, in fours.")] = 32,
    truncation_psi: Annotated[
        float, typer.Option("--truncation", help="Truncation of the latents; 1 is none.")
    ] = 1.0,
    noise_mode: Annotated[
        str, typer.Option("--noise-mode", help="random, const or none.")
    ] = "random",
    features: Annotated[
        str, typer.Option("--features", help="Feature network of fd: effnet-lite0 or inception.")
    ] = "effnet-lite0",
    neighbours: Annotated[
        int | None,
        typer.Option("--neighbours", help="k of precision, recall (3), density and coverage (5)."),
    ] = None,
    perceptual: Annotated[
        str, typer.Option("--perceptual", help="LPIPS network: lpips-alex, -vgg or -squeeze.")
    ] = "lpips-alex",
    resize: Annotated[
        bool,
        typer.Option("--resize", help="Scale square images of --data and --input to the model's."),
    ] = False,
    network: shared.Network = "generator",
    offline: Annotated[
        bool, typer.Option("--offline", help="Never fetch weights over the network.")
    ] = False,
    device: shared.Device = "auto",
    seed: shared.Seed = 0,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
) -> int:
    """Measure a model: alone, against its teacher, against real images.

    Example: ganc eval student.safetensors --teacher faces.pt --data faces.zip --metrics l1,fd
    """
    names = None if metrics is None else [name.strip() for name in metrics.split(",")]
    settings: dict[str, Any] = {
        "samples": samples, "seed": seed, "batch": batch, "truncation_psi": truncation_psi,
        "noise_mode": noise_mode, "features": features, "perceptual": perceptual,
        "offline": offline, "network": network, "neighbours": neighbours,
    }  # fmt: skip
    from ganc.errors import UsageError
    from ganc.evaluation.evaluate import evaluate, make_plan
    from ganc.evaluation.task import Settings

    if ckpt == teacher == "-":
        raise UsageError("CKPT and --teacher cannot both be -", "name one of them")
    Settings(**settings)
    plan = make_plan(
        names, require or (), has_teacher=teacher is not None, has_data=data is not None
    )
    if dry_run:
        resolved = {
            "checkpoint": ckpt, "teacher": teacher, "data": data, "input": input,
            "metrics": plan.metrics, "require": require or [], "resize": resize,
            "device": device, **settings,
        }  # fmt: skip
        shared.emit_settings("eval", resolved, as_json)
        return 0
    with shared.progress_bar(quiet) as progress:
        result = evaluate(
            shared.load_model(ckpt, quiet), names,
            teacher=None if teacher is None else shared.load_model(teacher, quiet),
            data=data, input=input, require=require or (), resize=resize, device=device,
            progress=progress, warn=shared.warner(quiet), **settings,
        )  # fmt: skip
    shared.emit({"checkpoint": ckpt, **result}, as_json, lambda: _tables(ckpt, result))
    return 0 if all(row["met"] for row in result["requirements"]) else EXIT_REQUIREMENT


def _tables(ckpt: str, result: dict[str, Any]) -> list["Table"]:
    tables = [shared.key_values({"checkpoint": ckpt, **result["metrics"]})]
    if result["requirements"]:
        tables.append(_requirements(result["requirements"]))
    shown = {
        name: value for name, value in result["settings"].items() if not isinstance(value, dict)
    }
    for name, protocol in result["settings"]["protocols"].items():
        shown |= {name: protocol} if protocol else {}
    return [*tables, shared.key_values(shown, title="settings")]


def _requirements(rows: list[dict[str, Any]]) -> "Table":
    from rich.table import Table

    table = Table(title="requirements", title_justify="left")
    for column in ("required", "value", "bound", "met"):
        table.add_column(column)
    for row in rows:
        numbers = [shared.format_value(row[key]) for key in ("value", "bound", "met")]
        table.add_row(row["expr"], *numbers)
    return table
