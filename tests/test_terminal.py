"""Text from outside cannot act on the terminal that it is printed to."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganc.checkpoints.store import save
from ganc.terminal import shown, shown_lines
from tests.conftest import Outcome, make_model

RED, TURN, BELL = "\x1b[31mred", "a\u202eb", "\x07"
CASES = [
    (RED, r"\x1b[31mred"),
    (TURN, r"a\u202eb"),
    (BELL, r"\x07"),
    ("\x9b31m", r"\x9b31m"),  # the same in one character
    ("a\rb\nc\td", r"a\rb\nc\td"),
    ("\u200b\u2066\u2028", r"\u200b\u2066\u2028"),
    ("\udcff", r"\udcff"),  # a byte of a file name that is no UTF-8
    ("Grüße 人 😀 a\u00a0b", "Grüße 人 😀 a\u00a0b"),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_what_acts_is_escaped(text: str, expected: str) -> None:
    assert shown(text) == expected


@given(st.text(st.characters(), max_size=50))
def test_nothing_unprintable_is_left(text: str) -> None:
    found = shown(text)
    assert all(c.isprintable() or c.isspace() for c in found)
    assert not set(found) & set(map(chr, [*range(32), *range(127, 160)]))
    assert shown(found) == found
    found.encode()


def test_of_long_text_both_ends_are_shown() -> None:
    found = shown("a" * 5_000_000 + "bcd\x1b", 12)
    assert found == r"aaaaaaaaa … (5000004 characters) … cd\x1b"
    assert shown("abcd", 4) == "abcd"
    assert shown_lines("one\ntwo\x1b") == "one\ntwo\\x1b"


def test_commands_print_what_files_say_escaped(
    ganc: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Of a file's provenance, in a table, and of a path, in an error."""
    model = make_model()
    step = {"command": f"prune{RED}", "source": TURN + BELL}
    save(dataclasses.replace(model, provenance=[*model.provenance, step]), tmp_path / "model.st")
    told = ganc("info", str(tmp_path / "model.st"))
    assert told.code == 0
    assert r"prune\x1b[31mred" in told.out
    assert r"a\u202eb\x07" in told.out
    missing = ganc("info", str(tmp_path / f"no{RED}{TURN}.st"))
    assert missing.code == 3
    assert r"no\x1b[31mreda\u202eb.st" in missing.err
    for text in (told.out, told.err, missing.out, missing.err):
        assert not set(text) & {"\x1b", "\u202e", "\x07"}
