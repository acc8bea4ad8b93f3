"""The typed space of a header: whatever stands in an entry is read as what it has to be, or named.

Every header is signed anew, so that its checksum finds nothing.
"""

import copy
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ganc
from ganc.checkpoints.header import Header, _checksum, parse_header, read_header
from ganc.checkpoints.store import save
from ganc.errors import CheckpointError, GancError
from tests.conftest import make_model
from tests.typed_space import TEXTS, variants

JSON_ENTRIES = ("config", "provenance", "networks")


class File:
    """A sound checkpoint, whose metadata can be replaced."""

    def __init__(self, path: Path) -> None:
        save(make_model(), path)
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        self.table, self.body = json.loads(data[8 : 8 + length]), data[8 + length :]
        self.entries: dict[str, str] = self.table.pop("__metadata__")

    def signed(self, entries: dict[str, str]) -> bytes:
        """Return the JSON of a header."""
        tensors = {name: (row["dtype"], tuple(row["shape"])) for name, row in self.table.items()}
        own = entries | {"header_sha256": _checksum(entries, tensors)}
        return json.dumps({"__metadata__": own, **self.table}).encode()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> File:
    return File(tmp_path_factory.mktemp("header") / "model.safetensors")


def cases(entries: dict[str, str]) -> Iterator[dict[str, str]]:
    for key, text in entries.items():
        if key == "header_sha256":
            continue
        yield {name: own for name, own in entries.items() if name != key}
        for other in TEXTS:
            yield entries | {key: other}
        if key in JSON_ENTRIES:
            for value in variants(json.loads(text)):
                yield entries | {key: json.dumps(value)}


def read_or_finding(file: File, entries: dict[str, str]) -> Header | str:
    try:
        return parse_header(file.signed(entries), len(file.body), "model.st")
    except CheckpointError as error:
        return str(error)


def test_every_entry_is_read_or_named(file: File) -> None:
    counted = refused = 0
    for entries in cases(file.entries):
        counted += 1
        header = read_or_finding(file, entries)
        if isinstance(header, str):
            refused += 1
            assert header.startswith("model.st ")
            assert len(header) < 200
            continue
        assert header.widths is not None
        assert header.resolution is None or header.resolution > 0
        json.dumps([header.config, header.provenance, header.networks], allow_nan=False)
        assert all(isinstance(step["command"], str) for step in header.provenance)
        assert all(isinstance(own["architecture"], str) for own in header.networks.values())
    assert counted > 1000
    assert refused > counted / 4


def loaded_or_code(file: File, path: Path, config: Any) -> int:
    """Load a model with a config; return the exit code that its error stands for, or 0."""
    text = file.signed(file.entries | {"config": json.dumps(config)})
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + file.body)
    try:
        ganc.load(path)
    except GancError as error:
        return error.exit_code
    return 0


def test_a_model_is_rebuilt_or_refused(file: File, tmp_path: Path) -> None:
    """Of a config that the header takes, the network looks at the rest."""
    config = json.loads(file.entries["config"])
    huge = config | {"mapping_kwargs": {"num_layers": 10**8}}
    for value in (huge, *variants(config)):
        assert loaded_or_code(file, tmp_path / "model.st", value) in (0, 3), value


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"architecture": None}, "its metadata has no architecture"),
        ({"config": "{nope"}, "its config is not valid JSON"),
        ({"config": "[]"}, "its config is not JSON object"),
        ({"params": "9" * 5000}, "its params is no whole number"),
        ({"provenance": '[{"x": 1}]'}, "its provenance has a step without a command"),
        ({"networks": "[]"}, "its networks is no object with the counts of each network"),
    ],
)
def test_the_finding_is_told(
    file: File, tmp_path: Path, changed: dict[str, str | None], finding: str
) -> None:
    entries = copy.copy(file.entries)
    for key, value in changed.items():
        del entries[key]
        if value is not None:
            entries[key] = value
    path, text = tmp_path / "model.st", file.signed(entries)
    path.write_bytes(struct.pack("<Q", len(text)) + text + file.body)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert str(caught.value) == f"{path} is damaged: {finding}"


def test_no_version_of_a_file_is_copied_into_a_shell(file: File) -> None:
    for version, hint in (
        ("1.2.3rc1", "pip install 'ganc>=1.2.3rc1'"),
        ("1'; touch owned #", "pip install --upgrade ganc"),
        ("", "pip install --upgrade ganc"),
    ):
        entries = file.entries | {"ganc_format": "2", "ganc_version": version}
        with pytest.raises(CheckpointError, match="has format 2") as caught:
            parse_header(file.signed(entries), len(file.body), "model.st")
        assert caught.value.hint == hint
