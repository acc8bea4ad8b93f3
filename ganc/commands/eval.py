"""``ganc eval``."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _report
from ganc.commands import _shared as shared
from ganc.commands._dash import EXTRA_STDOUT, STDIN
from ganc.commands._options import blocks_of, with_options
from ganc.errors import EXIT_REQUIREMENT
from ganc.evaluation.options import RECORDED, SOURCES, EvalOptions
from ganc.options import OUTPUT

if TYPE_CHECKING:
    from rich.table import Table

Result = dict[str, Any]
"""What ``ganc.evaluate`` returns, with the checkpoint's path."""


@with_options(blocks_of(EvalOptions, {"require": "data", "device": "samples", "as_json": "seed"}))
def eval_(
    ckpts: Annotated[
        list[str],
        typer.Argument(metavar="CKPT…", help=f"Checkpoints, ours or foreign; one {STDIN.help}."),
        STDIN,
    ],
    *,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Names with commas between them; default: macs,params,latency and, with a teacher,"
            " l1,psnr; with --require just what that needs.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help=f"Checkpoint to compare with; {STDIN.help}."),
        STDIN,
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            help="Condition, exit 1 if it is not met: 'fd<=80', 'macs<=4.1G', 'fd<=1.2*teacher'."
            " Repeatable.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="JSON",
            help=f"Earlier result (--json) to compare with, if alike; {STDIN.help}.",
            rich_help_panel=OUTPUT,
        ),
        STDIN,
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(
            "--report",
            metavar="HTML",
            help=f"Write a page with images and plots, too; {EXTRA_STDOUT.help}.",
            rich_help_panel=OUTPUT,
        ),
        EXTRA_STDOUT,
    ] = None,
    device: shared.Device = "auto",
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
    force: shared.Force = False,
    **settings: Any,
) -> int:
    """Measure models: alone, against their teacher, against real images.

    Several checkpoints give one table, and one report; the teacher then has a column of its own.

    Example: ganc eval student.safetensors --teacher faces.pt --data faces.zip --metrics l1,fd
    """
    names = None if metrics is None else [name.strip() for name in metrics.split(",")]
    from ganc.evaluation.comparison import check_settings, compare_results, read_result
    from ganc.evaluation.evaluate import evaluate, plan_of
    from ganc.evaluation.metrics import of_teacher
    from ganc.exporters.runtime import prepare_onnx

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
    earlier, before = None, "stdin" if against == "-" else str(against)
    if against is not None:
        earlier = read_result(shared.opened(against))
        check_settings(plan.metrics, options, earlier, before)
    warn = shared.warner(quiet)
    with shared.progress_bar(quiet) as progress, shared.destination(report) as page:
        common: dict[str, Any] = {
            "device": device, "to_onnx": prepare_onnx, "progress": progress, "warn": warn,
            **settings,
        }  # fmt: skip
        models = {ckpt: shared.load_model(ckpt, quiet) for ckpt in ckpts}
        judge = None if teacher is None else shared.load_model(teacher, quiet)
        shows_teacher = judge is not None and (len(ckpts) > 1 or report is not None)
        shown = {teacher: judge, **models} if teacher and judge and shows_teacher else models
        if page is not None:
            _report.check(page, shown, teacher, options.network, force=force)
        teachers: Result | None = None
        if shows_teacher:
            alone = of_teacher(plan.metrics, has_data=options.data is not None)
            teachers = {"checkpoint": teacher, **evaluate(shown[str(teacher)], alone, **common)}
        results: dict[str, Result] = {}
        for ckpt, model in models.items():
            found = evaluate(
                model, names, teacher=judge, require=require or (),
                teacher_values=None if teachers is None else teachers["metrics"], **common,
            )  # fmt: skip
            results[ckpt] = {"checkpoint": ckpt, **found}
            if earlier is not None:
                rows = compare_results(found, earlier, before)
                results[ckpt]["against"] = {"result": against, "values": rows}
        if page is not None:
            measured = results if teachers is None else {str(teacher): teachers, **results}
            _report.write(
                page, shown, measured, teacher, data=settings["data"], input=settings["input"],
                resize=options.resize, network=options.network, seed=options.seed, device=device,
                force=force, progress=progress,
            )  # fmt: skip
    all_results = list(results.values())
    document = all_results[0] if len(ckpts) == 1 else {"results": all_results, "teacher": teachers}
    if report is not None:
        document = {**document, "report": report}
    if report != "-":
        shared.emit(document, as_json, lambda: _tables(all_results, teachers))
    met = [row["met"] for result in all_results for row in result["requirements"]]
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


REQUIREMENT = {"expr": "required", "value": "value", "bound": "bound", "met": "met"}
COMPARISON = {"name": "", "value": "now", "before": "before", "difference": "difference"}
"""Key of a row → its heading."""


def _tables(results: list[Result], teacher: Result | None) -> Iterator["Table"]:
    everything = [*([teacher] if teacher else []), *results]
    names = _report.short_names([str(result["checkpoint"]) for result in everything])
    yield _values({names[str(result["checkpoint"])]: result for result in everything})
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
