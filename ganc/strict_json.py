"""JSON that somebody else may have written, read by type: what does not fit is refused by its key.

Sources of such JSON: headers of files, results, the state of a run. Python's own reader takes NaN
for a number, lets 1e999 be infinity, and ends in errors of other kinds where values are deep or
long.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from ganc.errors import GancError

Kind = TypeVar("Kind")

Refuse = Callable[[str], GancError]
"""A finding ("its settings is not valid JSON") → the error to raise, which names the file."""


def parse(text: str | bytes, what: str, refuse: Refuse) -> Any:
    """Return what a text holds as JSON: every number finite.

    Args:
        text: UTF-8 where it is bytes.
        what: The entry that it is, for the finding.
        refuse: Makes the error.
    Raises:
        GancError: It is not JSON, or too deep.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # also: not UTF-8, an integer of 5000 digits
        raise refuse(f"{what} is not valid JSON") from error


def typed(value: Any, kind: type[Kind], what: str, refuse: Refuse) -> Kind:
    """Return a value as a type: of plain values, lists, dicts, dataclasses, as far as it says.

    Args:
        value: What ``parse`` returned, or a part of it.
        kind: ``list[str]``, a dataclass, ….
        what: The entry that it is, for the finding.
        refuse: Makes the error.
    Raises:
        GancError: It is something else; the finding names the key.
    """
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError, UnicodeError) as error:
        raise refuse(_finding(str(error), what)) from error


def read(text: str | bytes, kind: type[Kind], what: str, refuse: Refuse) -> Kind:
    """Return what a text holds as JSON, as a type; see ``parse`` and ``typed``."""
    return typed(parse(text, what, refuse), kind, what, refuse)


def _finding(message: str, what: str) -> str:
    """Say what does not fit as a part of our sentences: "settings.a: expected int, got str"."""
    match = re.fullmatch(r"(.*?)(?: - at `(key in )?\$\.?(.*)`)?", message, re.DOTALL)
    assert match is not None
    finding, _, path = match.groups()
    place = ".".join(filter(None, [what, path or ""])).replace(".[", "[")
    finding = finding.replace("`", "")
    return f"{place}: {finding[:1].lower()}{finding[1:]}"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number
