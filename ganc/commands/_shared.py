"""What several commands share: options, output, progress, reading a checkpoint."""

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from ganc.commands._dash import STDIN, STDOUT
from ganc.commands._options import reader
from ganc.options import EXECUTION, OUTPUT, parse_setting
from ganc.terminal import MOST_CELL, shown, shown_lines

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from ganc.models.model import Model
    from ganc.progress import Progress
    from ganc.scores import Scores

Checkpoint = Annotated[
    str,
    typer.Argument(metavar="CKPT", help=f"Checkpoint, of ganc or foreign; {STDIN.help}."),
    STDIN,
]
Output = Annotated[
    str,
    typer.Option("--output", "-o", help=f"Where to write; {STDOUT.help}.", rich_help_panel=OUTPUT),
    STDOUT,
]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=EXECUTION)
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, help="Seed of every random draw.", rich_help_panel=EXECUTION)
]
Network = Annotated[
    str,
    typer.Option("--network", help="generator, or generator_b: a CycleGAN's other direction."),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=OUTPUT),
    STDOUT,
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print no progress and no notes on stderr.", rich_help_panel=OUTPUT
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the resolved settings and stop.",
        rich_help_panel=OUTPUT,
    ),
]
Plot = Annotated[
    str | None,
    typer.Option(
        "--plot",
        metavar="PNG",
        help="Plot the sorted scores of every group, with the cut.",
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite existing outputs.", rich_help_panel=OUTPUT)
]


Set = Annotated[
    list[Any] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set an argument of the new network, e.g. channel_max=64; repeatable.",
        parser=reader(parse_setting),
    ),
]


def choices(about: Mapping[str, str]) -> str:
    """Return the names of a table with a phrase each, for a help text."""
    return ", ".join(f"{name} ({phrase})" for name, phrase in about.items())


def emit(
    result: Mapping[str, Any], as_json: bool, tables: Callable[[], Iterable["RenderableType"]]
) -> None:
    """Print a result on stdout: one JSON document, or tables and sentences for a person."""
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    from rich.console import Console

    # Off a terminal rich assumes 80 columns and folds; a pipe has no width.
    # Paths and names may hold brackets, which rich would read as markup.
    width = None if sys.stdout.isatty() else 160
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with console:  # one write, so that a reader that wants the first lines alone misses nothing
        for table in tables():
            console.print(_printable(table))


def _printable(part: "RenderableType") -> "RenderableType":
    """Return a table or a sentence with nothing in its text that a terminal would act on."""
    from rich.table import Table

    if isinstance(part, str):
        return shown_lines(part, MOST_CELL)
    if isinstance(part, Table):
        part.title = part.title if part.title is None else _printable(part.title)  # type: ignore[assignment]
        for column in part.columns:
            column.header = _printable(column.header)
            column._cells = [_printable(cell) for cell in column._cells]
    return part


def emit_settings(command: str, settings: Mapping[str, Any], as_json: bool) -> None:
    """Print what ``--dry-run`` resolved."""
    emit({"command": command, "settings": settings}, as_json, lambda: [key_values(settings)])


def key_values(rows: Mapping[str, Any], title: str | None = None) -> "Table":
    """Return a two-column table."""
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, format_value(value))
    return table


def format_value(value: Any) -> str:
    """Return a value as a person reads it: thousands grouped, four significant digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {format_value(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value))
    return str(value)


def note(message: str, quiet: bool = False) -> None:
    """Say something on stderr."""
    if not quiet:
        print(shown_lines(message), file=sys.stderr)


def noter(quiet: bool) -> Callable[[str], None]:
    """Return a ``note`` callable for the library."""
    return lambda message: note(message, quiet)


def warner(quiet: bool) -> Callable[[str], None]:
    """Return a ``warn`` callable for the library; it says each thing once."""
    told: set[str] = set()

    def warn(message: str) -> None:
        if message not in told:
            told.add(message)
            note(f"warning: {message}", quiet)

    return warn


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator["Progress"]:
    """Yield a ``progress`` callable for the library.

    On a terminal it draws a bar; elsewhere it names each phase once, so that a log shows where a
    long command is.
    """
    from ganc.progress import silent

    if quiet or not sys.stderr.isatty():
        yield silent if quiet else _name_phases()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(shown(what), total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report


def _name_phases() -> "Progress":
    named: set[str] = set()

    def report(what: str, done: int, total: int) -> None:
        if what not in named:
            named.add(what)
            note(f"{what} …")

    return report


def opened(path: str) -> str | BinaryIO:
    """Return what the library reads: the path, or all that stdin (-) or a named pipe gives.

    A pipe is read here, once and whole: who reads a header first would take it from it.

    Raises:
        InputError: stdin is closed or cannot be read, or a pipe does not end.
    """
    from ganc.errors import InputError
    from ganc.files import is_pipe, read_stream, read_whole

    if path != "-" and not is_pipe(path):
        return path
    where = "stdin" if path == "-" else path
    if path == "-" and sys.stdin is None:
        raise InputError("stdin is closed", "pipe a file into it, or name one")
    try:
        is_stdin = path == "-"
        content = read_stream(sys.stdin.buffer, where) if is_stdin else read_whole(path, InputError)
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror or error}") from error
    stream = io.BytesIO(content)
    stream.name = where
    return stream


@contextlib.contextmanager
def destination(path: str | None) -> Iterator[Any]:
    """Yield the file to write: ``path``, or for - a temporary one that stdout gets at the end.

    So what is read again once it is written can go to a pipe, too. Where the body fails, nothing
    goes to stdout. None stays None.
    """
    import shutil
    import tempfile
    from pathlib import Path

    if path != "-":
        yield None if path is None else Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="ganc-") as folder:
        file = Path(folder) / "stdout"
        yield file
        with file.open("rb") as written:
            shutil.copyfileobj(written, sys.stdout.buffer)


def load_model(path: str, quiet: bool = False) -> "Model":
    """Load a checkpoint; say on stderr what was inferred from a foreign one."""
    from ganc.checkpoints.store import load

    return load(opened(path), note=noter(quiet))


def load_scores(path: str) -> "Scores":
    """Load a scores file; - reads stdin."""
    from ganc.scores import Scores

    return Scores.load(opened(path))


def check_output(path: str, force: bool) -> None:
    """Refuse an output that exists before the slow part; - is stdout."""
    from pathlib import Path

    from ganc.files import check_output as check

    if path != "-":
        check(Path(path), force=force)


def check_plot(path: str | None, output: str, force: bool) -> None:
    """Refuse a ``--plot`` that could not be written, or would replace the output."""
    from pathlib import Path

    from ganc.errors import UsageError
    from ganc.scoring.plot import check_plot as check

    if path is None:
        return
    if Path(path).resolve() == Path(output).resolve():
        raise UsageError(f"-o and --plot both name {path}", "give them different names")
    check(Path(path), force=force)


def checkpoint_name(ckpt: str) -> str:
    """Return what a picture calls a checkpoint."""
    from pathlib import Path

    return "stdin" if ckpt == "-" else Path(ckpt).name


def save_model(model: "Model", output: str, force: bool) -> None:
    """Save a checkpoint to a path, or to stdout for -."""
    from ganc.checkpoints.store import save

    save(model, sys.stdout.buffer if output == "-" else output, force=force)
