"""``ganc demo``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared

if TYPE_CHECKING:
    from rich.table import Table


def demo(
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder for everything it makes; new or empty.")
    ] = "ganc-demo",
    speedup: Annotated[float, typer.Option("--speedup", help="Fewer MACs by this factor.")] = 10.0,
    score_samples: Annotated[
        int, typer.Option("--score-samples", min=5, help="Latents for the scores.")
    ] = 250,
    refit_steps: Annotated[
        int, typer.Option("--refit-steps", min=0, help="Steps of the fit, all layers together.")
    ] = 1000,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Distillation steps.")] = 200,
    eval_samples: Annotated[
        int, typer.Option("--eval-samples", min=2, help="Images for fd, pairs for diversity.")
    ] = 1000,
    device: shared.Device = "auto",
    seed: shared.Seed = 0,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
) -> None:
    """Run the whole pipeline on an embedded face teacher.

    Scores, prunes, fits, distills, evaluates and exports, in minutes on two CPU cores; prints
    teacher, pruned, fitted and distilled side by side, writes an image grid and a report (HTML).

    Example: ganc demo -o ganc-demo
    """
    settings: dict[str, Any] = {
        "speedup": speedup,
        "score_samples": score_samples,
        "refit_steps": refit_steps,
        "steps": steps,
        "eval_samples": eval_samples,
        "seed": seed,
    }
    if dry_run:
        shown = {"output": output, "device": device, **settings}
        return shared.emit_settings("demo", shown, as_json)
    from ganc.showcase.pipeline import DemoSettings
    from ganc.showcase.pipeline import demo as run

    with shared.progress_bar(quiet) as progress:
        result = run(
            output,
            DemoSettings(**settings),
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
