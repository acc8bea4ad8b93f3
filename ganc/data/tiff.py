"""What Pillow leaves undone about a TIFF's samples, and the name of what it cannot read.

Pillow hands 12-bit grey out as 0 to 4095, 16-bit grey whose zero is white as it is stored, and
signed bytes as if they were unsigned.
"""

import io
import struct

import numpy as np
from PIL import Image, TiffImagePlugin

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags, TIFF 6.0
_WHITE_IS_ZERO = 0
_KINDS = {1: "unsigned", 2: "signed", 3: "floating-point"}

Tags = TiffImagePlugin.ImageFileDirectory_v2


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
