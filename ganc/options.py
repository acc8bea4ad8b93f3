"""Settings as the fields of a frozen dataclass: said once, with all that a user is told of them.

A command line is made of such fields (``ganc.commands._options``), and so are a function's keywords
(``options_of``). This module imports no torch.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

from ganc import strict_json
from ganc.errors import UsageError, nearest, unknown_name

Options = TypeVar("Options")

EXECUTION, OUTPUT = "Execution", "Output"
"""Headings that the help of several commands has; others stand with the options under them."""

Fields = Mapping[str, "dataclasses.Field[Any]"]


def option(
    default: Any,
    meaning: str,
    *,
    flags: tuple[str, ...] = (),
    section: str | None = None,
    metavar: str | None = None,
    least: float | None = None,
    above: float | None = None,
    parser: Callable[[str], Any] | None = None,
    repeatable: bool = False,
) -> Any:
    """Declare a field of a command's options.

    Args:
        default: Its value where none is given.
        meaning: Help text.
        flags: How it is written on a command line; () makes one of its name.
        section: Heading of its part of the help.
        metavar: Stands for the value in the help, in place of its type.
        least: Smallest value; numbers are finite as well.
        above: What a value has to be above.
        parser: Text → value, ValueError for what it cannot read.
        repeatable: Whether it may be given several times: a list of what the parser reads.
    """
    metadata = {
        "help": meaning, "flags": flags, "section": section, "metavar": metavar, "least": least,
        "above": above, "parser": parser, "repeatable": repeatable,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def flag_of(name: str) -> str:
    """Return how an option is written on a command line where it names no flag of its own."""
    return "--" + name.replace("_", "-")


def options_of(kind: type[Options], settings: Mapping[str, Any]) -> Options:
    """Return a function's keywords as its options.

    Raises:
        TypeError: One is not known; the nearest that is known is named.
        UsageError: See the options.
    """
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in settings:
        if name not in known:
            match = nearest(name, known)
            hint = f"; did you mean {match!r}?" if match else f"; allowed: {', '.join(known)}"
            raise TypeError(f"unexpected keyword argument {name!r}{hint}")
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = settings.get(field.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(field, value)
    return kind(**settings)


def _check_number(field: "dataclasses.Field[Any]", value: float) -> None:
    metadata = field.metadata
    flag = next(iter(metadata.get("flags", ())), flag_of(field.name))
    least, above = metadata.get("least"), metadata.get("above")
    if not math.isfinite(value):
        raise UsageError(f"{flag} {value} is not a finite number")
    if least is not None and value < least:
        raise UsageError(f"{flag} {value} is below {least}")
    if above is not None and value <= above:
        raise UsageError(f"{flag} {value} must be above {above}")


def parse_count(text: str) -> float:
    """Parse a count such as 4.1G, 5.6M or 30000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE]\+?\d+)?)\s*([kKMGT]?)", text.strip())
    if match is None:
        raise ValueError(f"`{text}` is not a count; allowed: a number, with K, M, G or T")
    return scaled(match[1], match[2])


def parse_duration(text: str) -> float:
    """Parse a time such as 20ms, 0.02s or 20 into milliseconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|)", text.strip())
    if match is None:
        raise ValueError(f"`{text}` is not a time; allowed: a number of milliseconds, 20ms, 0.02s")
    return scaled(match[1], "K" if match[2] == "s" else "")


def scaled(number: str, suffix: str) -> float:
    """Return a decimal number with one of the suffixes "", K, M, G and T.

    Raises:
        ValueError: It is too large.
    """
    # Decimal, so that 4.1G is 4 100 000 000 and not a float below it.
    try:
        value = float(Decimal(number).scaleb(3 * " KMGT".index(suffix.upper() or " ")))
    except ArithmeticError:  # Decimal has its own limits
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"`{number}{suffix}` is not a finite number")
    return value


def parse_setting(text: str) -> tuple[str, Any]:
    """Parse norm_statistics=batch or img_resolution=512; values are JSON, or else text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"`{text}` is not a setting; allowed: NAME=VALUE")
    try:
        return name, strict_json.parse(value, name, UsageError)
    except UsageError:  # text; None is how Python and the notes spell null
        return name, None if value == "None" else value


def number(
    default: Any,
    meaning: str,
    kinds: tuple[str, ...] = (),
    *,
    low: float = 0.0,
    high: float = math.inf,
    below: bool = False,
) -> Any:
    """Declare a field: default, help text, kinds that read it, range [low, high] or [low, high)."""
    metadata = {"help": meaning, "kinds": kinds, "low": low, "high": high, "below": below}
    return dataclasses.field(default=default, metadata=metadata)


def text(default: str, meaning: str, choices: tuple[str, ...], kinds: tuple[str, ...] = ()) -> Any:
    """Declare a field with a choice of words; without ``choices`` any word will do."""
    metadata = {"help": meaning, "kinds": kinds, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def check_numbers(
    allowed: Fields, given: Mapping[str, Any], what: str, option: str = "{flag} {value}"
) -> dict[str, Any]:
    """Return values for some fields, each of its field's type.

    Args:
        allowed: Name → field.
        given: Name → value.
        what: What the names stand for, in an error: "recipe number".
        option: How a user wrote one.
    Raises:
        UsageError: A name is unknown, or values are of the wrong type or out of range; all of those
            are reported together.
    """
    for name in given:
        if name not in allowed:
            raise unknown_name(what, name, allowed)
    problems = [_problem(allowed[name], value, option) for name, value in given.items()]
    if any(problems):
        raise UsageError("; ".join(problem for problem in problems if problem))
    return {name: _typed(allowed[name], value) for name, value in given.items()}


def _problem(field: "dataclasses.Field[Any]", value: Any, option: str) -> str | None:
    """Say what is wrong with a value, or None."""
    flag = option.format(name=field.name, flag=flag_of(field.name), value=value)
    if "choices" in field.metadata:
        choices = field.metadata["choices"]
        is_allowed = value in choices if choices else isinstance(value, str) and value
        return None if is_allowed else f"{flag} is not known; allowed: {', '.join(choices)}"
    # Exact types: bool is a kind of int in Python, but `--batch True` is a mistake.
    accepted = (int, float) if field.type is float else (field.type,)
    if type(value) not in accepted:
        return f"{flag} must be {_TYPE_NAMES[field.type]}"
    low, high, below = (field.metadata[key] for key in ("low", "high", "below"))
    inside = math.isfinite(value) and low <= value <= high and not (below and value == high)
    span = f"{low:g} and more" if high == math.inf else f"[{low:g}, {high:g}{')' if below else ']'}"
    return None if inside else f"{flag} is out of range; allowed: {span}"


_TYPE_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def _typed(field: "dataclasses.Field[Any]", value: Any) -> Any:
    return float(value) if field.type is float else value
