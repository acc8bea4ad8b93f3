"""How folders and zips of translators' images are laid out: which part is side A, which side B.

A tree is looked at through its images' names alone, so a folder and its zip are the same:

- ``trainA/`` and ``trainB/``, or ``A/`` and ``B/``: the two sides (CycleGAN's own layout).
- ``train/`` beside ``val/`` or ``test/``: the part to train on (pix2pix's own layout), of a whole
  set or of one side.
- One folder around everything, as archives have it, is stepped into.
- Anything else is images of one kind.
"""

from ganc.data.dataset import image_names
from ganc.data.sources import Source, SubSource
from ganc.errors import DataError
from ganc.progress import Warn

SIDES = (("trainA", "trainB"), ("A", "B"))
"""Names of the two sides' folders, in the order in which they are looked for."""

_TRAIN, _HELD_OUT = "train", ("val", "test")

Sides = tuple[Source, Source]


def find_parts(source: Source, warn: Warn) -> Source | Sides:
    """Return the part of a set to train on: one source, or one for each side.

    Args:
        warn: Told when images are left out.
    Raises:
        DataError: There are no images, or one side has none.
    """
    source = _inner(source, warn)
    folders = _top_folders(source)
    for names in SIDES:
        found = [name for name in names if name in folders]
        if len(found) == 1:
            missing = names[1 - names.index(found[0])]
            raise DataError(
                f"{source.path}: images in {found[0]}/, none in {missing}/",
                f"put the other side's images there, or pass --data {found[0]} --data-b {missing}",
            )
        if found:
            _tell(source, found, warn)
            return _side(source, names[0], warn), _side(source, names[1], warn)
    return source


def find_part(source: Source, warn: Warn) -> Source:
    """Return the part of one side's set to train on.

    Raises:
        DataError: There are no images, or they are those of both sides.
    """
    part = find_parts(source, warn)
    if isinstance(part, tuple):
        a, b = (side.path.name for side in part)
        raise DataError(
            f"{source.path}: holds both sides, {a}/ and {b}/, where one side is asked for",
            "pass it as --data, without --data-b",
        )
    return part


def _side(source: Source, folder: str, warn: Warn) -> Source:
    return find_part(SubSource(source, folder), warn)


def _inner(source: Source, warn: Warn) -> Source:
    """Step into a folder around everything, and into ``train/`` beside what is held out."""
    names = image_names(source)
    folders = _top_folders(source)
    if _TRAIN in folders and any(name in folders for name in _HELD_OUT):
        _tell(source, [_TRAIN], warn)
        return _inner(SubSource(source, _TRAIN), warn)
    is_wrapped = len(folders) == 1 and all("/" in name for name in names)
    if is_wrapped and not any(name in folders for pair in SIDES for name in pair):
        return _inner(SubSource(source, *folders), warn)
    return source


def _top_folders(source: Source) -> set[str]:
    return {name.split("/", 1)[0] for name in image_names(source) if "/" in name}


def _tell(source: Source, taken: list[str], warn: Warn) -> None:
    """Say which folders are used, where others are not."""
    left_out = [name for name in image_names(source) if name.split("/", 1)[0] not in taken]
    if left_out:
        used = " and ".join(f"{name}/" for name in taken)
        warn(f"{source.path}: training on {used}; {len(left_out)} images elsewhere are left out")
