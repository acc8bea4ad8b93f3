"""One image file → one uint8 tensor, and uint8 ↔ the range [-1, 1] that the networks see.

What happens to each kind of image (docs/data.md says the same to the user):

- The first frame of PNG, JPEG, WebP, BMP and TIFF is decoded completely; nothing else is tried.
- The EXIF orientation is applied, colour profiles and gamma are not. Other metadata is not read.
- 16-bit grey samples are scaled to 8 bits, v·255/65535 rounded; 12-bit ones (TIFF), v·255/4095.
  16-bit colour keeps its high byte (all that Pillow offers), at most one level away from that.
  32-bit, signed and floating-point samples have no known range and are refused.
- Grey whose zero is white (TIFF) is inverted.
- Three channels: RGB; grey is repeated, CMYK and YCbCr are converted. One channel: ITU-R 601 luma.
- Transparency is composited onto white for one and three channels; four channels keep it as it is,
  not premultiplied, and an opaque image gets alpha 255.
- Another size than the set's is refused, or, with ``resize``, scaled with an antialiased Lanczos
  filter. Nothing is ever cropped; a rectangle is refused either way.
"""

import functools
import io
import re
import warnings
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from ganc.data import tiff
from ganc.data.kinds import FORMATS, FORMATS_TEXT, HEAD_BYTES, recognise
from ganc.data.metadata import orientation_of, split_metadata, upright, upright_size
from ganc.errors import DataError, UsageError

# Pillow warns from half of its limit on; an image below the limit is read, so that says nothing.
# For the whole process, because ``catch_warnings`` is not safe in the threads that decode.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

CHANNELS = (1, 3, 4)

MAX_PIXELS = 89_478_485
"""Of one image, whatever becomes of it: what Pillow calls safe, 360 MB decoded."""

Size = tuple[int, int]
"""Width and height, upright."""

CheckSize = Callable[[Size], None]
"""Looks at an image's size before its pixels are decoded; raises DataError where it will not do."""

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")


