"""Pairs and unpaired sets: layouts, matching, mirroring, and every way to get them wrong."""

import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ganc.data.dataset import ImageDataset
from ganc.data.images import BrokenImageError, decode_image
from ganc.data.pairs import PairedImages, open_pairs, open_unpaired
from ganc.data.stream import TrainingStream, prefetch, usable_images
from ganc.errors import DataError, GancError, InputError
from ganc.progress import ignore

from .pictures import encode, noise, png, raw_png, write_folder, write_zip

Files = dict[str, bytes]
Write = Callable[..., Path]


def joined(left: int, right: int, size: int = 8) -> bytes:
    """Return a picture of two images side by side, by their seeds."""
    return encode(
        Image.fromarray(np.concatenate([noise(size, seed=left), noise(size, seed=right)], 1))
    )


def pixels(seed: int, size: int = 8) -> torch.Tensor:
    return torch.from_numpy(noise(size, seed=seed)).permute(2, 0, 1)


def pair(seed: int) -> torch.Tensor:
    """Return what pair ``seed`` of ``two_sides`` and ``side_by_side`` decodes to."""
    return torch.cat([pixels(seed), pixels(100 + seed)])


def two_sides(count: int, a: str = "A", b: str = "B") -> Files:
    first = {f"{a}/{i}.png": png(seed=i) for i in range(count)}
    return first | {f"{b}/{i}.png": png(seed=100 + i) for i in range(count)}


def side_by_side(count: int, folder: str = "") -> Files:
    return {f"{folder}{i}.png": joined(i, 100 + i) for i in range(count)}


def opened(data: Path, data_b: Path | None = None, **options: object) -> PairedImages:
    chosen = {"channels": (3, 3), "resolution": 8, "resize": False, "warn": pytest.fail} | options
    return open_pairs(data, data_b, **chosen)  # type: ignore[arg-type]


def opened_unpaired(
    data: Path, data_b: Path | None = None, **options: object
) -> tuple[ImageDataset, ImageDataset]:
    chosen = {"channels": (3, 3), "resolution": 8, "resize": False, "warn": pytest.fail} | options
    return open_unpaired(data, data_b, **chosen)  # type: ignore[arg-type]


def images_of(dataset: PairedImages | ImageDataset) -> torch.Tensor:
    return torch.stack([dataset.image(index) for index in range(len(dataset))])


