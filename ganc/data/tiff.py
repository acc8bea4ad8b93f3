"""What Pillow leaves undone about a TIFF's samples, and the name of what it cannot read.

Pillow hands 12-bit grey out as 0 to 4095, 16-bit grey whose zero is white as it is stored, and
signed bytes as if they were unsigned.
"""

import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image, TiffImagePlugin

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags, TIFF 6.0
_WHITE_IS_ZERO = 0
_KINDS = {1: "unsigned", 2: "signed", 3: "floating-point"}

_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability
_MOST_DIRECTORIES = 16
_SHORT = 3
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
               16: 8, 17: 8, 18: 8}  # fmt: skip
_TEXTS = (1, 2, 6, 7)  # types that are kept as they are; of others each number is an object
_MOST_NUMBERS = 2**20
_LARGEST_TILE = 2**24

Tags = TiffImagePlugin.ImageFileDirectory_v2


def check_claims(data: bytes) -> None:
    """Refuse directories that claim more than the file can hold, or tiles without measure.

    Pillow copies what each entry points at, and the decoder makes room for a tile.

    Args:
        data: A file that begins as a TIFF does. One that ends too early is the decoder's case.
    Raises:
        ValueError: Its claims.
    """
    tags = list(_entries(data))
    num_bytes = sum(count * _TYPE_BYTES.get(kind, 0) for _, kind, count, _ in tags)
    if num_bytes > len(data):
        raise ValueError(f"its tags claim {num_bytes} bytes, the file has {len(data)}")
    numbers = sum(count for _, kind, count, _ in tags if kind not in _TEXTS)
    if numbers > _MOST_NUMBERS:
        raise ValueError(f"its tags hold {numbers} numbers")
    sides = {tag: value for tag, _, _, value in tags if tag in (_TILE_WIDTH, _TILE_LENGTH)}
    if len(sides) == 2 and sides[_TILE_WIDTH] * sides[_TILE_LENGTH] > _LARGEST_TILE:
        raise ValueError(f"tiles of {sides[_TILE_WIDTH]}x{sides[_TILE_LENGTH]} pixels")


def _entries(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (tag, type, count, value) of the directories that Pillow reads, as far as they go."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:3] == b"+"
    # Where the first directory begins, how many entries one has, and each of them.
    begin, number, entry = ("8xQ", "Q", "HHQQ") if is_big else ("4xI", "H", "HHII")
    try:
        starts = list(struct.unpack_from(order + begin, data))
    except struct.error:
        return
    for start in starts:  # grows: of the first, and of those that it points at
        try:
            (count,) = struct.unpack_from(order + number, data, start)
            start += struct.calcsize(order + number)
            width = struct.calcsize(order + entry)
            count = min(count, max(0, len(data) - start) // width)
            table = memoryview(data)[start : start + count * width]
            for tag, kind, length, value in struct.iter_unpack(order + entry, table):
                if kind == _SHORT and order == ">":  # it stands at the left
                    value >>= 48 if is_big else 16
                yield tag, kind, length, value & 0xFFFF if kind == _SHORT else value
                if tag in _DIRECTORIES:
                    starts.append(value)
        except (struct.error, OverflowError):
            continue
        if len(starts) > _MOST_DIRECTORIES:
            raise ValueError(f"more than {_MOST_DIRECTORIES} directories")


def levelled(image: Image.Image, tags: Tags) -> Image.Image:
    """Return 16-bit grey on the scale 0 (black) to 65535; other images as they are.

    12 bits are widened by repeating their highest four, so that 4095 becomes 65535.
    """
    if not image.mode.startswith("I;16"):
        return image
    samples = np.asarray(image).astype(np.uint16)
    if _bits(tags) == 12:
        samples = ((samples << 4) | (samples >> 8)).astype(np.uint16)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        samples = ~samples  # 65535 - v
    return Image.fromarray(samples)


def misread(image: Image.Image, tags: Tags) -> str | None:
    """Describe samples that Pillow takes for others, signed bytes; None for all others."""
    kinds = set(tags.get(_SAMPLE_FORMAT, (1,)))
    return None if image.mode in ("I", "F") or kinds == {1} else _described(tags)


def unsupported(data: bytes) -> str | None:
    """Describe the samples of a TIFF that Pillow does not open; None where it is damaged.

    Args:
        data: A file that begins as a TIFF does.
    """
    try:
        tags = Tags(data[:8] if data[2:3] != b"+" else data[:16])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        return _described(tags)
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error):
        return None


def _bits(tags: Tags) -> int:
    return int(max(tags.get(_BITS, (1,))))


def _described(tags: Tags) -> str | None:
    kinds = set(tags.get(_SAMPLE_FORMAT, (1,)))
    bits, photometric = _bits(tags), tags.get(_PHOTOMETRIC)
    is_known = kinds <= {*_KINDS, 4, 5, 6} and 1 <= bits <= 64 and photometric is not None
    if not is_known:
        return None
    kind = _KINDS.get(min(kinds), "complex or undefined")
    zero = ", zero is white" if photometric == _WHITE_IS_ZERO else ""
    return f"TIFF of {bits}-bit {kind} samples{zero}"
