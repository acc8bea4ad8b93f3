"""How folders and zips of translators' images are laid out: which part is side A, which side B.

A tree is looked at through its images' names alone, so a folder and its zip are the same:

- ``trainA/`` and ``trainB/``, or ``A/`` and ``B/``: the two sides (CycleGAN's own layout).
- ``train/`` beside ``val/`` or ``test/``: the part to train on (pix2pix's own layout), of a whole
  set or of one side.
- One folder around everything, as archives have it, is stepped into.
- Anything else is images of one kind.
"""

from ganc.data.opening import image_names
from ganc.data.sources import Source, SubSource
from ganc.errors import DataError
from ganc.progress import Warn

SIDES = (("trainA", "trainB"), ("A", "B"))
"""Names of the two sides' folders, in the order in which they are looked for."""

_TRAIN, _HELD_OUT = "train", {"val", "test"}

Sides = tuple[Source, Source]


def find_parts(source: Source, warn: Warn) -> Source | Sides:
    """Return what to train on: the two sides of a set, or the set where it has none.

    Args:
        warn: Told when images are left out.
    Raises:
        DataError: There are no images, or one side has none.
    """
    source = _inner(source, warn)
    sides = _sides(source)
    if not sides:
        return source
    if len(sides) == 1:
        (found,) = sides
        missing = next(b if a == found else a for a, b in SIDES if found in (a, b))
        raise DataError(
            f"{source.path}: images in {found}/, none in {missing}/",
            "put the other side's images there, or pass them as --data-b",
        )
    _tell(source, sides, warn)
    a, b = (find_part(SubSource(source, side), warn) for side in sides)
    return a, b


def find_part(source: Source, warn: Warn) -> Source:
    """Return what to train on of a set of one side.

    Args:
        warn: Told when images are left out.
    Raises:
        DataError: There are no images, or they are those of both sides.
    """
    source = _inner(source, warn)
    sides = _sides(source)
    if len(sides) == 2:
        raise DataError(
            f"{source.path}: holds both sides, {sides[0]}/ and {sides[1]}/, where one is asked for",
            "pass it as --data, without --data-b",
        )
    if sides:
        _tell(source, sides, warn)
        return find_part(SubSource(source, sides[0]), warn)
    return source


def _inner(source: Source, warn: Warn) -> Source:
    """Step into ``train/`` beside what is held out, and into a folder around everything."""
    names = image_names(source)
    folders = _folders(names)
    if _TRAIN in folders and folders & _HELD_OUT:
        _tell(source, [_TRAIN], warn)
        return _inner(SubSource(source, _TRAIN), warn)
    is_wrapped = len(folders) == 1 and all("/" in name for name in names)
    if is_wrapped and not _sides(source):
        return _inner(SubSource(source, *folders), warn)
    return source


def _sides(source: Source) -> list[str]:
    """Return which folders of sides have images: none, one, or A's and B's."""
    folders = _folders(image_names(source))
    found = ([name for name in pair if name in folders] for pair in SIDES)
    return next((names for names in found if names), [])


def _folders(names: list[str]) -> set[str]:
    return {name.split("/", 1)[0] for name in names if "/" in name}


def _tell(source: Source, taken: list[str], warn: Warn) -> None:
    """Say which folders are used, where there are images elsewhere."""
    left_out = [name for name in image_names(source) if name.split("/", 1)[0] not in taken]
    if left_out:
        used = " and ".join(f"{name}/" for name in taken)
        warn(f"{source.path}: training on {used}; images left out elsewhere: {len(left_out)}")
