"""Labels for samples, from a data set and from a file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ganc.data.dataset import open_dataset
from ganc.data.label_tables import data_labels, read_label_file
from ganc.errors import DataError
from tests.labelled import write_labelled


def labels_of(path: Path, c_dim: int) -> Any:
    return data_labels(open_dataset(path, resolution=16, channels=3), c_dim)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([1, 0, 1], torch.tensor([1, 0, 1])), ([[0.5, 1], [2, 0]], torch.tensor([[0.5, 1], [2, 0]]))],
)
def test_the_table_has_every_images_label(
    tmp_path: Path, labels: list[Any], expected: torch.Tensor
) -> None:
    path = write_labelled(tmp_path / "set.zip", labels)
    table = labels_of(path, 2)
    assert torch.equal(table.values, expected)
    assert not table.in_turn
    assert labels_of(path, 0) is None


def test_a_set_without_labels_gives_none(tmp_path: Path) -> None:
    path = write_labelled(tmp_path / "set.zip", None)
    assert labels_of(path, 2) is None
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"not looked at")
    (folder / "dataset.json").write_text('{"labels": null}')
    assert labels_of(folder, 2) is None
    (folder / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: not JSON"):
        labels_of(folder, 2)


def test_labels_for_another_model_are_refused(tmp_path: Path) -> None:
    path = write_labelled(tmp_path / "set.zip", [0, 2])
    with pytest.raises(DataError, match=r"set\.zip: .*class 2, the model takes classes 0 to 1"):
        labels_of(path, 2)
    assert labels_of(path, 4) is not None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 0], torch.tensor([1, 0])),
        ([1.0, 0], torch.tensor([1, 0])),
        ([[0.5, -1]], torch.tensor([[0.5, -1.0]])),
        ({"labels": [["b.png", 3], ["a.png", 1]]}, torch.tensor([3, 1])),  # the file's own order
        ({"labels": [["a.png", [0, 1]]]}, torch.tensor([[0.0, 1.0]])),
    ],
)
def test_a_label_file(tmp_path: Path, content: Any, expected: torch.Tensor) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    table = read_label_file(path)
    assert torch.equal(table.values, expected)
    assert table.in_turn


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("", "neither numbers nor JSON"),
        ("[" * 100_000, "neither numbers nor JSON"),
        ("[]", "holds no labels"),
        ("true", "holds no labels"),
        ('{"labels": null}', "holds no labels"),
        ('{"labels": [3]}', "holds no labels"),
        ("[-1]", "labels hold -1, which is not a class number"),
        ("[1.5]", "labels hold 1.5, which is not a class number"),
        ("[[1], [1, 2]]", "no common form"),
        ("[[NaN]]", "not finite"),
        ("[[1e39]]", "not finite"),
        ("[[[1]]]", "labels are int64"),
        ('["1"]', "no common form"),
    ],
)
def test_a_file_without_labels_is_refused(tmp_path: Path, content: str, finding: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"labels\.json: .*{finding}") as caught:
        read_label_file(path)
    assert caught.value.hint is not None
    with pytest.raises(DataError, match="is a folder"):
        read_label_file(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3\n0\n\n1\n", [3, 0, 1]),
        ("0.5,1\n2, 0\r\n", [[0.5, 1], [2, 0]]),
        ("0.5 -1e-3\n2\t0", [[0.5, -1e-3], [2, 0]]),
    ],
)
def test_a_text_has_one_label_a_line(text: str, expected: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text)
    table = read_label_file(path)
    assert table.in_turn
    assert torch.equal(table.values, torch.tensor(expected))


@pytest.mark.parametrize("text", ["", "a,b\n", "1,2\n3\n", "nan,1\n", "1.5\n"])
def test_other_texts_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=r"labels\.txt"):
        read_label_file(path)