@pytest.fixture(params=["folder", "zip"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """Write files as a folder or as a zip."""

    def run(files: Files, name: str = "set") -> Path:
        if request.param == "folder":
            return write_folder(tmp_path / name, files)
        return write_zip(tmp_path / f"{name}.zip", files)

    return run


# What is a pair


@pytest.mark.parametrize(
    "files",
    [
        two_sides(3),
        two_sides(3, "trainA", "trainB"),
        two_sides(3, "faces/A", "faces/B"),
        side_by_side(3),
        side_by_side(3, "00000/"),
    ],
    ids=["A and B", "trainA and trainB", "wrapped", "side by side", "side by side in a folder"],
)
def test_one_set_holds_both_sides(write, files):
    pairs = opened(write(files))
    assert (len(pairs), pairs.channels_a, pairs.channels_b, pairs.channels) == (3, 3, 3, 6)
    assert torch.equal(images_of(pairs), torch.stack([pair(0), pair(1), pair(2)]))
    assert pairs.label(0).shape == (0,) == (pairs.label_dim,)


@pytest.mark.parametrize("inner", ["", "A/", "trainA/", "00000/"])
def test_each_side_has_its_own_set(write, inner):
    a = write({f"{inner}{i}.png": png(seed=i) for i in range(3)}, "a")
    b = write({f"{inner}{i}.png": png(seed=100 + i) for i in range(3)}, "b")
    assert torch.equal(images_of(opened(a, b)), torch.stack([pair(0), pair(1), pair(2)]))
    unpaired = opened_unpaired(a, b)
    assert torch.equal(
        torch.cat([images_of(side) for side in unpaired], dim=1), images_of(opened(a, b))
    )


def test_extensions_and_order_do_not_matter(write):
    files = {
        "A/x/1.png": png(seed=1), "A/0.PNG": png(seed=0), "A/2.bmp": png(seed=2),
        "B/2.png": png(seed=102), "B/x/1.JPG": png(seed=101), "B/0.webp": png(seed=100),
    }  # fmt: skip
    assert torch.equal(images_of(opened(write(files))), torch.stack([pair(0), pair(2), pair(1)]))


names = st.lists(
    st.text("ab/.0é", min_size=1, max_size=5).filter(
        lambda text: all(part.strip(".") and part[0] != "." for part in text.split("/"))
    ),
    min_size=1, max_size=6, unique=True,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(names=names, data=st.data())
def test_partners_are_found_whatever_they_are_called(tmp_path_factory, names, data):
    names = [name for name in names if not any(other.startswith(f"{name}.png/") for other in names)]
    endings = st.sampled_from([".png", ".PNG", ".bmp"])
    files = {}
    for seed, name in enumerate(names):
        for side, shift in (("A", 0), ("B", 100)):
            files[f"{side}/{name}{data.draw(endings)}"] = png(2, seed=seed + shift)
    path = write_zip(tmp_path_factory.mktemp("sets") / "set.zip", files)
    pairs = opened(path, resolution=2)
    found = {tuple(pairs.image(i).flatten().tolist()) for i in range(len(pairs))}
    expected = {
        tuple(torch.cat([pixels(seed, 2), pixels(seed + 100, 2)]).flatten().tolist())
        for seed in range(len(names))
    }
    assert len(pairs) == len(names)
    assert found == expected


@pytest.mark.parametrize(
    "files", [two_sides(3), side_by_side(3)], ids=["two sides", "side by side"]
)
def test_folder_and_zip_are_the_same_set(tmp_path, files):
    packed = opened(write_zip(tmp_path / "set.zip", files))
    folder = opened(write_folder(tmp_path / "set", files))
    assert packed.content_hash == folder.content_hash
    assert torch.equal(images_of(packed), images_of(folder))
    read_back = pickle.loads(pickle.dumps(packed))
    assert torch.equal(images_of(read_back), images_of(folder))


def test_the_hash_names_what_is_yielded(tmp_path):
    path = write_folder(tmp_path / "set", two_sides(2))
    base = opened(path).content_hash
    assert opened(path / "A", path / "B").content_hash == base  # the same pairs, asked otherwise
    others = [
        opened(path, channels=(1, 3)),
        opened(path, channels=(3, 1)),
        opened(path, resize=True),
        opened(path / "B", path / "A"),
    ]
    (path / "B" / "1.png").write_bytes(png(seed=55))
    hashes = [base, *(other.content_hash for other in others[:3]), opened(path).content_hash]
    assert len({*hashes, others[3].content_hash}) == 6


# Channels, sizes, kinds of files


@pytest.mark.parametrize("channels", [(1, 3), (3, 1), (4, 3), (1, 1)])
@pytest.mark.parametrize("make", [two_sides, side_by_side])
def test_each_side_has_its_own_channels(write, make, channels):
    pairs = opened(write(make(2)), channels=channels)
    a, b = (
        decode_image(png(seed=seed), "", channels=count)
        for seed, count in zip((1, 101), channels, strict=True)
    )
    assert torch.equal(pairs.image(1), torch.cat([a, b]))
    assert pairs.channels == sum(channels)


def test_resize_scales_each_half_on_its_own(write):
    white, black = np.full((16, 16, 3), 255, np.uint8), np.zeros((16, 16, 3), np.uint8)
    picture = encode(Image.fromarray(np.concatenate([white, black], axis=1)))
    image = opened(write({"0.png": picture}), resize=True).image(0)
    assert (image[:3] == 255).all()  # nothing crosses the seam
    assert (image[3:] == 0).all()


@pytest.mark.parametrize("make", [two_sides, side_by_side])
def test_halves_are_scaled_as_single_images_are(write, make):
    pairs = opened(write(make(2)), resize=True, resolution=5)
    expected = [
        decode_image(png(seed=seed), "", channels=3, resolution=5, resize=True) for seed in (1, 101)
    ]
    assert torch.equal(pairs.image(1), torch.cat(expected))


def test_orientation_is_that_of_the_whole_picture(write):
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half a circle
    turned = Image.open(io.BytesIO(joined(0, 100))).rotate(180)
    assert torch.equal(opened(write({"0.png": encode(turned, exif=exif)})).image(0), pair(0))


def test_16_bit_halves_are_scaled_to_8_bits(write):
    samples = np.full((8, 16, 1), 65535, np.uint16)
    samples[:, 8:] = 257 * 7
    image = opened(write({"0.png": raw_png(samples)}), channels=(1, 1)).image(0)
    assert image.flatten(1).unique(dim=1).flatten().tolist() == [255, 7]


# Which part of a set


@pytest.mark.parametrize("open_set", [opened, opened_unpaired])
def test_held_out_sides_are_left_out_and_said(write, open_set):
    told: list[str] = []
    path = write(two_sides(3, "trainA", "trainB") | two_sides(2, "testA", "testB"))
    found = open_set(path, warn=told.append)
    assert {len(side) for side in (found if isinstance(found, tuple) else [found])} == {3}
    assert told == [f"{path}: training on trainA/ and trainB/; images left out elsewhere: 4"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (side_by_side(3, "train/") | side_by_side(2, "val/"),
         ["set: training on train/; images left out elsewhere: 2"]),
        (side_by_side(3, "maps/train/") | side_by_side(1, "maps/test/"),
         ["set/maps: training on train/; images left out elsewhere: 1"]),
        (two_sides(3, "train/A", "train/B") | two_sides(1, "test/A", "test/B"),
         ["set: training on train/; images left out elsewhere: 2"]),
        (two_sides(3, "A/train", "B/train") | two_sides(1, "A/val", "B/val"),
         ["set/A: training on train/; images left out elsewhere: 1",
          "set/B: training on train/; images left out elsewhere: 1"]),
    ],
    ids=["pix2pix", "wrapped", "sides within", "parts within sides"],
)  # fmt: skip
def test_the_training_part_is_taken_and_said(tmp_path, monkeypatch, files, expected):
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    pairs = opened(write_folder(Path("set"), files), warn=told.append)
    assert torch.equal(images_of(pairs), torch.stack([pair(0), pair(1), pair(2)]))
    assert told == expected


def test_a_side_of_a_whole_set_may_be_named_alone(write):
    told: list[str] = []
    a = write({"trainA/0.png": png(seed=0), "testA/0.png": png(seed=9)}, "a")
    pairs = opened(a, write({"0.png": png(seed=100)}, "b"), warn=told.append)
    assert torch.equal(images_of(pairs), pair(0)[None])
    assert told == [f"{a}: training on trainA/; images left out elsewhere: 1"]


# Streams


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 6), seed=st.integers(0, 2**32), cached=st.booleans())
def test_mirrored_pairs_stay_aligned(tmp_path_factory, count, seed, cached):
    root = tmp_path_factory.mktemp("sets")
    files = {}
    for index in range(count):
        image = Image.fromarray(noise(seed=index))
        files[f"A/{index}.png"] = encode(image)
        files[f"B/{index}.png"] = encode(Image.eval(image, lambda value: 255 - value))
    pairs = opened(write_folder(root, files))
    usable = usable_images(pairs, warn=pytest.fail, cache_bytes=2**30 if cached else 0)
    images, labels = TrainingStream(usable, seed=seed, batch=16, mirror=True).batch_at(3)
    a, b = images.split([pairs.channels_a, pairs.channels_b], dim=1)
    assert torch.equal(a, 255 - b)
    assert labels.shape == (16, 0)
    known = [image for i in range(count) for image in (pixels(i), pixels(i).flip(-1))]
    assert all(any(torch.equal(image, other) for other in known) for image in a)


