"""Images are found by what they are; what is left out is counted and named."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from ganc.data.dataset import ImageDataset, open_dataset
from ganc.data.kinds import recognise, stem
from ganc.data.pairs import open_pairs
from ganc.errors import DataError

from .pictures import encode, flip_bit, noise, png, write_folder, write_zip

PICTURE = Image.fromarray(noise())
READ = {kind: encode(PICTURE, kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")}
UNREAD = {
    "GIF": encode(PICTURE, "GIF"),
    "AVIF": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "SVG": b'<?xml version="1.0"?>\n<!-- a drawing -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "JPEG 2000": encode(PICTURE, "JPEG2000"),
    "PNM": encode(PICTURE, "PPM"),
    "DDS": encode(PICTURE, "DDS"),
}


@pytest.fixture(params=["folder", "zip"])
def write(request, tmp_path):
    """Write files as a folder or as a zip."""
    if request.param == "folder":
        return lambda files: write_folder(tmp_path / "set", files)
    return lambda files: write_zip(tmp_path / "set.zip", files)


def opened(path: Path, said: list[str] | None = None) -> ImageDataset:
    warn = pytest.fail if said is None else said.append
    return open_dataset(path, resolution=8, channels=3, warn=warn)


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("name", ["x", "x.1", "x.jfif", "x.JPE", "x.jpg_large", "x.txt", "ÿ.PNG~"])
def test_images_are_found_by_what_they_are(write, kind, name):
    dataset = opened(write({name: READ[kind]}))
    assert dataset.names == [name]
    error = (dataset[0][0].int() - torch.from_numpy(noise()).permute(2, 0, 1).int()).abs().max()
    assert error == 0 if kind in ("PNG", "BMP", "TIFF") else error < 256


@pytest.mark.parametrize("kind", READ | UNREAD)
def test_formats_are_recognised(kind):
    assert recognise((READ | UNREAD)[kind]) == kind


@pytest.mark.parametrize(
    "text", [b"", b"BMW and other makers build cars of 40 kinds", b"P3 is a", b"II"]
)
def test_texts_are_no_images(text):
    assert recognise(text) is None


def test_what_is_left_out_is_counted(write):
    said: list[str] = []
    files = {
        "0.png": png(), "dataset.json": b"", "deep/dataset.json": b"", ".hidden": b"",
        "__MACOSX/1": b"", "1.txt": b"a", "2.TXT": b"b", "README": b"c", "a.gif": UNREAD["GIF"],
        "b": UNREAD["HEIC"], "c.cr2": READ["TIFF"], "t.001": b"d",
    }  # fmt: skip
    dataset = opened(write(files), said)
    assert dataset.names == ["0.png"]
    assert dataset.source.listing.left_out == {
        ".txt": 2, "without ending": 2, ".cr2 (camera raw)": 1, ".gif": 1,
        "without ending (HEIC)": 1,
    }  # fmt: skip
    assert said == [
        f"{dataset.source.path}: 7 files left out, no images: 2 .txt, 2 without ending, 1 .cr2"
        " (camera raw), 1 .gif, 1 without ending (HEIC); GIF, HEIC, camera raw: not read,"
        " save as PNG"
    ]


def test_only_the_commonest_kinds_are_named(write):
    files = {f"x.a{i}": b"x" for i in range(20)} | {"y.a1": b"x", "0.png": png()}
    left_out = opened(write(files), []).source.listing.left_out
    assert left_out[".a1"] == 2
    assert list(left_out)[-1] == "others"
    assert (len(left_out), sum(left_out.values())) == (9, 21)


def test_known_endings_are_not_opened(tmp_path, monkeypatch):
    path = write_folder(tmp_path, {f"{i}.png": png() for i in range(3)} | {"x": png()})
    looked: list[str] = []
    head = "ganc.data.sources.FolderSource.head"
    monkeypatch.setattr(head, lambda self, name: looked.append(name) or png()[:99])
    assert len(opened(path)) == 4
    assert looked == ["x"]


def test_a_known_ending_without_an_image_is_a_broken_image(write):
    with pytest.raises(DataError, match=r"0\.jfif: broken image \(GIF, not a PNG, JPEG"):
        opened(write({"0.jfif": UNREAD["GIF"]}))[0]


def test_what_cannot_be_opened_is_left_out(tmp_path):
    """Neither a pipe, which would wait for its writer, nor a link to nothing ends the search."""
    write_folder(tmp_path, {"0.png": png()})
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    said: list[str] = []
    assert len(opened(tmp_path, said)) == 1
    assert "2 files left out, no images: 2 without ending (unreadable)" in said[0]


def test_encrypted_members_are_left_out(tmp_path):
    path = write_zip(tmp_path / "set.zip", {"notes": b"x", "0.png": png()})
    data = path.read_bytes()
    path.write_bytes(flip_bit(data, data.index(b"PK\x01\x02") + 8))  # the flag "encrypted"
    said: list[str] = []
    assert opened(path, said).names == ["0.png"]
    assert "1 file left out, no images: 1 without ending (unreadable)" in said[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/1.png", "a/1"), ("1.JFIF", "1"), ("1.tar.png", "1.tar"), ("v1.2", "v1.2"), ("x", "x")],
)
def test_stems_lose_the_endings_of_images_alone(name, expected):
    assert stem(name) == expected


def test_partners_without_endings(write):
    names = ["shot.1", "shot.2", "plain"]
    files = {f"A/{n}": png(seed=i) for i, n in enumerate(names)}
    files |= {f"B/{n}.png": png(seed=9) for n in names}
    pairs = open_pairs(write(files), channels=(3, 3), resolution=8, resize=False, warn=pytest.fail)
    assert pairs.names == sorted(names)


@pytest.mark.parametrize("name", ["my\\a\\0.png", "./my/a/0.png", "my//a/0.png"])
def test_names_in_zips_are_normalised(tmp_path, name):
    path = write_zip(
        tmp_path / "set.zip", {name: png(seed=3), "my\\a\\": b"", ".\\__MACOSX\\x": b""}
    )
    dataset = opened(path)
    assert dataset.names == ["my/a/0.png"]
    assert torch.equal(dataset[0][0], torch.from_numpy(noise(seed=3)).permute(2, 0, 1))
    assert len(dataset.content_hash) == 64
