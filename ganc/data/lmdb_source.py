"""An LMDB as rosinality's ``prepare_data.py`` writes it: a set of images in one or more sizes.

Its keys are ``<size>-<index>``, the index of at least five digits, and ``length``, the number of
images of each size; its values are encoded square images. What has been written over a longer set
keeps keys past ``length``: they do not count, as in the public code.
"""

import os
import re
import threading
import weakref
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from ganc.data.images import BrokenImageError
from ganc.data.kinds import HEAD_BYTES, Listing
from ganc.data.sources import MAX_FILE_BYTES, Source
from ganc.errors import DataError, MissingDependencyError
from ganc.extras import remedy

DATA_FILE = "data.mdb"

_MAGIC = b"\xde\xc0\xef\xbe"  # at byte 16 of the file, where it was written on a little-endian host
_WRITER = "prepare_data.py of rosinality's stylegan2-pytorch"
_DAMAGED_HINT = f"copy it again, write it again with {_WRITER}, or pass a folder of its images"


def is_lmdb_file(path: Path) -> bool:
    """Say whether a file is an LMDB that is no folder."""
    try:
        with path.open("rb") as file:
            return path.name == DATA_FILE or file.read(20)[16:] == _MAGIC
    except OSError:
        return False  # whoever reads it next says why it cannot be read


class LmdbSource(Source):
    """The images of one size; image i is named by its key. Read in place, and nothing is written.

    Picklable, also for spawned and forked workers, and safe to read from several threads.

    Args:
        path: A folder with ``data.mdb``, or such a file.
        resolution: The size that is wanted; None takes the largest.
        any_size: Whether another will do where that is missing: the next larger, else the largest.
    Raises:
        DataError: It is damaged, is no such LMDB, or does not have the size.
        MissingDependencyError: The package lmdb is not installed.
    """

    def __init__(self, path: Path, resolution: int | None, *, any_size: bool) -> None:
        self.path = path
        self._environment: _Environment | None = None
        self.size = _pick(path, self._sizes(), resolution, any_size=any_size)
        self.names = sorted(self._own_names())

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        value = self._open().get(name.encode())
        if value is None:
            raise DataError(
                f"{self.where(name)}: not found", "the LMDB must stay as it is while it is in use"
            )
        self.check_size(name, len(value), most)
        return value

    def head(self, name: str) -> bytes:
        return self.read(name)[:HEAD_BYTES]

    def checksum(self, name: str) -> tuple[int, int]:
        data = self.read(name)
        return len(data), zlib.crc32(data)

    def where(self, name: str) -> str:
        return f"{self.path}: {name}"

    @cached_property
    def listing(self) -> Listing:
        return Listing(self.names, {}, [])

    def _sizes(self) -> list[int]:
        """Return the sizes that there are, ascending; looks at one key of each."""
        sizes, start = [], b""
        while (key := next(self._open().keys(start), None)) is not None:
            if key == b"length":
                start = b"length\0"
                continue
            match = re.fullmatch(rb"([1-9]\d{0,8})-(\d{5,})", key)
            if match is None:
                raise DataError(
                    f"{self.path}: an LMDB with the key `{key[:40].decode(errors='replace')}`, "
                    "allowed are `<size>-<5 digits>` and `length`",
                    f"only that of {_WRITER} is read; pass its images as a folder or zip",
                )
            sizes.append(int(match[1]))
            start = match[1] + b"."  # the character after the hyphen: past this size's keys
        return sorted(sizes)

    def _own_names(self) -> Iterator[str]:
        """Yield the names of one size, without looking at a value."""
        length, prefix, found = self._length(), b"%d-" % self.size, 0
        for key in self._open().keys(prefix):
            if not key.startswith(prefix):
                break
            index = key.removeprefix(prefix)
            if index.isdigit() and int(index) < length:
                found += 1
                yield key.decode()
        if found != length or not length:
            raise DataError(
                f"{self.path}: holds {found} of the {length} images of {self.size} px that its "
                "`length` says",
                f"it was not written to its end; write it again with {_WRITER}",
            )

    def _length(self) -> int:
        value = self._open().get(b"length")
        if value is None or not value.isdigit() or len(value) > 9:
            found = "no `length`" if value is None else "a `length` that is no number"
            raise DataError(
                f"{self.path}: an LMDB with {found}, not that of {_WRITER}, or not complete",
                "write it again, or pass its images as a folder or zip",
            )
        return int(value)

    def _open(self) -> "_Environment":
        if self._environment is None or self._environment.owner != os.getpid():
            self._environment = _environment(self.path)
        return self._environment

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_environment": None}


