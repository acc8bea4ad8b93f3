"""Where a set's bytes come from: a folder, a zip or an LMDB, behind the same methods.

Names are relative, with forward slashes, sorted by code point; hidden files and what macOS adds to
zips are left out. The same tree gives the same names and checksums packed and unpacked.
"""

import lzma
import os
import weakref
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ganc.data.images import BrokenImageError
from ganc.data.kinds import HEAD_BYTES, Listing, list_images
from ganc.errors import DataError

MAX_FILE_BYTES = 256 * 2**20
"""Of one image file, packed or not."""


class Source(ABC):
    """Named files of a set.

    Attributes:
        path: What was opened; of a part of a set, the folder.
        names: All files.
    """

    path: Path
    names: list[str]

    @abstractmethod
    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        """Return a whole file; DataError where that fails, or where it has more bytes."""

    @abstractmethod
    def head(self, name: str) -> bytes:
        """Return a file's first ``HEAD_BYTES``; DataError where that fails."""

    @abstractmethod
    def checksum(self, name: str) -> tuple[int, int]:
        """Return (size in bytes, CRC-32) of a file."""

    @abstractmethod
    def where(self, name: str) -> str:
        """Return what errors call a file."""

    @cached_property
    def listing(self) -> Listing:
        """Which of the files are images; those of unknown endings are looked into, once."""
        return list_images(self.names, self.head)

    @property
    def root(self) -> "Source":
        """The whole set, where this is a part of it."""
        return self

    def check_size(self, name: str, num_bytes: int, most: int) -> None:
        """Refuse a file before it is read.

        Raises:
            DataError: It has more bytes than any file of its kind.
        """
        if num_bytes > most:
            raise DataError(
                f"{self.where(name)}: too large, {num_bytes} bytes, allowed are {most}",
                "replace the file or remove it from the set",
            )


def normal_name(name: str) -> str:
    """Return a relative file name with forward slashes, without ``./`` and doubled slashes.

    Zips and tables of labels that were made on Windows may hold backslashes.
    """
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


class FolderSource(Source):
    """All files below a folder. Links to folders are not followed (they can form loops)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = sorted(name for name in _walk(path) if not _is_hidden(name))

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        return self._read(name, -1, most)

    def head(self, name: str) -> bytes:
        return self._read(name, HEAD_BYTES)

    def _read(self, name: str, size: int, most: int | None = None) -> bytes:
        path = self.path / name
        try:
            if not path.is_file() and path.exists():  # opening a pipe would wait for its writer
                raise DataError(f"{self.where(name)}: neither a file nor a folder", "remove it")
            with path.open("rb") as file:
                if most is not None:
                    self.check_size(name, os.fstat(file.fileno()).st_size, most)
                return file.read(size)
        except OSError as error:
            raise DataError(
                f"{self.where(name)}: cannot be read ({error.strerror})",
                "the folder must stay as it is while it is in use",
            ) from error

    def checksum(self, name: str) -> tuple[int, int]:
        data = self.read(name)
        return len(data), zlib.crc32(data)

    def where(self, name: str) -> str:
        return str(self.path / name)


class FileSource(FolderSource):
    """One file, whatever its name."""

    def __init__(self, path: Path) -> None:
        self.path, self.names = path.parent, [path.name]

    @cached_property
    def listing(self) -> Listing:
        return Listing(self.names, {}, [])


class SubSource(Source):
    """The files of a source below one of its folders, named from there."""

    def __init__(self, source: Source, folder: str) -> None:
        self.path = source.path / folder
        self.source, self.folder = source, folder
        self.names = self._own(source.names)

    def _own(self, names: list[str]) -> list[str]:
        prefix = f"{self.folder}/"
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    @cached_property
    def listing(self) -> Listing:
        whole = self.source.listing
        return Listing(self._own(whole.images), whole.left_out, whole.unread)

    @property
    def root(self) -> Source:
        return self.source.root

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        return self.source.read(f"{self.folder}/{name}", most)

    def head(self, name: str) -> bytes:
        return self.source.head(f"{self.folder}/{name}")

    def checksum(self, name: str) -> tuple[int, int]:
        return self.source.checksum(f"{self.folder}/{name}")

    def where(self, name: str) -> str:
        return self.source.where(f"{self.folder}/{name}")


def _walk(root: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    for folder, _, files in os.walk(root, onerror=refuse):
        for file in files:
            yield Path(folder, file).relative_to(root).as_posix()


class ZipSource(Source):
    """All members of a zip, read in place and checked against their CRC-32.

    The archive is opened when first read, once per process, so that the object can be sent to a
    worker process; several threads may read at once (zipfile serialises them).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._owner = 0
        self._members: dict[str, str] = {}
        self._checksums: dict[str, tuple[int, int]] = {}
        self._outside = 0
        for info in _files(self._open()):
            name = normal_name(info.filename)
            if ".." in name.split("/"):
                self._outside += 1
            elif not _is_hidden(name):
                self._add(name, info)
        self.names = sorted(self._members)

    def _add(self, name: str, info: zipfile.ZipInfo) -> None:
        """Note a member; the same file may be there twice, but not two files of one name."""
        first = self._members.setdefault(name, info.filename)
        checksum = info.file_size, info.CRC
        if self._checksums.setdefault(name, checksum) != checksum:
            raise DataError(
                f"{self.path}: two different files of one name, {first} and {info.filename}",
                "remove one of them from the zip; it is unclear which one is meant",
            )

    @cached_property
    def listing(self) -> Listing:
        images, left_out, unread = list_images(self.names, self.head)
        outside = {"named outside the zip (..)": self._outside} if self._outside else {}
        return Listing(images, left_out | outside, unread)

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        self.check_size(name, self._checksums[name][0], most)
        return self._read(name, -1)  # zipfile never gives more than the size that was checked

    def head(self, name: str) -> bytes:
        return self._read(name, HEAD_BYTES)

    def _read(self, name: str, size: int) -> bytes:
        try:
            with self._open().open(self._members[name]) as file:
                return file.read(size)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
            raise BrokenImageError(
                f"{self.where(name)}: broken zip member ({error})",
                "replace the file or remove it from the set",
            ) from error
        except (OSError, KeyError, RuntimeError) as error:  # changed, encrypted, unknown method
            raise DataError(
                f"{self.where(name)}: cannot be read ({error})",
                "the zip must stay as it is while in use, unencrypted, stored or deflated",
            ) from error

    def checksum(self, name: str) -> tuple[int, int]:
        return self._checksums[name]

    def where(self, name: str) -> str:
        return f"{self.path}: {name}"

    def _open(self) -> zipfile.ZipFile:
        # A forked child shares its parent's file position, so it needs a handle of its own.
        if self._archive is None or self._owner != os.getpid():
            self._archive = _open_zip(self.path)
            self._owner = os.getpid()
            # An error's traceback may tie this object into a cycle, in which the collector could
            # end the open file before the archive that closes it.
            weakref.finalize(self, self._archive.close)
        return self._archive

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}


def _files(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """Yield the members that are no folders; some tools end those by a backslash."""
    return (info for info in archive.infolist() if not info.filename.endswith(("/", "\\")))


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(
            f"{path}: not a zip, or damaged ({error})",
            "give a folder of images or a complete data-set zip",
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
