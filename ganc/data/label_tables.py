"""Tables of labels for samples: those of a data set, and those that somebody wrote into a file."""

import json
import os
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ganc.data.dataset import ImageDataset
from ganc.data.labels import has_labels, read_labels
from ganc.errors import DataError, UsageError
from ganc.files import read_whole
from ganc.models.labels import LabelTable, as_table

_HINT = (
    "it must hold a JSON list of class numbers, or of lists of numbers, one per image; or one label"
    " a line, 3 or 0.5,1; or be a dataset.json"
)


def data_labels(dataset: ImageDataset, c_dim: int) -> LabelTable | None:
    """Return the labels of a set's images, for samples to draw theirs from.

    Args:
        dataset: Its images are not looked at.
        c_dim: Size of the label that the model takes.
    Returns:
        The table; None where the set has no labels, or the model takes none.
    Raises:
        DataError: The labels are incomplete, have no common form or do not fit the model.
    """
    if not c_dim or not has_labels(dataset.source):
        return None
    labels = read_labels(dataset.source, dataset.names)
    way_out = 'or {"labels": null}: samples then have uniform classes'
    return fitting_table(labels, c_dim, dataset.source.path, way_out)


def fitting_table(labels: Tensor, c_dim: int, path: Path, way_out: str | None) -> LabelTable:
    """Return the labels of a set's images as a table to draw from.

    Args:
        labels: As ``ImageDataset.labels``.
        c_dim: Size of the label that the model takes.
        path: The set.
        way_out: What a hint offers beside other labels, or None.
    Raises:
        DataError: They do not fit the model.
    """
    table = LabelTable(labels)
    problem = table.misfit(c_dim)
    if problem:
        ways = ["write labels for this model into the set's dataset.json", way_out]
        raise DataError(
            f"{path}: the labels do not fit the model: {problem}", ", ".join(filter(None, ways))
        )
    return table


def read_label_file(path: str | os.PathLike[str]) -> LabelTable:
    """Read labels for samples, to be taken in turn.

    Args:
        path: JSON: a list of class numbers, a list of vectors, or what ``dataset.json`` holds,
            whose file names are ignored. Or text of one label a line, the numbers of a vector with
            commas or blanks between them.
    Raises:
        DataError: The file cannot be read, or holds something else.
    """
    try:
        data = read_whole(path, DataError)
        content = _of_lines(data) or json.loads(data)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: neither numbers nor JSON ({error})", _HINT) from error
    labels = _of_pairs(content.get("labels")) if isinstance(content, dict) else content
    if not isinstance(labels, list) or not labels:
        raise DataError(f"{path}: holds no labels", _HINT)
    try:
        return as_table(labels)
    except UsageError as error:
        raise DataError(f"{path}: {error.message}", _HINT) from error


def _of_lines(data: bytes) -> list[Any] | None:
    """Return the labels of a text with one a line; None where it is something else."""
    lines = [re.split(rb"[,\s]+", line.strip()) for line in data.splitlines() if line.strip()]
    try:
        rows = [[float(number) for number in line] for line in lines]
    except ValueError:
        return None
    return [row[0] for row in rows] if all(len(row) == 1 for row in rows) else rows


def _of_pairs(pairs: Any) -> list[Any] | None:
    """Return the labels of [file name, label] pairs; None where these are something else."""
    if not isinstance(pairs, list):
        return None
    is_table = all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
    return [label for _, label in pairs] if is_table else None
