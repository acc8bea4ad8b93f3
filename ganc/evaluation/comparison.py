"""``--against``: a result beside an earlier one, where both were measured in the same way."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ganc import strict_json
from ganc.errors import InputError
from ganc.evaluation.metrics import value_names
from ganc.evaluation.options import EvalOptions
from ganc.evaluation.task import SAMPLING
from ganc.files import read_error
from ganc.perceptual.distance import SOURCE

_HINT = "write it with `ganc eval CKPT --json > result.json`"

RESULT_FOUND = frozenset({"runs", "left_out", SOURCE})
"""Keys of a protocol that say what happened, not how it was measured."""


def read_result(source: str | os.PathLike[str] | BinaryIO) -> dict[str, Any]:
    """Read what ``ganc eval --json`` printed for one checkpoint, from a path or a binary stream.

    Raises:
        InputError: It cannot be read, or is something else.
    """
    if isinstance(source, str | os.PathLike):
        path, read = str(source), Path(source).read_bytes
    else:
        path, read = getattr(source, "name", "the stream"), source.read
    try:
        text = read()
    except OSError as error:
        raise read_error(InputError, path, error) from error
    content = strict_json.parse(text, "it", lambda _: InputError(f"{path} is not JSON", _HINT))
    _check_result(content, path)
    document: dict[str, Any] = content
    return document


def _check_result(content: Any, path: str) -> None:
    """Refuse what is not one result; raises InputError."""

    def refuse(finding: str) -> InputError:
        return InputError(f"{path} is not a result of ganc eval: {finding}", _HINT)

    results = content.get("results") if isinstance(content, Mapping) else None
    if isinstance(results, list):
        raise InputError(
            f"{path} holds {len(results)} results, expected one",
            "evaluate the one checkpoint to compare with by itself",
        )
    strict_json.typed(content, _Result, "its content", refuse)


@dataclass
class _Settings:
    protocols: Mapping[str, Mapping[str, Any]]


@dataclass
class _Result:
    """What is read of a result."""

    settings: _Settings
    metrics: Mapping[str, float]


def check_settings(
    metrics: Iterable[str], settings: EvalOptions, earlier: Mapping[str, Any], where: str
) -> None:
    """Refuse before anything is measured what ``compare_results`` would refuse for its samples."""
    for metric in metrics:
        then = earlier["settings"]["protocols"].get(metric, {})
        keys = [key for key in SAMPLING if key in then]
        now = {key: getattr(settings, key) for key in keys}
        _check_alike(metric, now, {key: then[key] for key in keys}, where)


def compare_results(
    result: Mapping[str, Any],
    earlier: Mapping[str, Any] | str | os.PathLike[str],
    where: str | None = None,
) -> list[dict[str, Any]]:
    """Return a row per value that both have: name, value, before, difference.

    Args:
        result: What ``ganc.evaluate`` returned for one model.
        earlier: Likewise, or the path of the JSON file that it was written to.
        where: What errors call the earlier result; None: its path, or "the earlier result".
    Raises:
        InputError: The earlier result cannot be read, one of them is no result of one model, they
            share no value, or one was measured in another way.
    """
    if isinstance(earlier, str | os.PathLike):
        where, earlier = where or str(earlier), read_result(earlier)
    where = where or "the earlier result"
    _check_result(result, "the result")
    _check_result(earlier, where)
    metric_of = value_names()
    shared = [name for name in result["metrics"] if name in earlier["metrics"]]
    if not shared:
        raise InputError(
            f"{where} has none of the values {', '.join(result['metrics'])}; it has"
            f" {', '.join(earlier['metrics'])}",
            "pass --metrics with one of these",
        )
    now, then = (document["settings"]["protocols"] for document in (result, earlier))
    for metric in dict.fromkeys(metric_of[name] for name in shared):
        _check_alike(metric, now[metric], then.get(metric, {}), where)
    return [
        {
            "name": name,
            "value": result["metrics"][name],
            "before": earlier["metrics"][name],
            "difference": result["metrics"][name] - earlier["metrics"][name],
        }
        for name in shared
    ]


def _check_alike(metric: str, now: Any, then: Any, where: str) -> None:
    differences = list(_differences(_plain(now), _plain(then)))
    if differences:
        raise InputError(
            f"{metric} of {where} was measured in another way and does not compare:"
            f" {'; '.join(differences)} there",
            "measure both in the same way, or leave the metric out of --metrics",
        )


def _plain(protocol: Any) -> Any:
    """Return a protocol as JSON gives it back: tuples are lists, keys are text."""
    return json.loads(json.dumps(protocol))


def _differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*now, *then]):
        if key not in RESULT_FOUND and now.get(key) != then.get(key):
            yield f"{key} is {_shown(now.get(key))} here, {_shown(then.get(key))}"


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
