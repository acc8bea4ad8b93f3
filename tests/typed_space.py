"""The typed space of JSON: a sound value with one part missing, or of another type or size."""

from collections.abc import Iterator
from typing import Any

OTHER_TYPES: list[Any] = [
    None, True, 0, 1, -1, 10**30, 1.5, float("nan"), float("inf"), "", "text", "\x1b[31m", [], [1],
    [None], {}, {"a": 1}, [[]] * 3, {"": None},
]  # fmt: skip
TEXTS = ["", "{nope", "NaN", "[" * 200_000, '{"a":' * 100_000, "9" * 5000, "-1", "٣", " 1", "1 ",
         "0x1", "1e999", "\udcff", "null"]  # fmt: skip
"""What may stand where JSON, or a number, is expected."""


def variants(value: Any) -> Iterator[Any]:
    """Yield a JSON value with one part of it missing, or of another type."""
    yield from OTHER_TYPES
    if isinstance(value, dict):
        for key, part in value.items():
            yield {name: own for name, own in value.items() if name != key}
            for other in variants(part):
                yield value | {key: other}
    if isinstance(value, list):
        for i, part in enumerate(value):
            for other in variants(part):
                yield [*value[:i], other, *value[i + 1 :]]
