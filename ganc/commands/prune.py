"""``ganc prune``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared
from ganc.commands._dash import STDIN
from ganc.commands._options import parameters_of, with_options
from ganc.pruning.options import PruneOptions

if TYPE_CHECKING:
    from rich.table import Table

    from ganc.pruning.slicing import PrunePlan
    from ganc.scores import Scores


@with_options({"plot": parameters_of(PruneOptions)})
def prune(
    ckpt: shared.Checkpoint,
    *,
    scores: Annotated[
        str,
        typer.Option("--scores", help=f"Scores of this checkpoint; {STDIN.help}."),
        STDIN,
    ],
    output: shared.Output,
    plot: shared.Plot = None,
    force: shared.Force = False,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
    **settings: Any,
) -> None:
    """Remove the channels with the lowest scores.

    Example: ganc prune faces.safetensors --scores faces.diversity.scores.safetensors --speedup 10
    -o small.safetensors
    """
    options = PruneOptions(**settings)
    if dry_run:
        shown = {"checkpoint": ckpt, "scores": scores, "output": output, **settings, "plot": plot}
        return shared.emit_settings("prune", shown, as_json)
    from ganc.errors import UsageError
    from ganc.pruning.plan import choose, removes_nothing
    from ganc.pruning.slicing import apply_plan

    shared.check_output(output, force)
    shared.check_plot(plot, output, force)
    loaded = shared.load_scores(scores)
    model = shared.load_model(ckpt, quiet)
    plan = choose(model, loaded, options)
    if removes_nothing(model, plan):
        raise UsageError(
            "the plan removes nothing", "ask for a smaller budget, or lower --round-to"
        )
    student = apply_plan(model, plan)
    shared.save_model(student, output, force)
    if plot is not None:
        _plot(loaded, plan, plot, shared.checkpoint_name(ckpt), force)
    result = {
        "output": output,
        "prune_ratio": plan.settings["prune_ratio"],
        "widths": student.widths,
        "params": {"before": model.params(), "after": student.params()},
        "macs": {"before": model.macs(), "after": student.macs()},
        "method": loaded.method,
    }
    if plot is not None:
        result["plot"] = plot
    if output != "-":
        shared.emit(result, as_json, lambda: _tables(result, model.widths))
    return None


def _plot(scores: "Scores", plan: "PrunePlan", path: str, checkpoint: str, force: bool) -> None:
    from ganc.scoring.plot import plot_scores, save_plot

    settings = plan.settings
    title = f"{checkpoint} · {scores.method} · prune ratio {settings['prune_ratio']:.4g}"
    for name in ("macs", "params", "speedup"):
        if name in settings:
            title += f" (--{name} {settings[name]:.4g})"
    if settings["allocation"] != "uniform":
        title += f", {settings['allocation']}"
    save_plot(plot_scores(scores, plan.widths(), title), Path(path), force=force)


def _tables(result: dict[str, Any], before: dict[str, int]) -> list["Table"]:
    from rich.table import Table

    widths = Table(title=f"channels by {result['method']}", title_justify="left")
    widths.add_column("group")
    for column in ("before", "after"):
        widths.add_column(column, justify="right")
    for name, width in result["widths"].items():
        widths.add_row(name, str(before[name]), str(width))
    summary = {"output": result["output"], "prune ratio": result["prune_ratio"]}
    if "plot" in result:
        summary["plot"] = result["plot"]
    for count in ("params", "macs"):
        old, new = result[count]["before"], result[count]["after"]
        shown = shared.format_value
        summary[count] = f"{shown(old)} → {shown(new)} ({old / new:.2f}x fewer)"
    return [widths, shared.key_values(summary)]
