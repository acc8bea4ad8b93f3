"""``ganc demo``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared
from ganc.commands._options import blocks_of, with_options
from ganc.options import options_of
from ganc.showcase.settings import DemoSettings

if TYPE_CHECKING:
    from rich.table import Table


@with_options(blocks_of(DemoSettings, {"device": "speedup", "as_json": "seed"}))
def demo(
    *,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder for everything it makes; new or empty.")
    ] = "ganc-demo",
    device: shared.Device = "auto",
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
    **settings: Any,
) -> None:
    """Run the whole pipeline on an embedded face teacher.

    Scores, prunes, fits, distills, evaluates and exports, in minutes on two CPU cores; prints
    teacher, pruned, fitted and distilled side by side, writes an image grid and a report (HTML).

    Example: ganc demo -o ganc-demo
    """
    options = options_of(DemoSettings, settings)
    if dry_run:
        shown = {"output": output, "device": device, **settings}
        return shared.emit_settings("demo", shown, as_json)
    from ganc.showcase.pipeline import demo as run

    with shared.progress_bar(quiet) as progress:
        result = run(
            output,
            options,
            device=device,
            progress=progress,
            warn=shared.warner(quiet),
        )
    shared.emit(result, as_json, lambda: _tables(result))
    return None


ROWS = {
    "macs": "MACs",
    "params": "parameters",
    "latency": "latency at batch 1, ms",
    "latency-batch8": "latency at batch 8, ms",
    "fd": "fd to real images (effnet-lite0, {better} is better)",
    "lpips-diversity": "LPIPS diversity ({better} is better)",
}


def _tables(result: dict[str, Any]) -> list["Table"]:
    from rich.table import Table

    from ganc.values import VALUES

    table = Table(title="teacher, pruned, fitted, distilled", title_justify="left")
    table.add_column("")
    for name in result["models"]:
        table.add_column(name, justify="right")
    for metric, label in ROWS.items():
        values = [shared.format_value(row.get(metric)) for row in result["models"].values()]
        table.add_row(label.format(better=VALUES[metric].better), *values)
    made = {key: result["outputs"][key] for key in ("report", "images", "distilled", "onnx")}
    seconds = {step: f"{value:.0f} s" for step, value in result["seconds"].items()}
    return [table, shared.key_values(made), shared.key_values({"time": seconds})]
