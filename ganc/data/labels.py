"""``dataset.json``: the class or the label vector of every image, in NVIDIA's layout.

``{"labels": [["00000/img00000000.png", 3], …]}`` with a class number or a list of numbers for each
image; ``{"labels": null}``, ``{}`` and ``[]`` mean that there are none. Names are relative to the
folder that ``dataset.json`` is in. Entries of other files are ignored.
"""

import json
from pathlib import PurePosixPath
from typing import Any

import torch

from ganc.data.kinds import LABELS_FILE
from ganc.data.sources import Source, normal_name
from ganc.errors import DataError

_LEAST_TABLE_BYTES = 8 * 2**20
_LABEL_BYTES = 2**16
"""Most for a label of one image, 3000 numbers; what is not of this set goes with the least."""

_LARGEST = torch.finfo(torch.float32).max
_HINT = 'it must read {"labels": [[file name, class number or list of numbers], ...]}'


def has_labels(source: Source) -> bool:
    """Say whether a set is labelled; whether every image is, ``read_labels`` finds out.

    Raises:
        DataError: Its ``dataset.json`` cannot be read or has another form, or which of several
            counts is not known.
    """
    name = _find_table(source)
    return name is not None and bool(_read_pairs(source, name))


def read_labels(source: Source, names: list[str]) -> torch.Tensor:
    """Read the labels of some images.

    Args:
        names: The images, in the order in which labels are wanted.
    Returns:
        Class numbers [N], int64, or label vectors [N, D], float32.
    Raises:
        DataError: The set has no labels, misses one, has two for one image, or they do not have
            one common form.
    """
    file = _find_table(source)
    if file is None:
        where = source.where(LABELS_FILE)
        raise DataError(f"{where}: not found, a labelled set needs it", _HINT)
    where, table = source.where(file), _read_table(source, file)
    missing = [name for name in names if name not in table]
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {len(names)} images have no label (first: {missing[0]})",
            f"every image needs one; names are relative to the folder that {LABELS_FILE} is in",
        )
    labels = [table[name] for name in names]
    is_vectors = isinstance(labels[0], list)
    for name, label in zip(names, labels, strict=True):
        if not (_is_vector(label, labels[0]) if is_vectors else _is_class(label)):
            raise _misfit(where, name, label, labels[0])
    return torch.tensor(labels, dtype=torch.float32 if is_vectors else torch.int64)


def _misfit(where: str, name: str, label: object, first: object) -> DataError:
    other = "" if label == first else f" (the first image's is {_shown(first)})"
    return DataError(
        f"{where}: the label of {name} is {_shown(label)}{other}; allowed are class numbers 0, 1, "
        "2, ... for all images, or lists of finite numbers of one length",
        "a single number that is no class is written as a list, [1.5]",
    )


def _shown(label: object) -> str:
    text = json.dumps(label)
    return text if len(text) <= 40 else f"{text[:36]} ..."


def _find_table(source: Source) -> str | None:
    """Return the name of ``dataset.json``: the outermost one, as it stands beside the images.

    Raises:
        DataError: Several stand side by side, it is spelled in another case, or it holds no labels
            and one further in does.
    """
    spelled = [n for n in source.names if PurePosixPath(n).name.lower() == LABELS_FILE]
    found = [name for name in spelled if PurePosixPath(name).name == LABELS_FILE]
    if not found and spelled:
        raise DataError(
            f"{source.where(spelled[0])}: is {LABELS_FILE} meant? capitals count",
            f"rename it to {LABELS_FILE} if it holds labels, else to something else",
        )
    if not found:
        return None
    outermost = min(found, key=lambda name: name.count("/"))
    folder = outermost.removesuffix(LABELS_FILE)
    beside = next((name for name in found if not name.startswith(folder)), None)
    if beside is not None:
        raise DataError(
            f"{source.path}: holds several label tables, {outermost} and {beside}; which one is "
            "meant is not known",
            f"pass one folder of the set, or give the set one {LABELS_FILE} for all of its images",
        )
    if len(found) > 1:
        _check_hides_none(source, outermost, found)
    return outermost


def _check_hides_none(source: Source, outermost: str, found: list[str]) -> None:
    if _read_pairs(source, outermost):
        return
    hidden = next((n for n in found if n != outermost and _read_pairs(source, n)), None)
    if hidden is not None:
        raise DataError(
            f"{source.path}: {outermost}, which counts, holds no labels, {hidden} does",
            f"remove one of the two, or put all labels into {outermost}",
        )


def _read_pairs(source: Source, file: str) -> list[Any]:
    """Return the [file name, label] pairs, labels still unchecked; empty where there are none.

    Raises:
        DataError: The file cannot be read, or holds something else.
    """
    where = source.where(file)
    try:
        most = _LEAST_TABLE_BYTES + _LABEL_BYTES * len(source.names)
        content = json.loads(source.read(file, most))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})", _HINT) from error
    if content in ([], {}):
        return []
    if not isinstance(content, dict) or "labels" not in content:
        found = "a list" if isinstance(content, list) else _shown(content)
        raise DataError(f"{where}: has no entry `labels`, it holds {found}", _HINT)
    pairs = content["labels"]
    if pairs in (None, [], {}):
        return []
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise DataError(f"{where}: `labels` is not a list of [file name, label] pairs", _HINT)
    return pairs


def _read_table(source: Source, file: str) -> dict[str, Any]:
    """Return the label of each file of the set, by the set's names, still unchecked."""
    where, pairs = source.where(file), _read_pairs(source, file)
    if not pairs:
        raise DataError(f"{where}: holds no labels, a labelled set needs them", _HINT)
    folder = file.removesuffix(LABELS_FILE)
    table: dict[str, tuple[str, Any]] = {}
    for spelled, label in pairs:
        first, other = table.setdefault(folder + normal_name(spelled), (spelled, label))
        if label is not other and label != other:
            raise DataError(
                f"{where}: two labels for one image: {_shown(other)} for {_shown(first)}, "
                f"{_shown(label)} for {_shown(spelled)}",
                "keep the right one",
            )
    return {name: label for name, (_, label) in table.items()}


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)


def _is_class(label: object) -> bool:
    """Say whether a label is a whole number from 0 on; some tools write 1 as 1.0."""
    if isinstance(label, bool) or not isinstance(label, int | float):
        return False
    return 0 <= label < 2**31 and label == int(label)


def _is_vector(label: object, first: list[Any]) -> bool:
    if not isinstance(label, list):
        return False
    return len(label) == len(first) > 0 and all(
        type(value) in (int, float) and abs(value) <= _LARGEST for value in label
    )
