"""Command lines made of options: a parameter per field, in place of a command's ``**settings``."""

import dataclasses
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer

from ganc.options import flag_of

Command = Callable[..., Any]

LAST = ""
"""In place of a parameter's name: behind all of them."""


def with_options(
    blocks: Mapping[str, Iterable[inspect.Parameter]],
) -> Callable[[Command], Command]:
    """Give a command parameters in place of its ``**settings``.

    Args:
        blocks: Name of one of the command's own parameters → what precedes it in the help.
    """

    def change(command: Command) -> Command:
        signature = inspect.signature(command)
        *own, _ = signature.parameters.values()
        made: list[inspect.Parameter] = []
        for parameter in own:
            made += [*blocks.get(parameter.name, ()), parameter]
        made += blocks.get(LAST, ())
        command.__signature__ = signature.replace(parameters=made)  # type: ignore[attr-defined]
        return command

    return change


def parameters_of(kind: type) -> list[inspect.Parameter]:
    """Return the parameters of a class of options; see ``ganc.options.option``."""
    return [_parameter(field) for field in dataclasses.fields(kind)]


def blocks_of(kind: type, starts: Mapping[str, str]) -> dict[str, list[inspect.Parameter]]:
    """Return the parameters of a class of options where a command's own stand between them.

    Args:
        starts: The command's own parameter → the first option of the block before it, in order.
    """
    made = parameters_of(kind)
    names = [parameter.name for parameter in made]
    begins = [names.index(first) for first in starts.values()]
    ends = [*begins[1:], len(made)]
    return {own: made[begin:end] for own, begin, end in zip(starts, begins, ends, strict=True)}


def _parameter(field: "dataclasses.Field[Any]") -> inspect.Parameter:
    data = field.metadata
    flags = data["flags"] or (flag_of(field.name),)
    info = typer.Option(
        *flags, help=data["help"], metavar=data["metavar"], min=data["least"],
        rich_help_panel=data["section"], parser=data["parser"] and reader(data["parser"]),
    )  # fmt: skip
    kind = _text_of(field) if data["parser"] else _written(field.type)
    return keyword(field.name, field.default, Annotated[kind, info])


def keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    """Return a parameter that typer makes an option of."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _written(kind: Any) -> Any:
    """Return a field's type on a command line, where every path is text."""
    if not isinstance(kind, types.UnionType):
        return kind
    parts = [part for part in typing.get_args(kind) if typing.get_origin(part) is not os.PathLike]
    return typing.Union[tuple(parts)]  # noqa: UP007


def _text_of(field: "dataclasses.Field[Any]") -> Any:
    """Return the type of what a parser reads."""
    kind: Any = list[str] if field.metadata["repeatable"] else str
    return kind | None if field.default is None else kind


def reader(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let typer say what a parser cannot read."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return read
