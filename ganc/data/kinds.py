"""Which files of a set are images: known endings by their name, all others by their first bytes."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from ganc.errors import DataError

# An explicit list: Pillow also knows formats that start other programs (EPS → Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""Formats that are read, by Pillow's names."""

FORMATS_TEXT = "PNG, JPEG, WebP, BMP or TIFF"

EXTENSIONS = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".webp", ".bmp", ".tif",
              ".tiff")  # fmt: skip
"""Endings that need no look into the file; names of partners are compared without them."""

HEAD_BYTES = 512
"""So much of a file tells what it is: SVG needs most, its first element follows comments."""

LABELS_FILE = "dataset.json"
_MOST_KINDS = 8

# BMP: two letters alone would also begin many a text, so the size of its second header counts too.
_SIGNATURES: dict[str, re.Pattern[bytes]] = {
    name: re.compile(pattern, re.DOTALL)
    for name, pattern in {
        "PNG": rb"\x89PNG\r\n\x1a\n",
        "JPEG": rb"\xff\xd8\xff",
        "WEBP": rb"RIFF.{4}WEBP",
        "BMP": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0{3}",
        "camera raw": rb"II\*\0.{4}CR",
        "TIFF": rb"II[*+]\0|MM\0[*+]|MM\*\0|II\0\*",
        "GIF": rb"GIF8[79]a",
        "AVIF": rb".{4}ftyp(avi[fs]|(mif1|msf1).{4}(.{4})*?avif)",
        "HEIC": rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
        "SVG": rb"(\xef\xbb\xbf)?\s*<(svg\b|(\?xml|!--|!DOCTYPE).*<svg\b)",
        "JPEG 2000": rb"\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51",
        "JPEG XL": rb"\0\0\0\x0cJXL \r\n|\xff\x0a",
        "Photoshop": rb"8BPS\0[\1\2]",
        "OpenEXR": rb"\x76\x2f\x31\x01",
        "Radiance": rb"#\?(RADIANCE|RGBE)",
        "PNM": rb"P[1-7Ff]\s+[\d#W]",
        "DDS": rb"DDS \x7c\0\0\0",
        "DICOM": rb".{128}DICM",
        "FITS": rb"SIMPLE  =",
    }.items()
}

# Cameras' raw files are TIFFs whose first picture is a small preview.
_RAW = (".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".nef", ".nrw",
        ".pef", ".sr2", ".srf", ".srw")  # fmt: skip


class Listing(NamedTuple):
    """The files of a set.

    Attributes:
        images: Names of those that are images, in order.
        left_out: What the others are → how many.
        unread: Formats of images among these.
    """

    images: list[str]
    left_out: dict[str, int]
    unread: list[str]


def list_images(names: Iterable[str], head: Callable[[str], bytes]) -> Listing:
    """Part a set's images from its other files; its label table is neither.

    Args:
        head: Returns a file's first ``HEAD_BYTES``; DataError where it cannot be read.
    """
    images: list[str] = []
    kinds: Counter[str] = Counter()
    unread: set[str] = set()
    for name in names:
        if name.lower().endswith(EXTENSIONS):
            images.append(name)
        elif PurePosixPath(name).name != LABELS_FILE:
            kind, is_image = _look(name, head)
            if kind in FORMATS:
                images.append(name)
                continue
            unread |= {kind} if is_image else set()
            kinds[_described(name, kind)] += 1
    return Listing(images, _shortened(kinds), sorted(unread))


def recognise(head: bytes) -> str | None:
    """Return an image's format by its first bytes, one of ``FORMATS`` or another; else None."""
    return next((name for name, pattern in _SIGNATURES.items() if pattern.match(head)), None)


def stem(name: str) -> str:
    """Return an image's name without its ending: what partners have in common."""
    ending = next((e for e in EXTENSIONS if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def describe_left_out(left_out: dict[str, int], unread: Iterable[str] = ()) -> str:
    """Return one line about the files that ``list_images`` left out."""
    count = sum(left_out.values())
    formats = ", ".join(unread)
    way_out = f"; {formats}: not read, save as PNG" if formats else ""
    return f"{count} file{'s'[: count != 1]} left out, no images: {enumerated(left_out)}{way_out}"


def enumerated(left_out: dict[str, int]) -> str:
    """Return what was left out as text: 2 .txt, 1 .gif."""
    return ", ".join(f"{count} {kind}" for kind, count in left_out.items())


def _look(name: str, head: Callable[[str], bytes]) -> tuple[str, bool]:
    """Return what a file is, and whether it is an image of any format."""
    try:
        kind = recognise(head(name))
    except DataError:  # it may well be no image: it is counted, and named for what it is
        return "unreadable", False
    if kind == "TIFF" and name.lower().endswith(_RAW):
        kind = "camera raw"
    return kind or "", kind is not None


def _described(name: str, kind: str) -> str:
    ending = PurePosixPath(name).suffix.lower()
    ending = ending if re.fullmatch(r"\.[\w-]{1,8}", ending) and not ending[1:].isdigit() else ""
    ending = ending or "without ending"
    return f"{ending} ({kind})" if kind and kind.lower() not in ending else ending


def _shortened(kinds: Counter[str]) -> dict[str, int]:
    """Return the most frequent kinds, and the rest as one."""
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[_MOST_KINDS:])
    return dict(ordered[:_MOST_KINDS]) | ({"others": rest} if rest else {})
