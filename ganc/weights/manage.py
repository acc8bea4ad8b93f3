"""The weights cache as its owner sees it: what is there, and how to get what is not."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ganc.errors import UsageError, WeightsError, unknown_name
from ganc.extras import remedy
from ganc.files import file_sha256
from ganc.perceptual import effnet
from ganc.progress import Progress, silent
from ganc.weights.cache import (
    cache_folder,
    carried_path,
    install_weights,
    known_sha256,
    part_path,
    weights_path,
    weights_target,
)
from ganc.weights.probe import known_number
from ganc.weights.published import WEIGHTS, WeightsFile

PACKAGED = "effnet-lite0"
"""Carried by a Python package: listed and verified with the others, but never fetched."""
NAMES = (*WEIGHTS, PACKAGED)


def list_weights(
    names: Sequence[str] | None = None, *, progress: Progress = silent
) -> dict[str, Any]:
    """Describe weights; reads every file that is there to check its SHA-256.

    Args:
        names: Some of ``NAMES``; None is all of them.
    Returns:
        JSON data: "cache" (folder) and "weights", one row each: "name", "purpose", "state"
        ("present"; "unverified": there, but no SHA-256 is published; "damaged": another SHA-256;
        "partial": a download to be gone on with; "missing"), "bytes" (of the whole file, null if
        unknown), "bytes_there", "sha256" (null if unknown), "sha256_from" ("published", "recorded"
        when first seen, or null), "path", "source" (where it comes from) and "self_test_known" (the
        number that the self-test must give, null where nobody has recorded one).
    Raises:
        UsageError: A name is not known.
    """
    chosen = NAMES if names is None else names
    check_names(chosen)
    return {"cache": str(cache_folder()), "weights": list(_rows(chosen, progress))}


def fetch_weights(
    names: Sequence[str],
    *,
    source: str | Path | None = None,
    offline: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make sure that weights are in the cache and are the published ones.

    Args:
        names: Rows of ``WEIGHTS``, or just "all": each that has an address.
        source: A file to install instead of fetching; for a single name.
        offline: Never touch the network: only look.
        progress: Told the bytes received and the bytes in all.
    Returns:
        As ``list_weights``.
    Raises:
        UsageError: A name is not known, belongs to a package, or ``source`` is for several.
        WeightsError: Some cannot be had; the others are in the cache all the same.
    """
    chosen = [n for n, row in WEIGHTS.items() if row.url] if list(names) == ["all"] else names
    check_names(chosen)
    if PACKAGED in chosen:
        raise UsageError(f"`{PACKAGED}` comes with a package, it is not fetched", remedy("offline"))
    if source is not None and len(chosen) != 1:
        raise UsageError(f"--from installs one file, got {len(chosen)} names", "name one")
    failures: dict[str, WeightsError] = {}
    for name in chosen:
        try:
            if source is None:
                weights_path(name, offline=offline, progress=progress)
            else:
                install_weights(name, Path(source), progress=progress)
        except WeightsError as error:
            failures[name] = error
    _raise(failures, len(chosen))
    return list_weights(chosen)


def is_there(name: str) -> bool:
    """Tell whether a file, or the package that carries it, is there, right or wrong."""
    if name == PACKAGED:
        return effnet.is_installed()
    return weights_target(name).exists() or carried_path(name) is not None


def check_names(names: Iterable[str]) -> None:
    """Refuse names that are not in ``NAMES``."""
    for name in names:
        if name not in NAMES:
            raise unknown_name("weights", name, NAMES)


def _raise(failures: Mapping[str, WeightsError], count: int) -> None:
    """Raise one error for all of them."""
    if not failures:
        return
    first = next(iter(failures.values()))
    if count == 1:
        raise first
    names = ", ".join(failures)
    raise WeightsError(
        f"{len(failures)} of {count} weights cannot be obtained ({names}): {first.message}",
        first.hint,
    )


def _rows(names: Sequence[str], progress: Progress) -> Iterable[dict[str, Any]]:
    for done, name in enumerate(names):
        progress("checking", done, len(names))
        yield _packaged_row() if name == PACKAGED else _row(name, WEIGHTS[name])


def _row(name: str, file: WeightsFile) -> dict[str, Any]:
    carried = _carried_row(name, file)
    if carried is not None and not weights_target(name).exists():
        return carried
    target, part, sha256 = weights_target(name), part_path(name), known_sha256(name)
    there = next((path for path in (target, part) if path.exists()), None)
    size = there.stat().st_size if there else 0
    return {
        "name": name,
        "purpose": file.purpose,
        "state": _state(target, sha256, bool(file.sha256)) if there == target
                 else "partial" if there else "missing",
        "bytes": file.num_bytes or (size if there == target else None),
        "bytes_there": size,
        "sha256": sha256 or None,
        "sha256_from": "published" if file.sha256 else "recorded" if sha256 else None,
        "path": str(target),
        "source": file.url or file.page,
        "self_test_known": known_number(name),
    }  # fmt: skip


def _carried_row(name: str, file: WeightsFile) -> dict[str, Any] | None:
    """Describe what a package carries of a file, or return None where there is no such thing."""
    path = carried_path(name)
    if path is None:
        return None
    assert file.carried is not None
    return {
        "name": name,
        "purpose": file.purpose,
        "state": _state(path, file.carried.sha256, True) if path.is_file() else "damaged",
        "bytes": file.carried.num_bytes,
        "bytes_there": path.stat().st_size if path.is_file() else 0,
        "sha256": file.carried.sha256,
        "sha256_from": "published",
        "path": str(path),
        "source": f"{file.carried.distribution} {file.carried.version}",
        "self_test_known": known_number(name),
    }


def _packaged_row() -> dict[str, Any]:
    """Describe the weights that a package carries, as ``_row`` does those of the cache."""
    path = effnet.weights_file() if effnet.is_installed() else None
    size = path.stat().st_size if path else 0
    return {
        "name": PACKAGED,
        "purpose": "fd and perceptual…, nothing to fetch",
        "state": _state(path, effnet.SHA256, True) if path else "missing",
        "bytes": size or None,
        "bytes_there": size,
        "sha256": effnet.SHA256,
        "sha256_from": "published",
        "path": str(path) if path else None,
        "source": remedy("offline"),
        "self_test_known": known_number(PACKAGED),
    }


def _state(path: Path, sha256: str, is_published: bool) -> str:
    if sha256 and file_sha256(path) != sha256:
        return "damaged"
    return "present" if is_published else "unverified"
