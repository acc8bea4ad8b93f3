"""What happens to each kind of image, and to damaged ones."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from ganc.data import images
from ganc.data.images import BrokenImageError, decode_halves, decode_image, to_float, to_uint8
from ganc.errors import DataError, UsageError

from .pictures import encode, flip_bit, noise, png, raw_png


def decode(data: bytes, channels: int = 3) -> np.ndarray:
    """Decode to [H, W, C], the layout of the arrays that the tests start from."""
    image = decode_image(data, "x.png", channels=channels)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


def test_uint8_survives_the_float_range():
    levels = torch.arange(256, dtype=torch.uint8)
    values = to_float(levels)
    assert values.dtype == torch.float32
    assert (values[0], values[255]) == (-1.0, 1.0)
    assert torch.equal(to_uint8(values), levels)


def test_uint8_is_clamped_and_rounded_half_up():
    values = torch.tensor([-3.0, 3.0, 0.0, 0.49 / 127.5 - 1, 0.51 / 127.5 - 1])
    assert to_uint8(values).tolist() == [0, 255, 128, 0, 1]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_back_their_pixels(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = noise()
    assert np.array_equal(decode(encode(Image.fromarray(pixels), kind, **options)), pixels)


def test_jpeg_is_decoded():
    flat = np.full((8, 8, 3), (200, 100, 50), dtype=np.uint8)
    found = decode(encode(Image.fromarray(flat), "JPEG", quality=95)).astype(int)
    assert np.abs(found - flat).max() <= 3  # quantisation of a flat block at quality 95


def test_grey_is_repeated_for_colour():
    grey = noise(channels=1)
    assert np.array_equal(decode(encode(Image.fromarray(grey[:, :, 0]))), grey.repeat(3, axis=2))


def test_one_channel_is_601_luma():
    pixels = noise()
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    found = decode(png(), channels=1)
    assert found.shape == (8, 8, 1)
    assert np.abs(found[:, :, 0] - luma).max() <= 0.51  # one rounding, fixed-point coefficients


@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_goes_onto_white(channels):
    pixels = noise(channels=4)
    alpha = pixels[:, :, 3:] / 255
    over_white = pixels[:, :, :3] * alpha + 255 * (1 - alpha)
    expected = over_white if channels == 3 else over_white @ np.array([[0.299], [0.587], [0.114]])
    found = decode(encode(Image.fromarray(pixels)), channels)
    assert np.abs(found - expected).max() <= 1  # 8-bit compositing, then 8-bit luma


def test_four_channels_keep_transparency():
    pixels = noise(channels=4)
    assert np.array_equal(decode(encode(Image.fromarray(pixels)), 4), pixels)
    opaque = decode(png(), 4)
    assert np.array_equal(opaque[:, :, :3], noise())
    assert (opaque[:, :, 3] == 255).all()


def test_grey_with_transparency_goes_onto_white():
    image = Image.merge("LA", (Image.new("L", (4, 4), 0), Image.new("L", (4, 4), 51)))
    assert (decode(encode(image), 1) == 204).all()  # 255 * (1 - 0.2)


def test_palette_and_its_transparent_entry():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert decode(encode(image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert decode(encode(image, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_colour_key_goes_onto_white():
    image = Image.new("RGB", (1, 1), (1, 2, 3))
    assert decode(encode(image, transparency=(1, 2, 3))).tolist() == [[[255, 255, 255]]]
    assert decode(encode(image, transparency=(9, 9, 9))).tolist() == [[[1, 2, 3]]]


def test_bilevel_is_black_and_white():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert decode(encode(image), 1).ravel().tolist() == [0, 255]


def test_sixteen_bit_grey_is_scaled_exactly():
    samples = np.arange(65536).reshape(256, 256)
    expected = np.rint(samples * 255 / 65535).astype(np.uint8)
    by_hand = raw_png(samples[:, :, None].astype(np.uint16))
    by_pillow = encode(Image.fromarray(samples.astype(np.uint16)), "TIFF")
    for data in (by_hand, by_pillow):
        assert np.array_equal(decode(data, 1)[:, :, 0], expected)


@pytest.mark.parametrize("stored", [2, 3, 4])
def test_sixteen_bit_colour_is_within_one_level(stored):
    samples = np.random.default_rng(0).integers(0, 65536, (8, 8, stored)).astype(np.uint16)
    samples = samples if stored != 2 else np.dstack([samples[:, :, :1], np.full((8, 8, 1), 65535)])
    expected = samples * (255 / 65535)
    if stored == 2:
        expected = expected[:, :, [0, 0, 0, 1]]
    found = decode(raw_png(samples.astype(np.uint16)), 4)[:, :, : expected.shape[2]]
    assert np.abs(found - expected).max() < 1


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (3, 1))
    for x, ink in enumerate([(0, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]):
        image.putpixel((x, 0), ink)
    white, red, black = decode(encode(image, "TIFF"))[0].tolist()
    assert (white, red, black) == ([255, 255, 255], [255, 0, 0], [0, 0, 0])


ORIENTATIONS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = noise()[:6]  # a rectangle, so that turning shows in the shape too
    found = decode(encode(Image.fromarray(pixels), exif=exif))
    assert np.array_equal(found, ORIENTATIONS[orientation](pixels))


def test_first_frame_is_taken():
    frames = [Image.fromarray(noise(seed=seed)) for seed in (0, 1)]
    data = encode(frames[0], save_all=True, append_images=frames[1:])
    assert np.array_equal(decode(data), noise(seed=0))


def test_samples_of_unknown_range_are_refused():
    data = encode(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF")
    with pytest.raises(DataError, match=r"x\.tif: pixel format `F` has no known range") as caught:
        decode_image(data, "x.tif", channels=3)
    assert not isinstance(caught.value, BrokenImageError)


@pytest.mark.parametrize(
    ("size", "resize", "found", "hint"),
    [
        ((16, 16), False, "size 16x16, allowed is 8x8", "--resize"),
        ((16, 8), False, "size 16x8, allowed is 8x8", "crop"),
        ((16, 8), True, "size 16x8, allowed is 8x8", "crop"),
    ],
)
def test_other_sizes_are_refused(size, resize, found, hint):
    data = encode(Image.new("RGB", size))
    with pytest.raises(DataError, match=f"^a/x.png: {found}$") as caught:
        decode_image(data, "a/x.png", channels=3, resolution=8, resize=resize)
    assert hint in (caught.value.hint or "")
    assert not isinstance(caught.value, BrokenImageError)


def test_resize_is_antialiased():
    checkers = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = decode_image(
        encode(Image.fromarray(checkers)), "x.png", channels=1, resolution=16, resize=True
    )
    assert small.shape == (1, 16, 16)
    # Every output averages as many black as white pixels; one that samples gives 0 and 255.
    assert (small.int() - 127).abs().max() <= 8


@pytest.mark.parametrize("resolution", [3, 8, 20])
def test_resize_keeps_a_flat_image(resolution):
    data = encode(Image.new("RGBA", (8, 8), (10, 200, 30, 128)))
    image = decode_image(data, "x.png", channels=4, resolution=resolution, resize=True)
    flat = torch.tensor([10, 200, 30, 128]).view(4, 1, 1).expand(4, resolution, resolution)
    # Pillow scales premultiplied colours, which at alpha 128 costs up to one level.
    assert (image.int() - flat).abs().max() <= 1


def test_channels_are_checked():
    with pytest.raises(UsageError, match="channels is 2, allowed are 1, 3 and 4"):
        decode_image(png(), "x.png", channels=2)


def test_every_truncation_of_a_png_is_found():
    data = png()
    for length in range(len(data) - 4):  # the last four bytes are a checksum of nothing
        with pytest.raises(BrokenImageError, match=r"^x\.png: broken image \(.+\)$"):
            decode_image(data[:length], "x.png", channels=3)


def test_no_flipped_bit_of_a_png_changes_a_pixel():
    data, pixels = png(), noise()
    for position in range(len(data)):
        try:
            found = decode(flip_bit(data, position, position % 8))
        except BrokenImageError:
            continue
        assert np.array_equal(found, pixels), position


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "TIFF", "WEBP"])
def test_half_a_file_is_broken(kind):
    data = encode(Image.fromarray(noise(32)), kind)
    with pytest.raises(BrokenImageError, match=r"^x: broken image"):
        decode_image(data[: len(data) // 2], "x", channels=3)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP"]), damage=st.data())
def test_damage_gives_an_image_or_a_data_error(kind, damage):
    data = encode(Image.fromarray(noise(16)), kind)
    for _ in range(damage.draw(st.integers(1, 4))):
        position = damage.draw(st.integers(0, min(len(data) - 1, 300)))
        data = flip_bit(data, position, damage.draw(st.integers(0, 7)))
    shape, message = (3, 16, 16), "x: "
    try:
        shape = tuple(decode_image(data, "x", channels=3, resolution=16).shape)
    except DataError as error:
        message = error.message
    assert shape == (3, 16, 16)
    assert message.startswith("x: ")
    assert "\n" not in message


@pytest.mark.parametrize("data", [b"", b"hello", encode(Image.new("RGB", (4, 4)), "GIF")])
def test_other_formats_are_named(data):
    with pytest.raises(BrokenImageError, match="not a PNG, JPEG, WebP, BMP or TIFF image"):
        decode_image(data, "x.png", channels=3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_palette_image_without_palette_is_broken(channels):
    data = encode(Image.new("P", (4, 4)))
    start = data.index(b"PLTE") - 4
    length = int.from_bytes(data[start : start + 4])
    data = data[:start] + data[start + 12 + length :]
    with pytest.raises(BrokenImageError, match=r"^x\.png: broken image \(no palette\)$"):
        decode_image(data, "x.png", channels=channels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_too_large_images_are_not_broken(kind, monkeypatch):
    data = encode(Image.fromarray(noise(8)), kind)
    monkeypatch.setattr(images, "MAX_PIXELS", 62)
    for pillows_own in (31, 1000):  # Pillow refuses twice that itself
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_own)
        with pytest.raises(DataError) as caught:
            decode_image(data, "x", channels=3)
        assert caught.value.message == "x: too large, 64 pixels, allowed are 62"
        assert not isinstance(caught.value, BrokenImageError)


def test_large_images_are_read_in_silence(tmp_path):
    (tmp_path / "x.png").write_bytes(png())
    code = (
        "import sys; from PIL import Image; from ganc.data.images import decode_image\n"
        "Image.MAX_IMAGE_PIXELS = 40\n"
        "print(decode_image(open(sys.argv[1], 'rb').read(), 'x', channels=3).shape)"
    )
    command = [sys.executable, "-W", "always", "-c", code, str(tmp_path / "x.png")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "[3, 8, 8]" in result.stdout
    assert "Decompression" not in result.stderr


def test_out_of_memory_is_not_a_broken_image(monkeypatch):
    def fail(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        decode_image(png(), "x.png", channels=3)


def test_a_size_that_will_not_do_is_refused_before_pixels_are_decoded(monkeypatch):
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("decoded")

    data = png()
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(DataError, match=r"^x: size 8x8, allowed is 32x32"):
        decode_image(data, "x", channels=3, resolution=32)
    with pytest.raises(DataError, match=r"^x: size 8x8, allowed is 64x32"):
        decode_halves(data, "x", channels=(3, 3), resolution=32, resize=True)
