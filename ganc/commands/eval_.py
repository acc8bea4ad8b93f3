"""``ganc eval``."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared
from ganc.commands._dash import EXTRA_STDOUT, STDIN
from ganc.commands._options import blocks_of, with_options
from ganc.errors import EXIT_REQUIREMENT
from ganc.evaluation.options import RECORDED, SOURCES, EvalOptions
from ganc.options import OUTPUT

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from ganc.models.model import Model

Result = dict[str, Any]
"""What ``ganc.evaluate`` returns for a model, with the checkpoint's path."""

Checkpoints = Annotated[
    list[str],
    typer.Argument(metavar="CKPT…", help=f"Checkpoints, of ganc or foreign; one {STDIN.help}."),
    STDIN,
]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        help="Comma-separated names. Default: macs,params,latency and, with a teacher, l1,psnr;"
        " with --require only what that needs.",
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option("--teacher", help=f"Checkpoint to compare with; {STDIN.help}."),
    STDIN,
]
Require = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        help="Condition, e.g. 'fd<=80', 'macs<=4.1G', 'fd<=1.2*teacher'; exit 1 if not met."
        " Repeatable.",
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="JSON",
        help=f"Compare with an earlier result (--json) of the same protocol; {STDIN.help}.",
        rich_help_panel=OUTPUT,
    ),
    STDIN,
]
Report = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="HTML",
        help=f"Also write a page with images and plots; {EXTRA_STDOUT.help}.",
        rich_help_panel=OUTPUT,
    ),
    EXTRA_STDOUT,
]


@with_options(blocks_of(EvalOptions, {"require": "data", "device": "samples", "as_json": "seed"}))
def eval_(
    ckpts: Checkpoints,
    *,
    metrics: Metrics = None,
    teacher: Teacher = None,
    require: Require = None,
    against: Against = None,
    report: Report = None,
    device: shared.Device = "auto",
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
    force: shared.Force = False,
    **settings: Any,
) -> int:
    """Measure models: alone, against a teacher, against real images.

    Several checkpoints give one table, and one report; the teacher then has a column of its own.

    Example: ganc eval student.safetensors --teacher faces.pt --data faces.zip --metrics l1,fd
    """
    names = None if metrics is None else [name.strip() for name in metrics.split(",")]
    from ganc.evaluation.evaluate import evaluate
    from ganc.evaluation.plan import plan_of
    from ganc.report.entry import short_names
    from ganc.report.report import check_report, write_report

    _check_distinct(ckpts, teacher, has_report=report is not None)
    options = EvalOptions(**settings)
    plan = plan_of(names, require or (), options, has_teacher=teacher is not None)
    if dry_run:
        resolved = {
            **({"checkpoint": ckpts[0]} if len(ckpts) == 1 else {"checkpoints": ckpts}),
            "teacher": teacher, **{name: settings[name] for name in SOURCES},
            "metrics": plan.metrics, "require": require or [], "against": against,
            "report": report, "repeats": options.repeats, "resize": options.resize,
            "device": device, **{name: settings[name] for name in RECORDED},
        }  # fmt: skip
        shared.emit_settings("eval", resolved, as_json)
        return 0
    earlier = None if against is None else _read_earlier(against, plan.metrics, options)
    with shared.progress_bar(quiet) as progress, shared.destination(report) as page:
        models, judge = _load(ckpts, teacher, quiet, has_report=report is not None)
        shown = {name: models[ckpt] for ckpt, name in short_names(models).items()}
        if page is not None:
            check_report(page, shown, network=options.network, force=force)
        measured = evaluate(
            models, names, teacher=judge, require=require or (), device=device,
            progress=progress, warn=shared.warner(quiet), **settings,
        )  # fmt: skip
        own, results = measured[: -len(ckpts)], measured[-len(ckpts) :]
        if earlier is not None:
            _compare(results, earlier, str(against))
        if page is not None:
            write_report(measured, page, shown, force=force, device=device, progress=progress)
    _print(results, own[0] if own else None, report, as_json)
    met = [row["met"] for result in results for row in result["requirements"]]
    return 0 if all(met) else EXIT_REQUIREMENT


