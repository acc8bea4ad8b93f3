"""Where a set's bytes come from: a folder or a zip, behind the same three methods.

Names are relative, with forward slashes, sorted by code point; hidden files and what macOS adds to
zips are left out. The same tree gives the same names and checksums packed and unpacked.
"""

import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ganc.data.images import BrokenImageError
from ganc.errors import DataError


class Source(Protocol):
    """Named files of a set."""

    path: Path
    names: list[str]

    def read(self, name: str) -> bytes:
        """Return a whole file; DataError where that fails."""

    def checksum(self, name: str) -> tuple[int, int]:
        """Return (size in bytes, CRC-32) of a file."""

    def where(self, name: str) -> str:
        """Return what errors call a file."""


def open_source(path: Path) -> Source:
    """Open a folder or a zip.

    Raises:
        DataError: The path does not exist, or is neither of the two.
    """
    if not path.exists():
        raise DataError(f"{path}: path not found", "give a folder of images or a data-set zip")
    return FolderSource(path) if path.is_dir() else ZipSource(path)


def open_file_or_set(path: Path) -> Source:
    """Open a single file, or what ``open_source`` opens."""
    is_single = path.is_file() and not zipfile.is_zipfile(path)
    return FileSource(path) if is_single else open_source(path)


def normal_name(name: str) -> str:
    """Return a relative file name with forward slashes, without ``./`` and doubled slashes.

    Zips and tables of labels that were made on Windows may hold backslashes.
    """
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


class FolderSource:
    """All files below a folder. Links to folders are not followed (they can form loops)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = sorted(name for name in _walk(path) if not _is_hidden(name))

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
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


class SubSource:
    """The files of a source below one of its folders, named from there."""

    def __init__(self, source: Source, folder: str) -> None:
        self.path = source.path / folder
        self.source, self.folder = source, folder
        prefix = f"{folder}/"
        self.names = [name[len(prefix) :] for name in source.names if name.startswith(prefix)]

    def read(self, name: str) -> bytes:
        return self.source.read(f"{self.folder}/{name}")

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


class ZipSource:
    """All members of a zip, read in place and checked against their CRC-32.

    The archive is opened when first read, once per process, so that the object can be sent to a
    worker process; several threads may read at once (zipfile serialises them).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._owner = 0
        members = [info for info in self._open().infolist() if not info.is_dir()]
        self._checksums = {info.filename: (info.file_size, info.CRC) for info in members}
        self.names = sorted(name for name in self._checksums if not _is_hidden(name))

    def read(self, name: str) -> bytes:
        try:
            return self._open().read(name)
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
        return self._archive

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}


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
