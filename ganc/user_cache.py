"""Where files are kept that can be made or fetched again."""

import os
from pathlib import Path

import platformdirs

from ganc.files import write_error


def cache_folder() -> Path:
    """Return ``$GANC_CACHE``, else the platform's cache folder; it may not exist yet."""
    chosen = os.environ.get("GANC_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("ganc"))


def cache_subfolder(name: str) -> Path:
    """Return a folder inside the cache, made when it is missing.

    Raises:
        OutputError: It cannot be made.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    return folder