def _check_distinct(ckpts: list[str], teacher: str | None, *, has_report: bool) -> None:
    """Refuse checkpoints that would be two columns of one name."""
    from pathlib import Path

    from ganc.errors import UsageError

    files = [Path(ckpt).resolve() for ckpt in ckpts]
    for ckpt, file in zip(ckpts, files, strict=True):
        if files.count(file) > 1:
            raise UsageError(f"{ckpt} is given {files.count(file)} times", "name it once")
        is_column = len(ckpts) > 1 or has_report
        if teacher is not None and is_column and file == Path(teacher).resolve():
            raise UsageError(
                f"{ckpt} is the --teacher, which has a column of its own",
                "leave it out of the checkpoints",
            )


def _read_earlier(against: str, metrics: list[str], options: EvalOptions) -> Result:
    """Read an earlier result, which has to be measured as this one will be."""
    from ganc.evaluation.comparison import check_settings, read_result

    earlier = read_result(shared.opened(against))
    check_settings(metrics, options, earlier, _where(against))
    return earlier


def _where(against: str) -> str:
    """Return what errors call an earlier result."""
    return "stdin" if against == "-" else against


def _load(
    ckpts: list[str], teacher: str | None, quiet: bool, *, has_report: bool
) -> tuple[dict[str, "Model"], "Model | None"]:
    """Return the models of the table, the teacher first where it has a column, and the teacher."""
    models = {ckpt: shared.load_model(ckpt, quiet) for ckpt in ckpts}
    if teacher is None:
        return models, None
    judge = shared.load_model(teacher, quiet)
    return ({teacher: judge, **models} if len(ckpts) > 1 or has_report else models), judge


def _compare(results: list[Result], earlier: Result, against: str) -> None:
    """Put an earlier result beside each new one."""
    from ganc.evaluation.comparison import compare_results

    for result in results:
        rows = compare_results(result, earlier, _where(against))
        result["against"] = {"result": against, "values": rows}


def _print(
    results: list[Result], teacher: Result | None, report: str | None, as_json: bool
) -> None:
    document = results[0] if len(results) == 1 else {"results": results, "teacher": teacher}
    if report is not None:
        document = {**document, "report": report}
    if report != "-":
        shared.emit(document, as_json, lambda: _tables(results, teacher))


REQUIREMENT = {"expr": "required", "value": "value", "bound": "bound", "met": "met"}
COMPARISON = {"name": "", "value": "now", "before": "before", "difference": "difference"}
"""Key of a row → its heading."""


def _tables(results: list[Result], teacher: Result | None) -> Iterator["RenderableType"]:
    from ganc.report.entry import short_names
    from ganc.values import diversity_kept

    everything = [*([teacher] if teacher else []), *results]
    names = short_names([result["checkpoint"] for result in everything])
    yield _values({names[result["checkpoint"]]: result for result in everything})
    kept = (diversity_kept(names[row["checkpoint"]], row["metrics"]) for row in results)
    yield from filter(None, kept)
    for result in results:
        of = "" if len(results) == 1 else f" of {names[result['checkpoint']]}"
        if result["requirements"]:
            yield _rows(result["requirements"], f"requirements{of}", REQUIREMENT)
        if "against" in result:
            earlier = result["against"]
            yield _rows(earlier["values"], f"against {earlier['result']}{of}", COMPARISON)
    settings = results[0]["settings"]
    shown = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    for name, protocol in settings["protocols"].items():
        own = {key: _short(value) for key, value in protocol.items() if key not in shown}
        shown |= {name: own} if own else {}
    yield shared.key_values(shown, title="settings")


def _short(value: Any) -> Any:
    """Return the first digits of a hash; the JSON document has them all."""
    is_hash = isinstance(value, str) and len(value) == 64
    return f"{value[:12]}…" if is_hash else value


def _values(results: Mapping[str, Result]) -> "Table":
    """Return a table of values by model."""
    from rich.table import Table

    table = Table()
    for name in ("", *results):
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    for name in dict.fromkeys(name for result in results.values() for name in result["metrics"]):
        table.add_row(name, *(_with_deviation(result, name) for result in results.values()))
    return table


def _with_deviation(result: Result, name: str) -> str:
    if name not in result["metrics"]:
        return "–"
    value = shared.format_value(result["metrics"][name])
    deviation = result.get("std", {}).get(name)
    return value if not deviation else f"{value} ± {shared.format_value(deviation)}"


def _rows(rows: list[dict[str, Any]], title: str, columns: dict[str, str]) -> "Table":
    """Return a table of dicts; ``columns`` is key → heading, the first one text."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    first, *others = columns
    for heading in columns.values():
        table.add_column(heading)
    for row in rows:
        table.add_row(row[first], *(shared.format_value(row[key]) for key in others))
    return table
