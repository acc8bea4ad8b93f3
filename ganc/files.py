"""Writing files so that a reader never meets half of one."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from ganc.errors import InputError, OutputError

if os.name != "nt":
    import fcntl


def check_output(path: Path, *, force: bool) -> None:
    """Refuse an output that exists, or cannot be written; call it before the slow part.

    Raises:
        OutputError: ``path`` exists and ``force`` is off, has no parent folder, or is none that
            may be replaced: a folder, a device, a pipe, a socket, a link to one of them. Of a link
            the file behind it is written, also where that is yet to come; without ``force`` it
            exists.
    """
    if (address := web_address(path)) is not None:
        raise OutputError(f"{address} is a web address, expected a file name", "name a local file")
    try:
        _check_kind(path)
        if os.path.lexists(path) and not force:
            raise _exists(path)
        folder = _behind_links(path).parent
        is_there = folder.is_dir()
    except OSError as error:  # too long a name, a folder that may not be entered
        raise write_error(path, error) from error
    if not is_there:
        raise OutputError(f"folder {folder} does not exist", f"mkdir -p {folder}")


def _check_kind(path: Path) -> None:
    """Refuse to replace what is no file: replacing a device would take it away.

    Raises:
        OutputError: Such a thing is there.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder, expected a file name", "name a file inside it")
    if path.exists() and not (path.is_file() and not _names_stream(path)):
        raise OutputError(
            f"{path} is not a regular file, expected a file name",
            "- is stdout where an option takes it",
        )


def _names_stream(path: Path) -> bool:
    """Whether a path that exists is another name of an open stream, such as /dev/stdout."""
    while True:
        folder = os.path.realpath(path.parent)
        if folder == "/dev/fd" or folder.startswith("/proc/"):
            return True
        if not path.is_symlink():
            return False
        path = Path(folder, os.readlink(path))


def _behind_links(path: Path) -> Path:
    """Return the file that a link, or one of a chain, stands for; any other path as it is.

    Raises:
        OSError: The links lead back to themselves.
    """
    behind = Path(os.path.realpath(path)) if path.is_symlink() else path
    if behind.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return behind


def _exists(path: Path) -> OutputError:
    if path.exists():
        return OutputError(f"{path} exists already", "pass --force to overwrite it")
    return OutputError(
        f"{path} is a link to {os.readlink(path)}, which does not exist",
        "pass --force to write that file",
    )


def read_whole(path: str | os.PathLike[str], kind: type[InputError]) -> bytes:
    """Return the bytes of an input; of a pipe, such as the shell's ``<(…)``, all that comes, once.

    Args:
        path: The file.
        kind: What to raise.
    Raises:
        InputError: It cannot be read, is a folder or a device, which may have no end, or a pipe
            that goes on and on.
    """
    try:
        if os.path.isdir(path):
            raise kind(f"{path} is a folder, expected a file")
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode):
                return file.read()
            if stat.S_ISFIFO(mode):
                return read_stream(file, str(path))
    except OSError as error:
        raise read_error(kind, path, error) from error
    raise kind(f"{path} is no file, expected a file")


def read_error(
    kind: type[InputError], path: str | os.PathLike[str], error: OSError, hint: str | None = None
) -> InputError:
    """Say why an input could not be read.

    Args:
        kind: What to raise.
        path: The file.
        error: What the system said.
        hint: What helps where it does not exist; "check the path" without one.
    """
    if not isinstance(error, FileNotFoundError):  # no permission, too long a name
        return kind(f"{path} cannot be read: {error.strerror or error}")
    address = web_address(path)
    if address is None:
        return kind(f"{path} does not exist", hint or "check the path")
    return kind(
        f"{address} is a web address, expected a file on this machine",
        "leave file:// out" if address.startswith("file:") else "download it and pass the file",
    )


MAX_STREAM_BYTES = 4 * 2**30
"""Of a pipe or of stdin, whose size nothing tells before it is read: 4 GiB."""


def read_stream(stream: BinaryIO, where: str) -> bytes:
    """Read a pipe to its end, once.

    Raises:
        InputError: It goes on after ``MAX_STREAM_BYTES``.
    """
    chunks: list[bytes] = []
    left = MAX_STREAM_BYTES
    while chunk := stream.read(_CHUNK_BYTES):
        chunks.append(chunk)
        left -= len(chunk)
        if left < 0:
            raise InputError(
                f"{where} gives more than {MAX_STREAM_BYTES} bytes", "write it to a file first"
            )
    return b"".join(chunks)


_CHUNK_BYTES = 2**20


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a pipe, which can be read once."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):  # whoever reads it says what is wrong
        return False


def web_address(path: str | os.PathLike[str]) -> str | None:
    """Return the address that somebody gave as a path; None where it is none."""
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/])(.+)", os.fspath(path))
    return f"{match[1]}://{match[2]}" if match else None  # a path keeps one of two slashes


