"""Values that cannot be meant: images whose file has more bits than their values use.

Scanners and cameras store 10, 12 or 14 bits in files of 16; masks are stored as 0 and 1 in files of
8. Read as they are, such images are too dark, and nothing else about them is wrong. One picture
proves nothing: what counts is that no image of the set comes near the upper end of its range.
"""

from collections.abc import Iterator

from ganc.data.images import largest_sample, sample_bits
from ganc.data.opening import image_names
from ganc.data.sources import Source
from ganc.errors import DataError
from ganc.progress import Warn

LIMITS = {16: 2**14, 8: 2**4}
"""Bits of a sample in the file → the least value that some image of a sound set has.

No sensor has 15 bits, and no picture set of 16 bits leaves three quarters of its range unused; in 8
bits, where whole sets of dark pictures exist, only what is nearly black can be no picture."""

MOST = 500
"""So many images at most are looked at, evenly spread over the set, until one is bright."""

_PROBED = 16


def check_levels(source: Source, warn: Warn) -> None:
    """Warn of a set in which no image comes near the upper end of its range.

    Where some images have 16 bits, it is these that are judged. Broken images are passed over:
    whoever reads them says what is wrong.
    """
    names = image_names(source)
    is_deep = any(_bits(source, name) == 16 for name in _spread(names, _PROBED))
    bits = 16 if is_deep else 8
    largest, count, first = 0, 0, ""
    for name, value in _largest(source, _spread(names, MOST), bits):
        if value >= LIMITS[bits]:
            return
        largest, count, first = max(largest, value), count + 1, first or name
    if count:
        where = source.where(first) if len(names) == 1 else str(source.path)
        warn(f"{where}: {_describe(largest, count, bits)}")


def _describe(largest: int, count: int, bits: int) -> str:
    images = f"{count} image{'s'[: count != 1]}"
    if largest == 0:
        return f"the largest value in {images} is 0: nothing but black"
    if bits == 8:
        return (
            f"the largest value in {images} is {largest} of 255: they are read as nearly black; "
            "save them with values from 0 to 255"
        )
    used = max(8, largest.bit_length())
    factor = 2 ** (16 - used)
    return (
        f"the largest value in {images} of 16 bits is {largest} of 65535, as if {used} bits were "
        f"stored in 16: they are read {factor} times too dark; save them with all values "
        f"multiplied by {factor}"
    )


def _largest(source: Source, names: list[str], bits: int) -> Iterator[tuple[str, int]]:
    """Yield the largest value of each sound image with so many bits."""
    for name in names:
        try:
            data = source.read(name)
            if bits == 16 and sample_bits(data) != bits:
                continue
            yield name, largest_sample(data, source.where(name))
        except DataError:
            continue


def _bits(source: Source, name: str) -> int | None:
    try:
        return sample_bits(source.read(name))
    except DataError:
        return None


def _spread(names: list[str], count: int) -> list[str]:
    """Return at most so many names, evenly spaced, the first among them."""
    step = max(1, len(names) / count)
    return [names[int(i * step)] for i in range(min(count, len(names)))]
