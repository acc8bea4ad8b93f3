"""Whether the entries of a config are what a network's constructor says it takes.

A config comes from a file. Its types are those of the constructor's annotations, so that they stand
in one place. Numbers are sizes, counts, frequencies and limits: none of them is negative, but for
those in lists, which are filters.
"""

import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from msgspec import Meta

Size = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
Taps = Annotated[Sequence[float], Meta(min_length=1)]
"""A filter's."""

COUNTED = "num_"
"""How names of counts of layers or blocks begin; each of those has a tensor at least."""


def finding(network_class: type, config: Mapping[str, Any], most: int | None = None) -> str | None:
    """Return what is wrong with a config, or None.

    Args:
        network_class: Its constructor is annotated.
        config: The constructor's arguments, JSON data. Names that it does not have, and missing
            ones, are the constructor's business.
        most: Tensors that the network has, where that is known: it cannot have more layers.
    """
    hints = typing.get_type_hints(
        network_class.__init__,  # type: ignore[misc]  # a class, as given
        include_extras=True,
    )
    for name, value in config.items():
        if name not in hints:
            continue
        if not _fits(value, hints[name]):
            return f"{name} must be {_named(hints[name])}, got {_short(value)}"
        inner = _arguments_of(hints[name])
        if inner is not None and isinstance(value, Mapping):
            found = finding(inner, value)
            if found is not None:
                return f"{name}: {found}"
    return None if most is None else _too_many(config, most)


def _arguments_of(hint: Any) -> type | None:
    """Return the class whose constructor's arguments a mapping holds, where one is annotated."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        options = (_arguments_of(option) for option in typing.get_args(hint))
        return next((option for option in options if option is not None), None)
    marks = getattr(hint, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, type)), None)


def _fits(value: object, hint: Any) -> bool:
    """Say whether JSON data is of an annotated type; a type that is not known takes anything."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, option) for option in arguments)
    if origin is Annotated:
        return _fits(value, arguments[0]) and all(_is_within(value, m) for m in arguments[1:])
    if hint is types.NoneType:
        return value is None
    if hint is float:
        return _is_number(value) and value >= 0  # type: ignore[operator]
    if hint is int:
        return type(value) is int and value >= 0
    if hint in (bool, str):
        return type(value) is hint
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(key, arguments[0]) and _fits(part, arguments[1]) for key, part in value.items()
        )
    if origin is Sequence:
        is_part = _is_number if arguments[0] is float else partial(_fits, hint=arguments[0])
        return isinstance(value, list | tuple) and all(map(is_part, value))
    return True


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_within(value: Any, mark: object) -> bool:
    """Say whether a value of the right type keeps to what its annotation says."""
    if not isinstance(mark, Meta):
        return True
    return (
        (mark.ge is None or value >= mark.ge)
        and (mark.gt is None or value > mark.gt)
        and (mark.min_length is None or len(value) >= mark.min_length)
    )


def _too_many(config: Mapping[str, Any], most: int) -> str | None:
    for name, value in config.items():
        if isinstance(value, Mapping):
            found = _too_many(value, most)
            if found is not None:
                return found
        if name.startswith(COUNTED) and type(value) is int and value > most:
            return f"{name} is {_short(value)}, there are {most} tensors"
    return None


_WORDS = {
    int: ("a whole number", "whole numbers"), float: ("a number", "numbers"),
    bool: ("true or false", "truth values"), str: ("text", "texts"), types.NoneType: ("null", ""),
}  # fmt: skip
"""Type → one of it and several, as a person reads it."""


def _named(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_named, arguments))
    if origin is Annotated:
        inner = arguments[0]
        named = _WORDS[inner][0] if inner in _WORDS else _named(inner)
        marks = (mark for mark in arguments[1:] if isinstance(mark, Meta))
        return " ".join([named, *map(_limited, marks)])
    if origin is Mapping:
        of = _WORDS.get(arguments[1])
        return "an object" if of is None else f"an object of {of[1]}"
    if origin is Sequence:
        return f"a list of {_WORDS[arguments[0]][1]}"
    return _WORDS[hint][0] + (" of at least 0" if hint in (int, float) else "")


def _limited(mark: Meta) -> str:
    if mark.min_length is not None:
        return f"with at least {mark.min_length} of them"
    return f"of at least {mark.ge}" if mark.ge is not None else f"above {mark.gt}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
