"""Whatever stands in one of our files is read as what it has to be, or named."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganc.errors import InputError, UsageError
from tests.formats import Format, formats
from tests.typed_space import TEXTS

NAMES = (
    "scores.safetensors", "neighbourhoods.safetensors", "result.json", "recipe.toml", "state.json",
    "evaluations.jsonl", "labels.json", "dataset.json", "plan.json",
    "costs.json",
)  # fmt: skip
FEW = 400
"""Cases of a format; ``benchmarks/fuzz.py`` takes all."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module")
def known(folder: Path) -> dict[str, Format]:
    return {own.name: own for own in formats(folder)}


def test_every_format_is_walked(known: dict[str, Format]) -> None:
    assert tuple(known) == NAMES


def outcome(own: Format, path: Path) -> str | None:
    """Return what a command would say of a file; None where it takes it."""
    try:
        own.read(path)
    except (UsageError, InputError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", NAMES)
def test_sound_files_are_read(known: dict[str, Format], folder: Path, name: str) -> None:
    own, path = known[name], folder / name
    own.write(own.document, path)
    assert outcome(own, path) is None


@pytest.mark.parametrize("name", NAMES)
def test_the_typed_space(known: dict[str, Format], folder: Path, name: str) -> None:
    own, path = known[name], folder / name
    cases = list(own.cases())
    refused = 0
    for case in cases[:: max(1, len(cases) // FEW)]:
        own.write(case, path)
        said = outcome(own, path)
        refused += said is not None
        assert said is None or len(said.splitlines()) == 1, said
    assert refused > 10


@pytest.mark.parametrize("name", ["result.json", "recipe.toml", "labels.json", "plan.json"])
def test_other_texts(known: dict[str, Format], folder: Path, name: str) -> None:
    own, path = known[name], folder / name
    for text in texts():
        path.write_bytes(text)
        outcome(own, path)


def texts() -> Iterator[bytes]:
    yield from (text.encode("utf-8", "surrogatepass") for text in TEXTS)
    yield from (b"\xff\xfe", b"a=" + b"[" * 5000, b'{"labels":' + b"[" * 100_000, b"\0" * 100)


def test_nothing_is_warned_of_by_libraries(known: dict[str, Format], folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, own in known.items():
            own.write(own.document, folder / name)
            own.read(folder / name)
