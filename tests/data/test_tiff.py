"""Samples of TIFFs that Pillow hands out as something else, or does not open."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from ganc.data.dataset import open_dataset
from ganc.data.images import BrokenImageError, decode_image, largest_sample, sample_bits
from ganc.errors import DataError

from .pictures import encode, write_folder


def tiff(
    samples: bytes, bits: int, *, zero_is_white: bool = False, kind: int = 1, order: str = "<"
) -> bytes:
    """Write an uncompressed grey TIFF of 16x16 by hand; kind is its SampleFormat."""
    tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: int(not zero_is_white), 273: 8, 277: 1,
            278: 16, 279: len(samples), 339: kind}  # fmt: skip
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(samples))
    entries = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()
    )
    return start + samples + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def packed(samples: np.ndarray) -> bytes:
    """Pack 12-bit samples, the first one's highest bit first."""
    text = "".join(f"{value:012b}" for value in samples.ravel())
    return int(text, 2).to_bytes(len(text) // 8, "big")


def values(top: int) -> np.ndarray:
    found = np.random.default_rng(0).integers(0, top + 1, (16, 16))
    found[0, :2] = 0, top
    return found


def decoded(data: bytes) -> np.ndarray:
    return decode_image(data, "x.tif", channels=1)[0].numpy()


@pytest.mark.parametrize("first", range(0, 4096, 256))
def test_twelve_bits_are_scaled_by_their_own_depth(first):
    samples = np.arange(first, first + 256).reshape(16, 16)
    expected = np.rint(samples * 255 / 4095)
    assert np.array_equal(decoded(tiff(packed(samples), 12)), expected)


def test_twelve_bits_are_judged_as_they_are_read(tmp_path):
    bright, dark = tiff(packed(values(4095)), 12), tiff(packed(values(1000)), 12)
    assert (sample_bits(bright), largest_sample(bright, "x")) == (16, 65535)
    said: list[str] = []
    path = write_folder(tmp_path / "bright", {"0.tif": bright})
    open_dataset(path, resolution=16, channels=1, warn=said.append)
    assert said == []
    path = write_folder(tmp_path / "dark", {"0.tif": dark})
    open_dataset(path, resolution=16, channels=1, warn=said.append)
    assert "they are read 4 times too dark" in said[0]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_sixteen_bits_whose_zero_is_white_are_inverted(compression, orientation):
    samples = values(65535).astype(np.uint16)
    options = {"tiffinfo": {262: 0, 274: orientation}, "compression": compression}
    data = encode(Image.fromarray(samples), "TIFF", **options)
    if compression is None and orientation == 1:
        data = tiff(samples.astype("<u2").tobytes(), 16, zero_is_white=True)
    with Image.open(io.BytesIO(data)) as image:
        assert image.tag_v2[262] == 0
    expected = np.rint((65535 - samples.astype(int)) * 255 / 65535)
    assert np.array_equal(decoded(data), expected if orientation == 1 else np.rot90(expected, -1))


@pytest.mark.parametrize("zero_is_white", [False, True])
def test_eight_bits_follow_their_zero(zero_is_white):
    samples = values(255).astype(np.uint8)
    found = decoded(tiff(samples.tobytes(), 8, zero_is_white=zero_is_white))
    assert np.array_equal(found, 255 - samples if zero_is_white else samples)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (tiff(bytes(512), 16, kind=3), "TIFF of 16-bit floating-point samples"),
        (tiff(bytes(256), 8, kind=2), "TIFF of 8-bit signed samples"),
        (
            tiff(bytes(512), 16, zero_is_white=True, order=">"),
            "TIFF of 16-bit unsigned samples, zero is white",
        ),
        (tiff(bytes(2048), 64, kind=3), "TIFF of 64-bit floating-point samples"),
        (tiff(bytes(448), 14), "TIFF of 14-bit unsigned samples"),
    ],
)
def test_other_samples_are_named(data, found):
    with pytest.raises(DataError) as caught:
        decoded(data)
    assert caught.value.message == f"x.tif: unsupported sample format ({found})"
    assert not isinstance(caught.value, BrokenImageError)


@pytest.mark.parametrize("kept", [6, 8, 300, 530])
def test_a_damaged_tiff_stays_a_broken_image(kept):
    with pytest.raises(BrokenImageError):
        decoded(tiff(bytes(512), 16, kind=3)[:kept])


def directory(*entries: tuple[int, int, int, int], size: int = 400) -> bytes:
    """A TIFF of one directory of (tag, type, count, value), padded to a size."""
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    start = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table
    return start.ljust(size, b"\0")


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (directory(*((tag, 7, 100, 8) for tag in range(9))), "its tags claim 900 bytes"),
        (directory((270, 2, 2**32 - 1, 8)), "its tags claim 4294967295 bytes"),
        (directory((34665, 4, 1, 22), size=22) + directory((1, 1, 2**31, 0))[8:], "its tags claim"),
        (directory((273, 3, 2**20 + 1, 8), size=2**22), "its tags hold 1048577 numbers"),
        (directory((322, 3, 1, 30000), (323, 3, 1, 30000)), "tiles of 30000x30000 pixels"),
        (directory(*[(34665, 4, 1, 8)] * 20), "more than 16 directories"),
    ],
    ids=["doubled", "long", "inner", "numbers", "tiles", "directories"],
)
def test_claims_of_a_directory(data: bytes, finding: str) -> None:
    with pytest.raises(BrokenImageError, match=finding):
        decode_image(data, "x.tif", channels=3)
