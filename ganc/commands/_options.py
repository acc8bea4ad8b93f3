"""Command lines made of options: a parameter per field, in place of a command's ``**settings``."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

Command = Callable[..., None]


def with_options(
    parameters: Iterable[inspect.Parameter], *, before: str | None = None
) -> Callable[[Command], Command]:
    """Give a command parameters in place of its ``**settings``.

    Args:
        parameters: What typer reads.
        before: The command's own parameter that they precede in the help; None puts them last.
    """

    def change(command: Command) -> Command:
        signature = inspect.signature(command)
        own = list(signature.parameters.values())[:-1]
        names = [parameter.name for parameter in own]
        at = len(own) if before is None else names.index(before)
        made = [*own[:at], *parameters, *own[at:]]
        command.__signature__ = signature.replace(parameters=made)  # type: ignore[attr-defined]
        return command

    return change


def parameters_of(kind: type) -> list[inspect.Parameter]:
    """Return the parameters of a class of options; see ``ganc.options.option``."""
    return [_parameter(field) for field in dataclasses.fields(kind)]


def _parameter(field: "dataclasses.Field[Any]") -> inspect.Parameter:
    data = field.metadata
    flags = data["flags"] or (f"--{field.name.replace('_', '-')}",)
    info = typer.Option(
        *flags, help=data["help"], metavar=data["metavar"], min=data["least"],
        rich_help_panel=data["section"], parser=data["parser"] and _reader(data["parser"]),
    )  # fmt: skip
    return keyword(field.name, field.default, Annotated[field.type, info])


def keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    """Return a parameter that typer makes an option of."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _reader(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let typer say what a parser cannot read."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return read
