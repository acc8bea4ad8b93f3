"""How a training run looks on stderr: a live table on a terminal, plain lines elsewhere."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ganc.commands import _shared as shared

if TYPE_CHECKING:
    from rich.console import Group

    from ganc.distillation.monitor import Observer, TrainingStatus
    from ganc.progress import Progress

LINES_EVERY = 10
"""Off a terminal every tenth status is a line: a long log stays readable."""


@contextlib.contextmanager
def training_view(quiet: bool) -> Iterator[tuple["Progress", "Observer"]]:
    """Yield what the library is to tell its progress and its status to."""
    from ganc.distillation.monitor import unobserved
    from ganc.progress import silent

    if quiet:
        yield silent, unobserved
    elif sys.stderr.isatty():
        with _live_table() as watchers:
            yield watchers
    else:
        with shared.progress_bar(quiet) as progress:
            yield progress, _line_printer()


def _line_printer() -> "Observer":
    count = 0

    def report(status: "TrainingStatus") -> None:
        nonlocal count
        if count % LINES_EVERY == 0 or status.step == status.steps:
            shared.note(status_line(status))
        count += 1

    return report


def status_line(status: "TrainingStatus") -> str:
    """Return a status as one line of a log."""
    losses = ", ".join(f"{name} {value:.4g}" for name, value in status.losses.items())
    evaluated = f"; {_evaluation(status.evaluation)}" if status.evaluation else ""
    return (
        f"step {status.step}/{status.steps}, {_speed(status)}, {status.images} images,"
        f" {_duration(status.seconds_left)} left, {_memory(status)}: {losses}{evaluated}"
    )


@contextlib.contextmanager
def _live_table() -> Iterator[tuple["Progress", "Observer"]]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
              TaskProgressColumn())  # fmt: skip
    tasks: dict[str, Any] = {}
    with Live(bar, console=Console(stderr=True), transient=True) as live:

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            is_over = done == total and what != "distilling"
            bar.update(tasks[what], completed=done, total=total, visible=not is_over)

        def observe(status: "TrainingStatus") -> None:
            live.update(Group(bar, status_table(status)))

        yield progress, observe


def status_table(status: "TrainingStatus") -> "Group":
    """Return a status for a terminal of any width: facts, then losses in as many columns as fit."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.text import Text

    facts = [
        f"step {shared.format_value(status.step)} of {shared.format_value(status.steps)}",
        _speed(status),
        f"{shared.format_value(status.images)} images",
        f"{_duration(status.seconds_left)} left",
        _memory(status),
    ]
    losses = [
        Text.assemble((name, "dim"), " ", (f"{value:.4g}", "bold"))
        for name, value in status.losses.items()
    ]
    rows: list[Any] = [Text("  ·  ".join(facts)), Columns(losses, padding=(0, 3))]
    if status.evaluation:
        rows.append(Text(_evaluation(status.evaluation)))
    return Group(*rows)


def _evaluation(evaluation: Mapping[str, float]) -> str:
    values = ", ".join(f"{k} {v:.4g}" for k, v in evaluation.items() if k != "step")
    return f"evaluated after step {evaluation['step']}: {values}"


def _speed(status: "TrainingStatus") -> str:
    per_second = 1 / status.seconds_per_step
    return f"{per_second:.2f} it/s" if per_second >= 1 else f"{status.seconds_per_step:.2f} s/it"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _memory(status: "TrainingStatus") -> str:
    """Return the memory of process and GPU, in GiB, as far as they are known."""
    sizes = {"memory": status.process_bytes, "GPU": status.device_bytes}
    known = [f"{name} {size / 2**30:.2f} GiB" for name, size in sizes.items() if size is not None]
    return ", ".join(known) or "memory unknown"