def test_cached_and_reread_pairs_draw_the_same(write):
    pairs = opened(write(two_sides(5)))
    (cached, _), (reread, _) = (
        TrainingStream(
            usable_images(pairs, warn=pytest.fail, cache_bytes=size), seed=1, batch=8, mirror=True
        ).batch_at(2)
        for size in (2**30, 0)
    )
    assert torch.equal(cached, reread)


def test_two_streams_draw_independently():
    count = 64
    numbers = torch.arange(count, dtype=torch.uint8)
    images = torch.stack([torch.zeros_like(numbers), numbers + 1], dim=1).view(count, 1, 1, 2)
    samples = torch.utils.data.TensorDataset(images, torch.zeros(count, 0))
    make = partial(TrainingStream, samples, seed=0, batch=count, mirror=True)
    first, second = make().batch_at(0)[0], make(stream="data_b").batch_at(0)[0]
    assert torch.equal(first, make(stream="data").batch_at(0)[0])
    orders = [batch.amax(dim=(1, 2, 3)) for batch in (first, second)]
    coins = [batch[:, 0, 0, 0] > 0 for batch in (first, second)]
    assert not torch.equal(*orders)
    assert sorted(orders[0].tolist()) == sorted(orders[1].tolist())
    assert 16 < (coins[0] == coins[1]).sum() < 48  # 4 standard deviations of 64 fair coins


