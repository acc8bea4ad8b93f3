"""``ganc prune``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared
from ganc.commands._dash import STDIN
from ganc.commands._options import parameters_of, with_options
from ganc.options import options_of
from ganc.pruning.options import FIT, PruneOptions

if TYPE_CHECKING:
    from rich.table import Table

    from ganc.pruning.slicing import PrunePlan
    from ganc.scores import Scores


_Scores = Annotated[
    str, typer.Option("--scores", help=f"Scores of this checkpoint; {STDIN.help}."), STDIN
]
_Teacher = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        help=f"Fit to this model, from which CKPT itself was pruned; {STDIN.help}.",
        rich_help_panel=FIT,
    ),
    STDIN,
]


@with_options({"plot": parameters_of(PruneOptions)})
def prune(
    ckpt: shared.Checkpoint,
    *,
    scores: _Scores,
    output: shared.Output,
    plot: shared.Plot = None,
    teacher: _Teacher = None,
    device: shared.Device = "auto",
    force: shared.Force = False,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
    **settings: Any,
) -> None:
    """Remove the channels with the lowest scores; fit what is left with --refit.

    Example: ganc prune faces.safetensors --scores faces.rebuild.scores.safetensors --speedup 10
    --refit -o small.safetensors
    """
    options = options_of(PruneOptions, settings)
    if dry_run:
        shown = {"checkpoint": ckpt, "scores": scores, "output": output, **settings, "plot": plot}
        if options.refit:
            shown |= {"teacher": teacher, "device": device, "forward_passes": options.refit_cost()}
        if options.latency is not None:
            shown |= _predicted(ckpt, scores, options, device, quiet)
        return shared.emit_settings("prune", shown, as_json)
    from ganc.errors import UsageError
    from ganc.pruning.plan import check_fit, choose, removes_nothing, sliced

    check_fit(options, teacher)
    shared.check_output(output, force)
    shared.check_plot(plot, output, force)
    loaded = shared.load_scores(scores)
    model = shared.load_model(ckpt, quiet)
    with shared.progress_bar(quiet or options.latency is None) as progress:
        plan = choose(
            model, loaded, options, device=device, progress=progress, warn=shared.warner(quiet)
        )
    if removes_nothing(model, plan):
        raise UsageError(
            "the plan removes nothing", "ask for a smaller budget, or lower --round-to"
        )
    whole = None if teacher is None else shared.load_model(teacher, quiet)
    with shared.progress_bar(quiet or not options.refit) as progress:
        student = sliced(
            model, plan, options, teacher=whole, device=device, progress=progress,
            warn=shared.warner(quiet),
        )  # fmt: skip
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
    if "timing" in plan.settings:
        result["latency"] = {"most_ms": options.latency, **plan.settings["timing"]}
    if options.refit:
        fit = student.provenance[-1]["settings"]
        errors = {
            name: dict(zip(("before", "after"), e, strict=True))
            for name, e in fit["errors"].items()
        }
        result["refit"] = {**fit, "errors": errors}
    if plot is not None:
        result["plot"] = plot
    if output != "-":
        shared.emit(result, as_json, lambda: _tables(result, model.widths))
    return None


def _predicted(
    ckpt: str, scores: str, options: PruneOptions, device: str, quiet: bool
) -> dict[str, Any]:
    """Return what a plan within a latency is predicted to be and to take."""
    from ganc.pruning.plan import choose

    loaded, model = shared.load_scores(scores), shared.load_model(ckpt, quiet)
    with shared.progress_bar(quiet) as progress:
        plan = choose(
            model, loaded, options, device=device, progress=progress, warn=shared.warner(quiet),
            is_trial=True,
        )  # fmt: skip
    return {"prune_ratio": plan.settings["prune_ratio"], "timing": plan.settings["timing"]}


def _plot(scores: "Scores", plan: "PrunePlan", path: str, checkpoint: str, force: bool) -> None:
    from ganc.scoring.plot import plot_scores, save_plot

    settings = plan.settings
    title = f"{checkpoint} · {scores.method} · prune ratio {settings['prune_ratio']:.4g}"
    for name in ("macs", "params", "speedup", "latency"):
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
    if "latency" in result:
        summary |= _times(result["latency"])
    fit = [_fit_table(result["refit"]["errors"])] if "refit" in result else []
    return [widths, *fit, shared.key_values(summary)]


def _times(found: dict[str, Any]) -> dict[str, str]:
    how = f"{found['runtime']}, {found['precision']}, batch {found['batch']}"
    return {
        "latency": f"{found['measured_ms']:.4g} ms measured, {found['predicted_ms']:.4g} predicted"
        f" (at most {found['most_ms']:.4g})",
        "run by": f"{how}, {found['threads']} threads, {found['processor']}",
    }


def _fit_table(errors: dict[str, dict[str, float]]) -> "Table":
    from rich.table import Table

    table = Table(title="error, relative to the teacher", title_justify="left")
    table.add_column("layer")
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    for layer, error in errors.items():
        name = f"{layer}, mean L1" if layer.endswith("images") else layer
        table.add_row(name, *map(shared.format_value, error.values()))
    return table
