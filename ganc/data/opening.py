"""Opening what a user names as images: a folder, a zip, an LMDB, a single file."""

import zipfile
from pathlib import Path, PurePosixPath

from ganc.data.kinds import FORMATS_TEXT, LABELS_FILE, describe_left_out, enumerated, stem
from ganc.data.lmdb_source import DATA_FILE, LmdbSource, is_lmdb_file
from ganc.data.sources import FileSource, FolderSource, Source, ZipSource
from ganc.errors import DataError
from ganc.files import read_error
from ganc.progress import Warn


def open_images(
    path: Path,
    warn: Warn,
    *,
    resolution: int | None = None,
    any_size: bool = True,
    takes_file: bool = False,
) -> Source:
    """Open a set of images.

    Args:
        path: A folder (searched recursively), a zip or an LMDB.
        warn: Told what is left out.
        resolution, any_size: Which of an LMDB's sizes to read, see ``LmdbSource``.
        takes_file: Whether a single image file is a set as well.
    Raises:
        DataError: The path does not exist, is none of these, or holds no images.
        MissingDependencyError: It is an LMDB, and the package is missing.
    """
    source = _open(path, resolution, any_size=any_size, takes_file=takes_file)
    image_names(source)
    if source.listing.left_out:
        left_out = describe_left_out(source.listing.left_out, source.listing.unread)
        warn(f"{path}: {left_out}")
    table = (path if path.is_dir() else path.parent) / LABELS_FILE
    if isinstance(source, LmdbSource) and table.exists():
        warn(f"{table}: not used; an LMDB has no labels, pass a folder or zip of its images")
    return source


def image_names(source: Source) -> list[str]:
    """Return the names of a set's images, sorted.

    Raises:
        DataError: There are none.
    """
    names, left_out, unread = source.listing
    if names:
        return names
    found = f" among {enumerated(left_out)}" if left_out else ""
    lmdb = next((n for n in source.names if PurePosixPath(n).name == DATA_FILE), None)
    if lmdb is not None:
        is_folder = isinstance(source.root, FolderSource)
        folder = Path(source.where(lmdb)).parent
        hint = f"pass the LMDB itself, {folder}" if is_folder else "unpack the LMDB in it first"
        raise DataError(f"{source.path}: no images found, but an LMDB, {lmdb}", hint)
    hint = "folders are searched recursively; hidden files and linked folders are left out"
    if unread:
        hint = f"{', '.join(unread)}: not read, save as PNG"
    raise DataError(f"{source.path}: no images found{found}, allowed are {FORMATS_TEXT}", hint)


def by_stem(source: Source) -> dict[str, str]:
    """Return the images' names by what partners have in common: the name without its ending.

    Raises:
        DataError: Two images differ in their endings alone.
    """
    found: dict[str, str] = {}
    for name in image_names(source):
        other = found.setdefault(stem(name), name)
        if other != name:
            raise DataError(
                f"{source.where(name)}: the same name as {other}, extensions aside; which one"
                " has the partner is not known",
                "keep one of the two",
            )
    return found


def _open(path: Path, resolution: int | None, *, any_size: bool, takes_file: bool) -> Source:
    if not path.exists():
        missing = FileNotFoundError()
        raise read_error(DataError, path, missing, "give a folder of images or a data-set zip")
    if path.is_dir() and (path / DATA_FILE).exists():
        _check_alone(path)
        return LmdbSource(path, resolution, any_size=any_size)
    if path.is_dir():
        return FolderSource(path)
    if path.is_file() and is_lmdb_file(path):
        return LmdbSource(path, resolution, any_size=any_size)
    if not path.is_file():  # to look into a pipe would take from what it holds
        raise DataError(
            f"{path}: neither a file nor a folder", "give a folder of images or a data-set zip"
        )
    return FileSource(path) if takes_file and not zipfile.is_zipfile(path) else ZipSource(path)


def _check_alone(path: Path) -> None:
    """Refuse a folder that holds images and an LMDB of, maybe, the same images."""
    images = FolderSource(path).listing.images
    if images:
        raise DataError(
            f"{path}: holds an LMDB ({DATA_FILE}) and images ({len(images)}, first {images[0]}); "
            "it is unclear which are meant",
            f"pass {path / DATA_FILE}, or move it out of the folder",
        )
