"""``dataset.json``: the class or the label vector of every image, in NVIDIA's layout.

``{"labels": [["00000/img00000000.png", 3], …]}`` with a class number or a list of numbers for each
image; ``{"labels": null}`` means that there are none. Entries of other files are ignored.
"""

import json
from typing import Any

import torch

from ganc.data.sources import Source
from ganc.errors import DataError

LABELS_FILE = "dataset.json"

_LARGEST = torch.finfo(torch.float32).max
_HINT = 'it must read {"labels": [[file name, class number or list of numbers], ...]}'


def has_labels(source: Source) -> bool:
    """Say whether a set is labelled; whether every image is, ``read_labels`` finds out.

    Raises:
        DataError: Its ``dataset.json`` is not JSON.
    """
    return LABELS_FILE in source.names and bool(_read_pairs(source))


def read_labels(source: Source, names: list[str]) -> torch.Tensor:
    """Read the labels of some images.

    Args:
        names: The images, in the order in which labels are wanted.
    Returns:
        Class numbers [N], int64, or label vectors [N, D], float32.
    Raises:
        DataError: The set has no labels, misses one, or they do not have one common form.
    """
    table = _read_table(source)
    missing = [name for name in names if name not in table]
    if missing:
        raise DataError(
            f"{source.where(LABELS_FILE)}: {len(missing)} of {len(names)} images have no label "
            f"(first: {missing[0]})",
            "every image needs one",
        )
    labels = [table[name] for name in names]
    if all(_is_class(label) for label in labels):
        return torch.tensor(labels, dtype=torch.int64)
    if all(_is_vector(label, labels[0]) for label in labels):
        return torch.tensor(labels, dtype=torch.float32)
    raise DataError(
        f"{source.where(LABELS_FILE)}: labels have no common form, allowed are non-negative class "
        "numbers, or lists of finite numbers of one length",
        _HINT,
    )


def _read_table(source: Source) -> dict[str, Any]:
    """Return the label of each file name, still unchecked."""
    where = source.where(LABELS_FILE)
    if LABELS_FILE not in source.names:
        raise DataError(f"{where}: not found, a labelled set needs it", _HINT)
    pairs = _read_pairs(source)
    if not pairs:
        raise DataError(f"{where}: holds no labels, a labelled set needs them", _HINT)
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise DataError(f"{where}: `labels` is not a list of [file name, label] pairs", _HINT)
    return {name.replace("\\", "/"): label for name, label in pairs}


def _read_pairs(source: Source) -> Any:
    """Return the entry ``labels``, still unchecked; None where there is none."""
    try:
        content = json.loads(source.read(LABELS_FILE))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source.where(LABELS_FILE)}: not JSON ({error})", _HINT) from error
    return content.get("labels") if isinstance(content, dict) else None


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)


def _is_class(label: object) -> bool:
    return type(label) is int and 0 <= label < 2**31


def _is_vector(label: object, first: object) -> bool:
    if not isinstance(label, list) or not isinstance(first, list):
        return False
    return len(label) == len(first) > 0 and all(
        type(value) in (int, float) and abs(value) <= _LARGEST for value in label
    )
