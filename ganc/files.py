"""Writing files so that a reader never meets half of one."""

import contextlib
import errno
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ganc.errors import InputError, OutputError


def check_output(path: Path, *, force: bool) -> None:
    """Refuse an output that exists, or whose folder does not; call it before the slow part.

    Raises:
        OutputError: ``path`` exists and ``force`` is off, is a folder, or has no parent folder.
    """
    if (address := web_address(path)) is not None:
        raise OutputError(f"{address} is a web address, expected a file name", "name a local file")
    if path.is_dir():
        raise OutputError(f"{path} is a folder, expected a file name", "name a file inside it")
    if path.exists() and not _is_regular(path):  # replacing a device would take it away
        raise OutputError(
            f"{path} is no regular file, expected a file name",
            "- is stdout where an option takes it",
        )
    if path.exists() and not force:
        raise OutputError(f"{path} exists already", "pass --force to overwrite it")
    if not path.parent.is_dir():
        raise OutputError(f"folder {path.parent} does not exist", f"mkdir -p {path.parent}")


def _is_regular(path: Path) -> bool:
    """Whether a path is a file, and no other name of an open stream, such as /dev/stdout."""
    return path.is_file() and path.absolute().parts[1:2] not in (("dev",), ("proc",))


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


def read_whole(path: str | os.PathLike[str]) -> bytes:
    """Return what a file holds, or what a pipe gives until it ends.

    Raises:
        OSError: It cannot be read.
        InputError: It is a device, which has no end, or a pipe that goes on and on.
    """
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode):
            return file.read()
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise InputError(f"{path} is a device, expected a file or a pipe")
        return read_stream(file, str(path))


def web_address(path: str | os.PathLike[str]) -> str | None:
    """Return the address that somebody gave as a path; None where it is none."""
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/])(.+)", os.fspath(path))
    return f"{match[1]}://{match[2]}" if match else None  # a path keeps one of two slashes


@contextlib.contextmanager
def atomic_write(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; move it into place when the body succeeds.

    The file is fsynced before the rename, so after a crash ``path`` holds the old content or the
    new, never a part. When the body fails the temporary file is gone and ``path`` is untouched.

    Raises:
        OutputError: ``path`` may not be written (see ``check_output``), or the disk is full.
    """
    check_output(path, force=force)
    if path.is_symlink():  # the file is replaced, not the link to it
        path = path.resolve()
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(descriptor)
    except OSError as error:
        raise write_error(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        move_into_place(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a finished file its name, durably; both must lie in one folder."""
    # mkstemp makes files private; the result gets the permissions any new file would have.
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


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
    hint = "raise the limit (ulimit -f)" if error.errno == errno.EFBIG else "check its permissions"
    return OutputError(f"{path} cannot be written: {error.strerror or error}", hint)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise read_error(InputError, path, error) from error