def test_a_broken_half_drops_the_pair(write):
    files = two_sides(300)
    files["B/7.png"] = files["B/7.png"][:60]
    files["A/9.png"] = b"no image"
    told: list[str] = []
    usable = usable_images(opened(write(files)), warn=told.append)
    assert len(usable) == 298
    assert len(told) == 2
    assert "B/7.png: broken image" in told[0]
    assert "A/9.png: broken image (not a PNG" in told[1]
    found = {tuple(image.flatten().tolist()) for image, _ in (usable[i] for i in range(298))}
    assert tuple(pair(7).flatten().tolist()) not in found
    assert tuple(pair(8).flatten().tolist()) in found


def test_more_than_one_percent_of_broken_pairs_stops(write):
    files = side_by_side(100)
    files["3.png"] = files["5.png"] = b""
    with pytest.raises(DataError, match=r"2 broken among the first \d+ of 100 images"):
        usable_images(opened(write(files)), warn=str)


def test_a_broken_pair_is_an_error_where_it_is_read(write):
    files = two_sides(2) | {"B/1.png": b""}
    with pytest.raises(BrokenImageError, match=r"B/1\.png: broken image"):
        opened(write(files)).image(1)


def test_a_file_that_vanishes_ends_the_reading_with_its_name(tmp_path):
    pairs = opened(write_folder(tmp_path, two_sides(4)))
    usable = usable_images(pairs, warn=pytest.fail, cache_bytes=0)
    (tmp_path / "B" / "2.png").unlink()
    stream = TrainingStream(usable, seed=0, batch=4, mirror=False)
    with pytest.raises(DataError, match=r"B/2\.png: cannot be read") as caught:
        list(prefetch(stream, 0, 3))
    assert "\n" not in str(caught.value)


# What is wrong: (files of --data, files of --data-b, pattern of the line, pattern of the hint)

SINGLES = {f"{i}.png": png(seed=i) for i in range(3)}

WRONG_PAIRS: dict[str, tuple[Files, Files | None, str, str]] = {
    "single images": (
        SINGLES, None,
        r"0\.png: size 8x8, allowed is 16x8: two squares side by side$", "--data A --data-b B",
    ),
    "size of a picture": (
        {"0.png": joined(0, 1, 16)}, None, r"0\.png: size 32x16, allowed is 16x8$", "--resize",
    ),
    "size of a side": (
        {"A/0.png": png(16), "B/0.png": png()}, None,
        r"A/0\.png: size 16x16, allowed is 8x8$", "--resize",
    ),
    "rectangles": (
        {"A/0.png": encode(Image.new("RGB", (8, 6))), "B/0.png": png()}, None,
        r"A/0\.png: size 8x6, allowed is 8x8$", "crop or pad",
    ),
    "different counts": (
        two_sides(3) | {"A/x.png": png()}, None,
        r"A/x\.png: no partner of this name in .*B \(1 of 4 images have none\)$", "one name",
    ),
    "no partner of b": (
        SINGLES, SINGLES | {"y.png": png(), "z.png": png()},
        r"y\.png: no partner of this name in .* \(2 of 5 images have none\)$", "one name",
    ),
    "unpaired images": (
        {"trainA/horse1.png": png(), "trainB/zebra1.png": png()}, None,
        r"horse1\.png: no partner .* \(1 of 1 images have none\)$", "--unpaired",
    ),
    "two of one name": (
        {"A/0.png": png(), "A/0.jpg": png(), "B/0.png": png()}, None,
        r"A/0\.png: the same name as 0\.jpg, extensions aside", "keep one",
    ),
    "pictures of both sides as one side": (
        side_by_side(3), SINGLES,
        r"0\.png: twice as wide as high, a pair side by side, where", "without --data-b",
    ),
}  # fmt: skip