class BrokenImageError(DataError):
    """An image whose bytes are damaged: training skips a few of them, evaluation none."""


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Map uint8 to the nominal range [-1, 1].

    Args:
        images: uint8, any shape.
    Returns:
        float32, the same shape and device, x/127.5 - 1.
    """
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Map the nominal range [-1, 1] to uint8, rounding and clamping as StyleGAN does.

    Args:
        images: Floating point, any shape.
    Returns:
        uint8, the same shape and device. Guarantees: ``to_uint8(to_float(x)) == x``.
    """
    return (images.to(torch.float32) * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def decode_image(
    data: bytes,
    where: str,
    *,
    channels: int,
    resolution: int | None = None,
    resize: bool = False,
    check: CheckSize | None = None,
) -> torch.Tensor:
    """Decode one image file completely, by the rules at the top of this module.

    Its size is looked at first: an image that will not do costs no more than its header.

    Args:
        data: The whole file.
        where: What errors call it: a path, with the zip's name in front for a member.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        resolution: Height and width that the image must have; None takes any size.
        resize: Scale a square image of another size to ``resolution`` instead of refusing it.
        check: Another rule about sizes, where there is no resolution.
    Returns:
        [channels, H, W], uint8.
    Raises:
        BrokenImageError: The bytes are damaged or of no known format.
        DataError: The image is sound but its size or sample format is not allowed.
    """
    if channels not in CHANNELS:
        raise UsageError(f"channels is {channels}, allowed are 1, 3 and 4")
    if resolution is not None:
        check = functools.partial(_check_square, where, resolution, resize)
    return _square(_to_8bit(read_pixels(data, where, check), where), where, channels, resolution)


def decode_halves(
    data: bytes, where: str, *, channels: tuple[int, int], resolution: int, resize: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode a file that holds two squares side by side, each by the rules of ``decode_image``.

    Args:
        channels: Of the left and of the right image.
        resolution: Height and width of each.
        resize: Scale another size; each half on its own, so that no pixel crosses the seam.
    Returns:
        The left and the right image, [C, H, W], uint8.
    Raises:
        BrokenImageError: The bytes are damaged or of no known format.
        DataError: The image is sound, but not twice as wide as high, or not of the size.
    """
    check = functools.partial(_check_halves, where, resolution, resize)
    image = _to_8bit(read_pixels(data, where, check), where)
    height = image.height
    left, right = (
        _square(image.crop((x, 0, x + height, height)), where, count, resolution)
        for x, count in zip((0, height), channels, strict=True)
    )
    return left, right


def _check_halves(where: str, resolution: int, resize: bool, size: Size) -> None:
    width, height = size
    found = f"{where}: size {width}x{height}, allowed is {2 * resolution}x{resolution}"
    if width != 2 * height:
        raise DataError(
            f"{found}: two squares side by side",
            "pass the sides as two folders or zips, --data A --data-b B",
        )
    if height != resolution and not resize:
        raise DataError(found, f"--resize scales both halves to {resolution}x{resolution}")


def _check_square(where: str, resolution: int, resize: bool, size: Size) -> None:
    width, height = size
    found = f"{where}: size {width}x{height}, allowed is {resolution}x{resolution}"
    if width != height:
        raise DataError(found, "crop or pad it to a square first; images are never cropped here")
    if width != resolution and not resize:
        raise DataError(found, f"--resize scales every image to {resolution}x{resolution}")


def _square(image: Image.Image, where: str, channels: int, resolution: int | None) -> torch.Tensor:
    """Return a square of the set's size, scaled where it has another; None takes any image."""
    image = _with_channels(image, where, channels)
    if resolution is not None and image.size != (resolution, resolution):
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return _to_tensor(image)


def image_size(data: bytes) -> Size | None:
    """Return what an image's header says of its size; None for a broken image."""
    try:
        pixels, exif = split_metadata(data)
        with _open(pixels) as image:
            return upright_size(image.size, _orientation(image, exif))
    except MemoryError:
        raise
    except Exception:  # as in ``read_pixels``, which says what is wrong
        return None


def sample_bits(data: bytes) -> int | None:
    """Return on how many bits an image's samples are read, 8 or 16; None for a broken image."""
    try:
        with _open(split_metadata(data)[0]) as image:
            return _sample_bits(image)
    except MemoryError:
        raise
    except Exception:  # as in ``read_pixels``, which says what is wrong
        return None


def largest_sample(data: bytes, where: str) -> int:
    """Return an image's largest value, on the scale of its samples (``sample_bits``).

    Of 16-bit colour, whose low byte cannot be had, it is the largest that it can be. What is
    transparent counts as white.

    Raises:
        BrokenImageError, DataError: See ``decode_image``.
    """
    image = read_pixels(data, where)
    if image.mode.startswith("I;16"):
        return int(np.asarray(image).max())
    extrema = np.asarray(_with_channels(_to_8bit(image, where), where, 3).getextrema())
    largest = int(extrema.max())
    return largest if sample_bits(data) == 8 else 256 * largest + 255


def read_pixels(data: bytes, where: str, check: CheckSize | None = None) -> Image.Image:
    """Decode an image's first frame as it is stored, and turn it upright.

    Raises:
        BrokenImageError: The bytes are damaged or of no known format.
        DataError: The image is sound, but too large or of samples that are not supported; or
            ``check`` refuses its size.
    """
    try:
        pixels, exif = split_metadata(data)
        with _open(pixels) as image:
            orientation = _orientation(image, exif)
            _check_pixels(where, image.width * image.height)
            if check is not None:
                check(upright_size(image.size, orientation))
            image.verify()  # PNG checksums, which decoding alone does not look at
        with _open(pixels) as image:
            image.load()
            if image.mode == "P" and image.palette is None:
                raise ValueError("no palette")
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                return _tiff_pixels(image, where)
            return upright(image, orientation)
    except (MemoryError, DataError):
        raise
    except Exception as error:  # on damaged bytes Pillow's decoders raise errors of any class
        raise _fault(error, data, where) from error


def _tiff_pixels(image: TiffImagePlugin.TiffImageFile, where: str) -> Image.Image:
    misread = tiff.misread(image, image.tag_v2)
    if misread:
        raise _unsupported(where, misread)
    return tiff.levelled(ImageOps.exif_transpose(image), image.tag_v2)


def _orientation(image: ImageFile.ImageFile, exif: bytes) -> int:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1  # Pillow turns these itself
    return orientation_of(exif or image.info.get("exif", b""))


def _check_pixels(where: str, count: int | None) -> None:
    """Refuse an image of more pixels than anybody needs; None are too many to be told."""
    if count is None or count > MAX_PIXELS:
        raise DataError(
            f"{where}: too large, {count or 'too many'} pixels, allowed are {MAX_PIXELS}",
            "scale it down, or cut it into smaller images",
        )


def _fault(error: Exception, data: bytes, where: str) -> DataError:
    """Return what an error of Pillow's says about an image: broken, or what else is wrong.

    Raises:
        DataError: It is too large.
    """
    if isinstance(error, Image.DecompressionBombError):
        found = re.search(r"\d+", str(error))  # the image is not opened, so Pillow has to say
        _check_pixels(where, int(found[0]) if found else None)
    if not isinstance(error, UnidentifiedImageError):
        return _broken(where, " ".join(str(error).split()) or type(error).__name__)
    kind = recognise(data[:HEAD_BYTES])
    samples = tiff.unsupported(data) if kind == "TIFF" else None
    if samples:
        return _unsupported(where, samples)
    other = "" if kind is None or kind in FORMATS else f"{kind}, "
    return _broken(where, f"{other}not a {FORMATS_TEXT} image")


def _unsupported(where: str, samples: str) -> DataError:
    return DataError(
        f"{where}: unsupported sample format ({samples})", "save the image as an 8-bit PNG"
    )


def _open(pixels: bytes) -> ImageFile.ImageFile:
    if recognise(pixels[:HEAD_BYTES]) == "TIFF":
        tiff.check_claims(pixels)
    return Image.open(io.BytesIO(pixels), formats=FORMATS)


def _sample_bits(image: ImageFile.ImageFile) -> int:
    """Return 16 where Pillow's decoders are told so; it has 8-bit modes for 16-bit colour."""
    is_deep = any(bits in str(tile[3]) for tile in image.tile for bits in (";16", ";12"))
    return 16 if is_deep else 8


def _broken(where: str, reason: str) -> BrokenImageError:
    return BrokenImageError(
        f"{where}: broken image ({reason})", "replace the file or remove it from the set"
    )


def _to_8bit(image: Image.Image, where: str) -> Image.Image:
    """Bring 16-bit grey down to 8 bits; refuse samples whose range nobody knows."""
    if image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((samples + 128) // 257).astype(np.uint8))  # 65535 = 257 * 255
    if image.mode not in _MODES:
        raise DataError(
            f"{where}: pixel format `{image.mode}` has no known range, "
            "allowed are 8 and 16 bits a sample",
            "save the image as an 8-bit PNG",
        )
    return image


def _with_channels(image: Image.Image, where: str, channels: int) -> Image.Image:
    """Convert to L, RGB or RGBA; transparency goes onto white unless it is kept."""
    try:
        if channels == 4:
            return image.convert("RGBA")
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        wanted = "RGB" if channels == 3 else "L"
        return image if image.mode == wanted else image.convert(wanted)
    except MemoryError:
        raise
    except Exception as error:  # such as on a damaged palette
        raise _fault(error, b"", where) from error


def _to_tensor(image: Image.Image) -> torch.Tensor:
    pixels = np.array(image)  # a copy: Pillow's own buffer is read-only
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    # Not torch's copy, which would start a pool of workers for each decoding thread.
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # [C, H, W]