def _pick(path: Path, sizes: list[int], resolution: int | None, *, any_size: bool) -> int:
    """Return the size to read."""
    if not sizes:
        raise DataError(f"{path}: an LMDB without images", f"write it again with {_WRITER}")
    if resolution in sizes:
        return resolution
    if resolution is None or any_size:
        return next((size for size in sizes if size >= (resolution or sizes[-1])), sizes[-1])
    raise DataError(
        f"{path}: holds images of {', '.join(map(str, sizes))} px, none of {resolution} px",
        f"--resize scales them to {resolution}x{resolution}",
    )


class _Environment:
    """An open LMDB. A process may open each file but once, so all sources of it share this."""

    def __init__(self, path: Path) -> None:
        self.path, self.owner = path, os.getpid()
        self.file = path / DATA_FILE if path.is_dir() else path
        try:
            import lmdb
        except ImportError as error:
            raise MissingDependencyError(
                f"{path}: an LMDB needs the package lmdb: {error}",
                remedy("lmdb"),
            ) from error
        self.error = lmdb.Error
        try:
            self.bytes = self.file.stat().st_size
            self.handle = lmdb.open(
                str(path), subdir=path.is_dir(), readonly=True, lock=False, create=False,
                readahead=False,
            )  # fmt: skip
            pages = self.handle.info()["last_pgno"] + 1
            page_bytes = self.handle.stat()["psize"]
        except OSError as error:
            raise DataError(f"{self.file}: cannot be read ({error.strerror})") from error
        except lmdb.Error as error:
            raise self._damaged(str(error).removeprefix(f"{path}: ")) from error
        if pages * page_bytes > self.bytes:  # to read past the end would end the process
            self.handle.close()
            raise self._damaged(f"{self.bytes} bytes, should be {pages * page_bytes}")

    def get(self, key: bytes) -> bytes | None:
        """Return a copy of a value."""
        try:
            with self.handle.begin(buffers=True) as transaction:
                value = transaction.get(key)
                if value is not None and len(value) > self.bytes:
                    name = key.decode(errors="replace")
                    raise BrokenImageError(
                        f"{self.path}: {name}: broken image (longer than the file)", _DAMAGED_HINT
                    )
                return None if value is None else bytes(value)
        except self.error as error:
            raise self._damaged(str(error)) from error

    def keys(self, start: bytes) -> Iterator[bytes]:
        """Yield the keys from one on, in order; values are not looked at."""
        try:
            with self.handle.begin() as transaction, transaction.cursor() as cursor:
                if cursor.set_range(start):
                    yield from cursor.iternext(keys=True, values=False)
        except self.error as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, reason: str) -> DataError:
        return DataError(f"{self.file}: no LMDB, or damaged ({reason})", _DAMAGED_HINT)


_OPEN: "weakref.WeakValueDictionary[tuple[int, int], _Environment]" = weakref.WeakValueDictionary()
_LOCK = threading.Lock()


def _environment(path: Path) -> _Environment:
    """Return the file's environment of this process."""
    try:
        found = (path / DATA_FILE if path.is_dir() else path).stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    key = (found.st_dev, found.st_ino)
    with _LOCK:
        environment = _OPEN.get(key)
        if environment is not None and environment.owner != os.getpid():
            environment.handle.close()  # a forked child's copy; lmdb opens no file twice
            environment = None
        if environment is None:
            environment = _OPEN[key] = _Environment(path)
        return environment