@contextlib.contextmanager
def atomic_write(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; give it that name when the body succeeds.

    The file is fsynced before, so after a crash ``path`` holds the old content or the new, never a
    part. When the body fails the temporary file is gone and ``path`` is untouched. Where a writer
    was killed, the next one of the same file removes what it left.

    Raises:
        OutputError: ``path`` may not be written (see ``check_output``), has come into being
            meanwhile and ``force`` is off, or the disk is full.
    """
    check_output(path, force=force)
    try:
        target = _behind_links(path)
        remove_leftovers(target.parent, target.name)
        with _temporary_beside(target) as temporary:
            yield temporary
            move_into_place(temporary, target, force=force)
    except OSError as error:
        raise write_error(path, error) from error


def write_together(sources: Mapping[Path, Path], *, force: bool = False) -> None:
    """Copy finished files to where they belong, all of them or none.

    A reader may meet no last file for a moment, but never files of two writers beside each other:
    the last one is what it opens. A single file is replaced as by ``atomic_write``.

    Args:
        sources: Place → file; the last one refers to the others.
    Raises:
        OutputError: See ``atomic_write``; what was there is there still.
    """
    for path in sources:
        check_output(path, force=force)
    try:
        with contextlib.ExitStack() as stack:
            ready = {}
            for path, source in sources.items():
                target = _behind_links(path)
                remove_leftovers(target.parent, target.name)
                ready[target] = stack.enter_context(_temporary_beside(target))
                shutil.copyfile(source, ready[target])
            replaced = [target for target in ready if len(ready) > 1 and target.exists()]
            aside = {target: stack.enter_context(_temporary_beside(target)) for target in replaced}
            _swap(ready, aside, force=force)
    except OSError as error:
        raise write_error(path, error) from error


def _swap(ready: Mapping[Path, Path], aside: Mapping[Path, Path], *, force: bool) -> None:
    """Put what is there aside, the last first, and give new files their names; or undo all."""
    emptied: list[Path] = []
    filled: list[Path] = []
    try:
        for target in reversed(list(aside)):
            target.replace(aside[target])
            emptied.append(target)
        for target, temporary in ready.items():
            move_into_place(temporary, target, force=force)
            filled.append(target)
    except BaseException:
        for target in filled:
            target.unlink()
        for target in reversed(emptied):
            aside[target].replace(target)
        raise


def move_into_place(temporary: Path, path: Path, *, force: bool) -> None:
    """Give a finished file its name, durably; both must lie in one folder.

    Raises:
        OutputError: Something has that name, and ``force`` is off or it is no file.
    """
    # mkstemp makes files private; the result gets the permissions any new file would have.
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    if force:
        _check_kind(path)
        temporary.replace(path)
    else:
        try:
            _name_anew(temporary, path)
        except FileExistsError as error:
            raise _exists(path) from error
    sync_folder(path.parent)


def _name_anew(temporary: Path, path: Path) -> None:
    """Give a file a name that nothing has.

    Raises:
        FileExistsError: Something has it.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: an empty file reserves the name
        path.touch(exist_ok=False)
        try:
            temporary.replace(path)
        finally:
            if temporary.exists():
                path.unlink()


_TEMPORARY = re.compile(r"\.ganc-([0-9a-f]{12})-\w{8}\.tmp")
"""Names of temporary files; the group tells of which file. Short: the file's may have all 255 bytes
that a name can have."""


def _mark(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def is_temporary(name: str) -> bool:
    """Tell whether a file's name is one that ``atomic_write`` gives while it writes."""
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """Yield an empty file, locked: as long as its writer lives, nobody removes it."""
    while True:
        descriptor, name = tempfile.mkstemp(
            prefix=f".ganc-{_mark(path.name)}-", suffix=".tmp", dir=path.parent
        )
        with open(descriptor) as held:
            if os.name == "nt":  # nothing that is open can be removed, or moved
                held.close()
            elif not _lock(descriptor) or not os.fstat(descriptor).st_nlink:
                continue  # another writer was faster, and took it for a leftover
            temporary = Path(name)
            try:
                yield temporary
            finally:
                temporary.unlink(missing_ok=True)
            return


def _lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; False where another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: ``remove_leftovers`` gets none, either
    return True


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files of writers that were killed.

    Args:
        folder: Where the files were to be.
        name: Of which file; None for all.
    """
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        for found in os.listdir(folder):
            match = _TEMPORARY.fullmatch(found)
            if match and (name is None or match[1] == _mark(name)):
                _remove_unlocked(folder / found)


def _remove_unlocked(path: Path) -> None:
    """Remove a file unless a living process has locked it."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.suppress(OSError), open(os.open(path, flags)) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable, where the platform can open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_error(path: Path, error: OSError) -> OutputError:
    """Say why ``path`` could not be written, and what helps."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"{path}: no space left on the device, nothing was written", "free some space"
        )
    hint = _HINTS.get(error.errno or 0, "check its permissions")
    return OutputError(f"{path} cannot be written: {error.strerror or error}", hint)


_HINTS = {
    errno.EFBIG: "raise the limit (ulimit -f)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "the link leads back to itself: remove it",
}
"""What helps, by what the system said."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise read_error(InputError, path, error) from error
