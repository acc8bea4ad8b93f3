"""``-`` as a path: stdin or stdout where an option says so, refused everywhere else."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from typer.core import TyperCommand

from ganc.errors import UsageError


class Dash(NamedTuple):
    """What ``-`` means to an option; stands in its ``Annotated`` type.

    Attributes:
        stream: "stdin" or "stdout".
        help: How the option's help says so.
        is_extra: Whether the file comes beside a result, which then gives up stdout to it.
    """

    stream: str
    help: str
    is_extra: bool = False


STDIN = Dash("stdin", "- reads stdin")
STDOUT = Dash("stdout", "- is stdout")
EXTRA_STDOUT = Dash("stdout", "- is stdout, with --quiet and in place of the table", is_extra=True)
"""A flag may carry one as well: ``--json`` writes stdout where it is given."""


class Use(NamedTuple):
    """One option that was given a stream, by a path or, as ``--json``, by a flag."""

    name: str
    dash: Dash
    is_flag: bool

    @property
    def shown(self) -> str:
        """What the user typed."""
        return self.name if self.is_flag else f"{self.name} -"


class DashCommand(TyperCommand):
    """A command whose options take ``-`` where their types hold a ``Dash``, and nowhere else."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            UsageError: ``-`` was given to an option that takes none, or one stream to two options.
        """
        check_dashes(self.params, ctx.params, dashes_of(self.callback))
        return super().invoke(ctx)


def dashes_of(command: Callable[..., Any] | None) -> dict[str, Dash]:
    """Return what ``-`` means to the parameters of a command; absent: nothing."""
    if command is None:
        return {}
    parameters = inspect.signature(command).parameters.values()
    annotations = {parameter.name: parameter.annotation for parameter in parameters}
    return {
        name: entry
        for name, annotation in annotations.items()
        if get_origin(annotation) is Annotated
        for entry in get_args(annotation)
        if isinstance(entry, Dash)
    }


def check_dashes(
    parameters: Sequence[Any], values: Mapping[str, Any], dashes: Mapping[str, Dash]
) -> None:
    """Refuse ``-`` where it means nothing, and streams that cannot serve as asked for.

    Args:
        parameters: The command's, as typer has them.
        values: Parameter name → what was given.
        dashes: Parameter name → what ``-`` means to it.
    Raises:
        UsageError: See ``DashCommand.invoke``; or what only one may have goes to two, or binary
            data would go to a terminal.
    """
    names = {parameter.name: _known_as(parameter) for parameter in parameters}
    for name, value in values.items():
        if _dashes_in(value) and name not in dashes:
            takers = [names[taker] for taker in dashes if not isinstance(values[taker], bool)]
            where = f"; - works for {', '.join(takers)} here" if takers else ""
            raise UsageError(
                f"{names[name]} cannot be -: it takes neither stdin nor stdout",
                f"give a path (./- for a file of that name){where}",
            )
    uses = list(_uses(values, dashes, names))
    readers = [use.name for use in uses if use.dash.stream == "stdin"]
    if len(readers) > 1:
        which = " and ".join(dict.fromkeys(readers))
        raise UsageError(f"only one of {which} can be -, which reads stdin", "name the others")
    writers = [use for use in uses if use.dash.stream == "stdout"]
    if len(writers) > 1:
        which = " and ".join(use.shown for use in writers)
        raise UsageError(f"{which} both write stdout", "name a file, or drop one of them")
    for writer in writers:
        _check_writer(writer, values)


def _check_writer(writer: Use, values: Mapping[str, Any]) -> None:
    """Refuse a file on a stdout that the table needs, or that is a terminal."""
    if writer.dash.is_extra and not values["quiet"]:
        raise UsageError(
            f"{writer.shown} and the table both write stdout",
            "add --quiet, which leaves the table out, or name a file",
        )
    if not writer.is_flag and not values["dry_run"] and sys.stdout.isatty():
        raise UsageError(f"{writer.shown} would fill the terminal", "pipe it on, or name a file")


def _uses(
    values: Mapping[str, Any], dashes: Mapping[str, Dash], names: Mapping[str, str]
) -> Iterator[Use]:
    """Yield every stream that was asked for; of an option that asks twice, twice."""
    for name, dash in dashes.items():
        is_flag = isinstance(values[name], bool)
        for _ in range(int(values[name]) if is_flag else _dashes_in(values[name])):
            yield Use(names[name], dash, is_flag)


def _dashes_in(value: Any) -> int:
    """Return how often a value, or one of a list of them, is ``-``."""
    return sum(item == "-" for item in (value if isinstance(value, list | tuple) else [value]))


def _known_as(parameter: Any) -> str:
    """Return what the user knows a parameter by."""
    is_argument = parameter.param_type_name == "argument"
    return str(parameter.metavar if is_argument else parameter.opts[0])