WRONG_UNPAIRED: dict[str, tuple[Files, Files | None, str, str]] = {
    "one set": (SINGLES, None, r"one set of images, unpaired training needs two", "--data-b"),
    "pictures of both sides": (
        side_by_side(3), None,
        r"0\.png: twice as wide as high, a pair side by side; unpaired", "two folders",
    ),
    "pictures of both sides as one side": (
        SINGLES, side_by_side(3),
        r"0\.png: twice as wide as high, a pair side by side; unpaired", "two folders",
    ),
    "size": (SINGLES, {"0.png": png(16)}, r"0\.png: size 16x16, allowed is 8x8$", "--resize"),
}  # fmt: skip

WRONG_SETS: dict[str, tuple[Files, Files | None, str, str]] = {
    "nothing": ({"readme.txt": b""}, None, "no images found among 1 .txt, allowed", "recursively"),
    "empty side": (
        {"trainA/0.png": png(), "trainB/readme.txt": b"", "testB/0.png": png()}, None,
        r"images in trainA/, none in trainB/$", "put the other side's images there",
    ),
    "no first side": ({"B/0.png": png()}, None, r"images in B/, none in A/$", "--data-b"),
    "empty second set": (SINGLES, {"readme.txt": b""}, "no images found", "recursively"),
    "both sides as one": (
        two_sides(2), SINGLES,
        r"holds both sides, A/ and B/, where one is asked for$", "without --data-b",
    ),
    "unknown samples": (
        {"A/0.png": encode(Image.new("F", (8, 8)), "TIFF"), "B/0.png": png()}, None,
        r"A/0\.png: pixel format `F` has no known range", "8-bit PNG",
    ),
}  # fmt: skip


def read_all(found: PairedImages | tuple[ImageDataset, ImageDataset]) -> None:
    for side in found if isinstance(found, tuple) else (found,):
        images_of(side)


def check_error(open_set, write: Write, case: tuple[Files, Files | None, str, str]) -> None:
    files, files_b, line, hint = case
    paths = [write(files, "a")] + ([] if files_b is None else [write(files_b, "b")])
    with pytest.raises(GancError, match=line) as caught:
        read_all(open_set(*paths, warn=ignore))
    assert caught.value.exit_code == 3
    assert "\n" not in caught.value.message
    assert str(paths[0].parent) in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("name", WRONG_PAIRS | WRONG_SETS)
def test_what_is_wrong_with_pairs(write, name):
    check_error(opened, write, (WRONG_PAIRS | WRONG_SETS)[name])


@pytest.mark.parametrize("name", WRONG_UNPAIRED | WRONG_SETS)
def test_what_is_wrong_with_unpaired_sets(write, name):
    check_error(opened_unpaired, write, (WRONG_UNPAIRED | WRONG_SETS)[name])


@pytest.mark.parametrize("open_set", [opened, opened_unpaired])
def test_the_same_set_twice_is_refused(write, open_set, monkeypatch):
    path = write(SINGLES)
    monkeypatch.chdir(path.parent)
    with pytest.raises(DataError, match=f"{path.name}: --data-b is --data again") as caught:
        open_set(path, Path(path.name))
    assert "leave --data-b out" in (caught.value.hint or "")


@pytest.mark.parametrize("open_set", [opened, opened_unpaired])
def test_channels_that_no_file_holds_are_refused(write, open_set):
    with pytest.raises(InputError, match="images of 2 channels, an image file has 1, 3 or 4"):
        open_set(write(two_sides(1)), channels=(3, 2))


def test_unpaired_sides_may_differ_in_number_and_names(write):
    files = {"trainA/horse1.png": png(seed=1), "trainB/z1.png": png(seed=2), "trainB/z2.png": png()}
    a, b = opened_unpaired(write(files), channels=(1, 3))
    assert (a.names, b.names) == (["horse1.png"], ["z1.png", "z2.png"])
    assert (a.image(0).shape, b.image(0).shape) == ((1, 8, 8), (3, 8, 8))
    assert torch.equal(b.image(0), pixels(2))
