"""Small image files of every kind, for the data tests."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


def noise(size: int = 8, channels: int = 3, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return random pixels, [size, size, channels], uint8."""
    return np.random.default_rng(seed).integers(
        0, 256, (size, size, channels), dtype=np.uint8, endpoint=False
    )


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(size: int = 8, seed: int = 0) -> bytes:
    """Return an RGB PNG of ``noise(size, 3, seed)``."""
    return encode(Image.fromarray(noise(size, 3, seed)))


def raw_png(samples: npt.NDArray[np.uint16]) -> bytes:
    """Write a 16-bit PNG by hand (Pillow writes only grey ones); samples [H, W, 1 to 4]."""
    height, width, channels = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def flip_bit(data: bytes, position: int, bit: int = 0) -> bytes:
    damaged = bytearray(data)
    damaged[position] ^= 1 << bit
    return bytes(damaged)


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def labels_file(labels: object) -> bytes:
    return json.dumps({"labels": labels}).encode()
