"""Implausible values: images whose file has more bits than their values use.

Scanners and cameras store 10, 12 or 14 bits in files of 16; masks are stored as 0 and 1 in files of
8. Read as they are, such images are too dark, and nothing else about them is wrong. One picture
proves nothing: what counts is that no image of the set comes near the upper end of its range.
"""

from dataclasses import dataclass

from ganc import seeds
from ganc.data.images import image_size, largest_sample, sample_bits
from ganc.data.opening import image_names
from ganc.data.sources import Source
from ganc.errors import DataError
from ganc.progress import Warn

LIMITS = {16: 2**14, 8: 2**4}
"""Bits of a sample in the file → the least value that some image of a sound set has.

No sensor has 15 bits, and no picture set of 16 bits leaves three quarters of its range unused; in 8
bits, where whole sets of dark pictures exist, only what is nearly black can be no picture."""

MOST = 500
"""So many images at most are looked at, drawn at random, the same ones each time."""

_LEAST = 64  # looked at even where all are bright: images of the other depth may be among them


@dataclass
class _Seen:
    """The images of one depth that were looked at."""

    largest: int = 0
    count: int = 0

    def add(self, value: int) -> None:
        self.largest = max(self.largest, value)
        self.count += 1


def check_levels(source: Source, warn: Warn, height: int | None = None) -> None:
    """Warn of a set in which no image of 8 or of 16 bits comes near the upper end of its range.

    Each depth is judged by itself. Broken and unusable images are skipped: the reader reports
    them.

    Args:
        height: That of the images that can be used, squares or two of them side by side; None
            where any will do.
    """
    names = image_names(source)
    seen = {bits: _Seen() for bits in LIMITS}
    for looked_at, name in enumerate(_drawn(names)):
        dark = [bits for bits, of in seen.items() if of.count and of.largest < LIMITS[bits]]
        if looked_at >= _LEAST and not dark:
            break
        _look(source, name, seen, height)
    where = source.where(names[0]) if len(names) == 1 else str(source.path)
    for bits, of in seen.items():
        if of.count and of.largest < LIMITS[bits]:
            warn(f"{where}: {_describe(of.largest, of.count, bits)}")


def _look(source: Source, name: str, seen: dict[int, _Seen], wanted: int | None) -> None:
    """Take in a sound image; its pixels are decoded only while its depth has no bright one."""
    try:
        data = source.read(name)
        width, height = image_size(data) or (0, 0)
        is_usable = wanted is None or (height == wanted and width in (height, 2 * height))
        bits = sample_bits(data) if is_usable else None
        if bits is not None and seen[bits].largest < LIMITS[bits]:
            seen[bits].add(largest_sample(data, source.where(name)))
    except DataError:
        return


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


def _drawn(names: list[str]) -> list[str]:
    """Return at most ``MOST`` names in random order: evenly spaced ones may all be of one kind."""
    count = min(MOST, len(names))
    places = seeds.generator(0, "levels").choice(len(names), count, replace=False)
    return [names[place] for place in places]
