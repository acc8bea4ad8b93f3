"""Metadata neither break nor slow the reading of pixels; damage is still found."""

import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ganc.data.images import BrokenImageError, decode_image

from .pictures import encode, flip_bit, noise, png

LONG = 40_000_000
PICTURE = Image.fromarray(noise(32))


def decode(data: bytes) -> np.ndarray:
    return decode_image(data, "x", channels=4).numpy()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data), name) + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(*chunks: bytes, data: bytes | None = None) -> bytes:
    """Return a PNG with chunks behind its header."""
    data = png() if data is None else data
    return data[:33] + b"".join(chunks) + data[33:]


def with_segments(marker: int, *contents: bytes) -> bytes:
    """Return a JPEG with segments behind its start."""
    segments = (struct.pack(">BBH", 0xFF, marker, len(c) + 2) + c for c in contents)
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


JPEG = encode(PICTURE, "JPEG")

PNG_METADATA: dict[str, Callable[[], bytes]] = {
    "text": lambda: chunk(b"tEXt", b"a\0" + b"x" * LONG),
    "compressed text": lambda: chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(LONG))),
    "international text": lambda: chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(LONG))),
    "profile": lambda: chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(LONG))),
    "damaged profile": lambda: chunk(b"iCCP", b"a\0\0garbage"),
    "damaged EXIF": lambda: chunk(b"eXIf", b"garbage" * 9),
    "private": lambda: chunk(b"prVt", bytes(LONG)),
    "many": lambda: chunk(b"tEXt", b"a\0" + b"x" * 1000) * 20_000,
}
JPEG_METADATA: dict[str, Callable[[], bytes]] = {
    "comments": lambda: with_segments(0xFE, *[bytes(60_000)] * 500),
    "profile": lambda: with_segments(0xE2, *[b"ICC_PROFILE\0\1\1" + bytes(60_000)] * 500),
    "damaged profile": lambda: with_segments(0xE2, b"ICC_PROFILE\0"),
    "EXIF": lambda: with_segments(0xE1, *[b"Exif\0\0II*\0\x08\0\0\0" + bytes(60_000)] * 500),
    "damaged EXIF": lambda: with_segments(0xE1, b"Exif\0\0II*\0\xff\xff\0\0"),
    "damaged MPO": lambda: with_segments(0xE2, b"MPF\0garbage"),
}


def seconds(data: bytes) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        decode(data)
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("name", PNG_METADATA)
def test_pngs_are_read_without(name):
    data = with_chunks(PNG_METADATA[name]())
    assert np.array_equal(decode(data), decode(png()))
    assert seconds(data) < seconds(png()) + 1e-9 * len(data) * 5 + 0.05  # a checksum over it all


@pytest.mark.parametrize("name", JPEG_METADATA)
def test_jpegs_are_read_without(name):
    data = JPEG_METADATA[name]()
    assert np.array_equal(decode(data), decode(JPEG))
    assert seconds(data) < seconds(JPEG) + 1e-9 * len(data) * 5 + 0.05


@pytest.mark.parametrize("kind", ["WEBP", "TIFF"])
def test_long_profiles_of_other_formats(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(PICTURE, kind, icc_profile=bytes(LONG), **options)
    assert np.array_equal(decode(data)[:3], noise(32).transpose(2, 0, 1))


def test_damaged_exif_of_webp_is_passed_over():
    data = encode(PICTURE, "WEBP", lossless=True, exif=b"Exif\0\0garbage")
    assert np.array_equal(decode(data)[:3], noise(32).transpose(2, 0, 1))


def test_palettes_and_transparency_are_no_metadata():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    data = encode(image, transparency=0)
    text = chunk(b"tEXt", b"a\0b")
    assert np.array_equal(decode(with_chunks(text, data=data)), decode(data))
    assert decode(data)[3].tolist() == [[0, 255]]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_colours_of_jpegs_stay(mode):
    """JFIF's and Adobe's segments say how colours are coded; Pillow's reading is the witness."""
    image = PICTURE.convert(mode)
    data = encode(image, "JPEG", quality=95, comment=b"x" * 100)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(decode(data)[:3], expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_orientation_survives(kind, order):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    tiff = mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = decode(encode(PICTURE, kind, **options))
    turned = decode(encode(PICTURE, kind, exif=b"Exif\0\0" + tiff, **options))
    assert np.array_equal(turned, np.rot90(plain, -1, axes=(1, 2)))


@pytest.mark.parametrize("data", [b"", b"II*\0", b"II*\0\xff\0\0\0", b"MM\0*\0\0\0\x08\0\x09\x01"])
def test_cut_off_exif_is_passed_over(data):
    assert np.array_equal(decode(with_chunks(chunk(b"eXIf", data))), decode(png()))


def test_a_wrong_checksum_is_found_in_every_chunk():
    data = with_chunks(chunk(b"tEXt", b"a\0" + b"x" * 99))
    with pytest.raises(BrokenImageError, match="bad checksum in chunk tEXt"):
        decode(flip_bit(data, 60))


def test_every_flipped_bit_is_found_or_harmless():
    data = with_chunks(chunk(b"tEXt", b"a\0b"), chunk(b"gAMA", b"\0\0\xb1\x8f"))
    expected, found = decode(data), 0
    for position in range(len(data)):
        for bit in (0, 5, 7):
            try:
                image = decode(flip_bit(data, position, bit))
            except BrokenImageError:
                found += 1
                continue
            assert np.array_equal(image, expected), (position, bit)
    assert found > 2 * len(data)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_jpeg_headers_give_an_image_or_an_error(data):
    damaged = with_segments(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0", b"x" * 40)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged = flip_bit(damaged, data.draw(st.integers(0, 120)), data.draw(st.integers(0, 7)))
    channels, message = 4, "x: broken image ("
    try:
        channels = decode(damaged).shape[0]
    except BrokenImageError as error:
        message = error.message
    assert channels == 4
    assert message.startswith("x: broken image (")
