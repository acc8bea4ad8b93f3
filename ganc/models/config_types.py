"""Whether the entries of a config are what a network's constructor says it takes.

A config comes from a file. Its types are those of the constructor's annotations, so that they stand
in one place.
"""

import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

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
    hints = typing.get_type_hints(network_class.__init__)  # type: ignore[misc]  # a class, as given
    for name, value in config.items():
        if name in hints and not _fits(value, hints[name]):
            return f"{name} must be {_named(hints[name])}, got {_short(value)}"
    return None if most is None else _too_many(config, most)


def _fits(value: object, hint: Any) -> bool:
    """Say whether JSON data is of an annotated type; a type that is not known takes anything."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, option) for option in arguments)
    if hint is types.NoneType:
        return value is None
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    if hint in (int, bool, str):
        return type(value) is hint
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(key, arguments[0]) and _fits(part, arguments[1]) for key, part in value.items()
        )
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(_fits(x, arguments[0]) for x in value)
    return True


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
    if origin is Mapping:
        of = _WORDS.get(arguments[1])
        return "an object" if of is None else f"an object of {of[1]}"
    if origin is Sequence:
        return f"a list of {_WORDS[arguments[0]][1]}"
    return _WORDS[hint][0]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
