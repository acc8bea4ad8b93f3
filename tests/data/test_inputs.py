"""The images that a translator is given: any one size, every kind of file, one clear line."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganc.data.inputs import ImageInputs, open_inputs, open_source
from ganc.errors import DataError, InputError, UsageError
from ganc.models.labels import as_table
from ganc.models.sampling import Latents
from tests.families import make_resnet, make_sngan, make_unet

COLOUR = make_resnet().generator  # takes multiples of 4 from 8 on, nominally 16 px
GREY = make_unet().generator


def write(folder: Path, name: str, size: tuple[int, int] = (12, 8), mode: str = "RGB") -> Path:
    """Write a PNG whose pixels follow from its name; ``size`` is (width, height)."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(list(name.encode()))
    pixels = random.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(folder / name)
    return folder


def pixels(inputs: ImageInputs, *indices: int) -> torch.Tensor:
    return torch.cat([inputs.pixels(COLOUR, range(i, i + 1)) for i in indices])


def test_folder_zip_and_file_give_the_same_images(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("b.png", "a.png", "c.png"):
        write(folder, name)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    one, other = open_inputs(folder, COLOUR), open_inputs(tmp_path / "in.zip", COLOUR)
    assert (one.count, one.size) == (3, (8, 12))
    assert torch.equal(one.pixels(COLOUR, range(3)), other.pixels(COLOUR, range(3)))
    assert one.content_hash == other.content_hash
    alone = open_inputs(folder / "b.png", COLOUR)
    assert alone.count == 1
    assert torch.equal(pixels(alone, 0), pixels(one, 1))
    assert alone.name(0) == str(folder / "b.png")


def test_a_file_needs_no_extension(tmp_path: Path) -> None:
    write(tmp_path, "x.png")
    (tmp_path / "x.png").rename(tmp_path / "photo")
    assert open_inputs(tmp_path / "photo", COLOUR).count == 1


def test_pixels_are_as_stored_in_the_networks_range(tmp_path: Path) -> None:
    write(tmp_path, "x.png")
    stored = np.array(Image.open(tmp_path / "x.png"))
    (image,) = open_inputs(tmp_path, COLOUR).pixels(COLOUR, range(1))
    assert image.dtype == torch.float32
    expected = stored.transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "I;16"])
def test_every_kind_gets_the_networks_channels(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        Image.fromarray(np.full((8, 12), 65535, np.uint16)).save(tmp_path / "x.png")
    else:
        name = "x.tif" if mode == "CMYK" else "x.png"
        write(tmp_path, name, mode=mode)
    for generator in (COLOUR, GREY):
        image = open_inputs(tmp_path, generator).pixels(generator, range(1))
        assert image.shape == (1, generator.in_channels, 8, 12)
    if mode == "I;16":
        assert (image == 1).all()


def test_exif_orientation_counts_for_the_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (12, 8)).save(tmp_path / "x.jpg", exif=exif)
    assert open_inputs(tmp_path, COLOUR).size == (12, 8)


def test_all_must_have_one_size_unless_resized(tmp_path: Path) -> None:
    write(tmp_path, "a.png", (16, 16))
    write(tmp_path, "b.png", (32, 32))
    mixed = open_inputs(tmp_path, COLOUR)
    finding = r"b\.png: size 32x32, the first image has 16x16; all must have one size"
    with pytest.raises(DataError, match=finding) as caught:
        mixed.pixels(COLOUR, range(2))
    assert "--resize scales squares to 16x16" in (caught.value.hint or "")
    resized = open_inputs(tmp_path, COLOUR, resize=True)
    assert resized.pixels(COLOUR, range(2)).shape == (2, 3, 16, 16)
    assert torch.equal(pixels(resized, 0), pixels(mixed, 0))
    assert resized.content_hash != mixed.content_hash


def test_rectangles_are_never_cropped_or_squeezed(tmp_path: Path) -> None:
    write(tmp_path, "a.png", (12, 8))
    with pytest.raises(DataError, match=r"a\.png: size 12x8, allowed is 16x16") as caught:
        open_inputs(tmp_path, COLOUR, resize=True)
    assert "crop or pad" in (caught.value.hint or "")


def test_a_size_that_the_network_cannot_divide_names_the_file(tmp_path: Path) -> None:
    write(tmp_path, "odd.png", (18, 22))
    inputs = open_inputs(tmp_path, COLOUR)
    with pytest.raises(DataError, match=r"odd\.png: .*multiples of 4") as caught:
        inputs.images(COLOUR, range(1))
    assert "--resize" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        (lambda p: (p / "x.png").write_bytes((p / "x.png").read_bytes()[:50]), "broken image"),
        (lambda p: (p / "x.png").unlink(), "no images found"),
        (lambda p: Image.fromarray(np.ones((8, 8), np.float32)).save(p / "x.tif"), "pixel format"),
    ],
)
def test_what_cannot_serve_is_found_on_opening(tmp_path: Path, spoil, finding: str) -> None:
    write(tmp_path, "x.png")
    spoil(tmp_path)
    if (tmp_path / "x.tif").exists():
        (tmp_path / "x.png").unlink()
    with pytest.raises(DataError, match=finding):
        open_inputs(tmp_path, COLOUR)


def test_image_files_hold_1_3_or_4_channels(tmp_path: Path) -> None:
    write(tmp_path, "x.png")
    with pytest.raises(InputError, match="takes images of 6 channels"):
        open_inputs(tmp_path, make_resnet(in_channels=6).generator)


def test_the_batch_changes_no_translation(tmp_path: Path) -> None:
    for i in range(5):
        write(tmp_path, f"{i}.png", (16, 16))
    models = {
        "running": make_unet(),
        "batch": make_unet(statistics="batch"),
        "resnet": make_resnet(),
    }
    for name, model in models.items():
        inputs = open_inputs(tmp_path, model.generator)
        whole = inputs.images(model.generator, range(5))
        alone = torch.cat([inputs.images(model.generator, range(i, i + 1)) for i in range(5)])
        assert (whole[0] - whole[1]).abs().max() > 1e-3, name
        torch.testing.assert_close(alone, whole, rtol=0, atol=1e-5)


def test_each_kind_of_generator_has_its_own_flags(tmp_path: Path) -> None:
    write(tmp_path, "x.png", (16, 16))
    plain = Latents(noise_mode="const")
    latent = make_sngan().generator
    assert open_source(latent, plain, None, defaults=plain) is plain
    assert isinstance(open_source(COLOUR, plain, tmp_path, defaults=plain), ImageInputs)
    assert open_source(COLOUR, plain, None, defaults=plain) is None
    with pytest.raises(UsageError, match="--input goes with translators, the model is a sngan"):
        open_source(latent, plain, tmp_path, defaults=plain)
    for flag, value in {"--truncation": Latents(noise_mode="const", truncation_psi=0.5),
                        "--labels": Latents(noise_mode="const", labels=as_table([1])),
                        "--noise-mode": Latents(noise_mode="none")}.items():  # fmt: skip
        with pytest.raises(UsageError, match=f"{flag} goes with latents"):
            open_source(COLOUR, value, tmp_path, defaults=plain)
    # The seed feeds nothing here, and nothing is lost by giving it.
    seeded = Latents(seed=3, noise_mode="const")
    assert isinstance(open_source(COLOUR, seeded, tmp_path, defaults=plain), ImageInputs)
