"""``ganc prune``."""

import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared
from ganc.commands._dash import STDIN

if TYPE_CHECKING:
    from rich.table import Table

    from ganc.pruning import PrunePlan
    from ganc.scores import Scores


def _count(text: str) -> float:
    """Parse a count such as 4.1G, 5.6M or 30000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE]\+?\d+)?)\s*([kKMGT]?)", text.strip())
    if match is None:
        raise typer.BadParameter(f"`{text}` is not a count; allowed: a number, with K, M, G or T")
    # Decimal, so that 4.1G is 4 100 000 000 and not a float below it.
    return float(Decimal(match[1]).scaleb(3 * " KMGT".index(match[2].upper() or " ")))


def prune(
    ckpt: shared.Checkpoint,
    scores: Annotated[
        str,
        typer.Option("--scores", help=f"Scores of this checkpoint; {STDIN.help}."),
        STDIN,
    ],
    output: shared.Output,
    prune_ratio: Annotated[
        float | None, typer.Option("--prune-ratio", help="Fraction removed of every group.")
    ] = None,
    macs: Annotated[
        float | None,
        typer.Option("--macs", parser=_count, metavar="COUNT", help="MACs at most, e.g. 4.1G."),
    ] = None,
    speedup: Annotated[
        float | None, typer.Option("--speedup", help="Fewer MACs by this factor at least.")
    ] = None,
    params: Annotated[
        float | None,
        typer.Option("--params", parser=_count, metavar="COUNT", help="Parameters at most."),
    ] = None,
    allocation: Annotated[
        str | None,
        typer.Option(
            "--allocation",
            help="uniform, global or threshold; default: threshold for scores that carry some, such"
            " as density's, which then need no budget either, else uniform.",
        ),
    ] = None,
    round_to: Annotated[int, typer.Option("--round-to", help="Round widths up to a multiple.")] = 1,
    min_width: Annotated[
        int, typer.Option("--min-width", help="Channels that every group keeps at least.")
    ] = 1,
    plot: shared.Plot = None,
    force: shared.Force = False,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
) -> None:
    """Remove the channels with the lowest scores.

    Example: ganc prune faces.safetensors --scores faces.diversity.scores.safetensors --speedup 10
    -o small.safetensors
    """
    budget: dict[str, Any] = {
        "prune_ratio": prune_ratio, "macs": macs, "speedup": speedup, "params": params,
        "allocation": allocation, "round_to": round_to, "min_width": min_width,
    }  # fmt: skip
    from ganc.errors import UsageError
    from ganc.pruning import apply_plan, make_plan, removes_nothing, resolve_budget

    resolve_budget(**budget)
    if dry_run:
        settings = {"checkpoint": ckpt, "scores": scores, "output": output, **budget,
                    "plot": plot}  # fmt: skip
        return shared.emit_settings("prune", settings, as_json)
    shared.check_output(output, force)
    shared.check_plot(plot, output, force)
    loaded = shared.load_scores(scores)
    model = shared.load_model(ckpt, quiet)
    plan = make_plan(model, loaded, **budget)
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
