"""Values that cannot be meant: 12 bits in files of 16, 0 and 1 in files of 8."""

import numpy as np
import pytest
from PIL import Image

from ganc.data.dataset import open_dataset
from ganc.data.inputs import open_inputs
from ganc.data.pairs import open_pairs
from tests.families import make_resnet

from .pictures import encode, png, raw_png, write_folder


def grey(largest: int, kind: str = "PNG", seed: int = 0) -> bytes:
    """Return a 16-bit image of 8 px whose largest value is the given one."""
    samples = np.random.default_rng(seed).integers(0, largest + 1, (8, 8)).astype(np.uint16)
    samples[0, 0] = largest
    return encode(Image.fromarray(samples), kind)


def said_of(folder, files: dict[str, bytes]) -> list[str]:
    said: list[str] = []
    open_dataset(write_folder(folder, files), resolution=8, channels=1, warn=said.append)
    return said


@pytest.mark.parametrize(
    ("largest", "bits", "factor"), [(4080, 12, 16), (1023, 10, 64), (16383, 14, 4), (200, 8, 256)]
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_unused_bits_are_named(tmp_path, largest, bits, factor, kind):
    files = {f"{i}.x": grey(max(1, largest - i), kind, seed=i) for i in range(20)}
    (line,) = said_of(tmp_path, files)
    assert line == (
        f"{tmp_path}: the largest value in 20 images of 16 bits is {largest} of 65535, as if {bits}"
        f" bits were stored in 16: they are read {factor} times too dark; save them with all"
        f" values multiplied by {factor}"
    )


@pytest.mark.parametrize("bright", [16384, 65535])
def test_dark_images_among_others_are_meant(tmp_path, bright):
    files = {f"{i:02}.png": grey(900, seed=i) for i in range(40)} | {"39.png": grey(bright)}
    assert said_of(tmp_path, files) == []


def test_deep_images_are_judged_among_themselves(tmp_path):
    files = {f"{i}.png": png(seed=i) for i in range(4)} | {"x.png": grey(4095)}
    (line,) = said_of(tmp_path, files)
    assert "in 1 image of 16 bits is 4095 of 65535" in line


@pytest.mark.parametrize("count", [32, 33, 64, 96, 500, 1500])
@pytest.mark.parametrize("period", [2, 3, 5])
def test_no_period_hides_the_deep_images(tmp_path, count, period):
    bright, dark = png(), grey(4095)
    files = {f"{i:04}.png": dark if i % period == 1 else bright for i in range(count)}
    (line,) = said_of(tmp_path, files)
    assert "of 16 bits is 4095 of 65535" in line


def test_each_depth_is_judged_by_itself(tmp_path):
    black = encode(Image.new("L", (8, 8), 1))
    files = {f"{i}.png": black if i % 2 else grey(65535) for i in range(10)}
    (line,) = said_of(tmp_path / "bright", files)
    assert "in 5 images is 1 of 255" in line
    files = {f"{i}.png": black if i % 2 else grey(4095) for i in range(10)}
    assert len(said_of(tmp_path / "dark", files)) == 2


@pytest.mark.parametrize(("scale", "found"), [(16, "4095 of 65535, as if 12"), (1, None)])
def test_deep_colour(tmp_path, scale, found):
    samples = np.random.default_rng(0).integers(0, 65536, (8, 8, 3)) // scale
    samples[0, 0] = 65535 // scale
    lines = said_of(tmp_path, {"0.png": raw_png(samples.astype(np.uint16))})
    assert [found in line for line in lines] == ([] if found is None else [True])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0, "the largest value in 3 images is 0: nothing but black"),
        (1, "the largest value in 3 images is 1 of 255: they are read as nearly black"),
        (16, None),
    ],
)
def test_eight_bits(tmp_path, value, found):
    files = {f"{i}.png": encode(Image.new("L", (8, 8), value)) for i in range(3)}
    lines = said_of(tmp_path, files)
    assert [found in line for line in lines] == ([] if found is None else [True])


def test_broken_images_are_somebody_elses_case(tmp_path):
    files = {"0.png": b"", "1.png": grey(4095)[:60], "2.png": grey(4095)}
    (line,) = said_of(tmp_path, files)
    assert "in 1 image of 16 bits" in line


def test_sides_are_judged_alone(tmp_path):
    said: list[str] = []
    path = write_folder(tmp_path, {"A/0.png": png(), "B/0.png": grey(4095)})
    open_pairs(path, channels=(3, 1), resolution=8, resize=False, warn=said.append)
    assert [line.split(":")[0] for line in said] == [str(path / "B" / "0.png")]


def test_inputs_are_judged(tmp_path):
    said: list[str] = []
    path = write_folder(tmp_path, {"0.png": grey(4095)}) / "0.png"
    open_inputs(path, make_resnet().generator, warn=said.append)
    assert [line.split(":")[0] for line in said] == [str(path)]
