"""Parting an image file's pixels from its metadata, of which only the orientation matters.

Pillow reads all metadata before a pixel: it refuses long texts, trips over damaged profiles, and
takes its time over long ones. PNG and JPEG are therefore handed over without.
"""

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # animations: IDAT is the first frame

_JPEG = b"\xff\xd8\xff"
# Comments, and applications' segments but JFIF's and Adobe's, which say how colours are coded.
_METADATA_SEGMENTS = {0xFE, *range(0xE0, 0xF0)} - {0xE0, 0xEE}
_SCAN = 0xDA

_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = range(5, 9)


def split_metadata(data: bytes) -> tuple[bytes, bytes]:
    """Return what of a PNG or JPEG decides about pixels, and its EXIF data or nothing.

    Files of other formats, and what is damaged, are handed through: the decoder says what is wrong.

    Raises:
        ValueError: A PNG chunk that is left away does not match its checksum.
    """
    if data.startswith(_PNG):
        parts, start, mark = _png_chunks(data), len(_PNG), b"eXIf"
    elif data.startswith(_JPEG):
        parts, start, mark = _jpeg_segments(data), 2, _EXIF
    else:
        return data, b""
    kept, exif = [memoryview(data)[:start]], b""
    for part, metadata in parts:
        if metadata is None:
            kept.append(part)
        elif not exif and metadata[: len(mark)] == mark:
            exif = bytes(metadata[len(mark) :])
    return b"".join(kept), exif


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image by its orientation, 1 to 8; other numbers say nothing about it."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return width and height of an image that is turned by its orientation."""
    return (size[1], size[0]) if orientation in _LYING else size


FilePart = tuple[memoryview, memoryview | None]
"""A part of a file; and, where it is metadata, what it holds."""


def _png_chunks(data: bytes) -> Iterator[FilePart]:
    """Yield each chunk, with name and content if it is metadata; from damage on the rest."""
    position, view = len(_PNG), memoryview(data)  # metadata may be long: no copies
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        chunk = view[position:end]
        if name in _PIXEL_CHUNKS:
            yield chunk, None
        elif zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
            raise ValueError(f"bad checksum in chunk {name.decode(errors='replace')}")
        else:
            yield chunk, chunk[4:-4]
        position = end
        if name == b"IEND":
            return
    yield view[position:], None


def _jpeg_segments(data: bytes) -> Iterator[FilePart]:
    """Yield each segment before the pixels, with its content if it is metadata; then the rest."""
    position, view = 2, memoryview(data)
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, position + 1)
        if marker == 0xFF:  # padding
            position += 1
            continue
        end = position + 2 + length
        if marker < 0xC0 or marker == _SCAN or length < 2 or end > len(data):
            break
        segment = view[position:end]
        is_metadata = marker in _METADATA_SEGMENTS
        yield segment, segment[4:] if is_metadata else None
        position = end
    yield view[position:], None


def orientation_of(exif: bytes) -> int:
    """Return the orientation in EXIF data: 1 to 8, or another number; 1 where they are damaged."""
    tiff = exif.removeprefix(_EXIF)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}4xI", tiff)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", tiff, entry)
            if tag == _ORIENTATION and number == 1 and kind in _INTEGERS:
                (value,) = struct.unpack_from(f"{order}{_INTEGERS[kind]}", tiff, entry + 8)
                return int(value)
    except struct.error:  # cut off
        pass
    return 1
