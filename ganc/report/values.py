"""How the page writes a value: its digits, and whose is the best."""

from collections.abc import Mapping
from typing import Any

from ganc.values import VALUES

INTERVAL = "-ci95"
"""Ending of a value that is the half width of another one's 95 % interval."""

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(value: float) -> str:
    """Return a number with four significant digits, large ones with a unit: 1.25 M."""
    for size, unit in _UNITS:
        if abs(value) >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g}"


def plain(value: Any) -> str:
    """Return any JSON value as a person reads it, on one line."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")  # a thin space that does not break
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(item)}" for name, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "–"
    return str(value)


def best(name: str, numbers: Mapping[str, float]) -> set[str]:
    """Return the models with the best number; none if all are equal or no direction is known."""
    if name not in VALUES or len(set(numbers.values())) < 2:
        return set()
    pick = max if VALUES[name].is_higher_better else min
    top = pick(numbers.values())
    return {who for who, number in numbers.items() if number == top}
