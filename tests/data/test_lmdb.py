"""LMDBs as rosinality's ``prepare_data.py`` writes them, and everything else that is an LMDB."""

import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest
import torch
from torch.utils.data import DataLoader

from ganc.data.dataset import ImageDataset, open_dataset
from ganc.data.inputs import open_inputs
from ganc.data.pairs import open_unpaired
from ganc.errors import DataError, MissingDependencyError
from tests.families import make_resnet

from .pictures import noise, png, write_folder, write_zip

SIZES = (4, 8, 16)


def write(path: Path, entries: dict[str, bytes], *, subdir: bool = True) -> Path:
    with (
        lmdb.open(str(path), map_size=2**24, subdir=subdir) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in entries.items():
            transaction.put(key.encode(), value)
    (path / "lock.mdb" if subdir else Path(f"{path}-lock")).unlink()
    return path


def entries(count: int = 3, sizes: tuple[int, ...] = SIZES) -> dict[str, bytes]:
    images = {f"{s}-{i:05}": png(s, seed=i) for s in sizes for i in range(count)}
    return images | {"length": str(count).encode()}


def opened(path: Path, **options) -> ImageDataset:
    chosen = {"resolution": 8, "channels": 3, "warn": pytest.fail} | options
    return open_dataset(path, **chosen)


def expected(count: int = 3, size: int = 8) -> torch.Tensor:
    return torch.stack(
        [torch.from_numpy(noise(size, seed=i)).permute(2, 0, 1) for i in range(count)]
    )


def images_of(dataset: ImageDataset) -> torch.Tensor:
    return torch.stack([dataset.image(i) for i in range(len(dataset))])


@pytest.mark.parametrize("name", ["", "data.mdb"])
def test_labels_beside_an_lmdb_are_said_not_to_be_used(tmp_path, name):
    path = write(tmp_path / "set", entries())
    (path / "dataset.json").write_text('{"labels": [["0.png", 1]]}')
    said: list[str] = []
    opened(path / name, warn=said.append)
    (line,) = said
    assert line.startswith(f"{path / 'dataset.json'}: not used")


@pytest.mark.parametrize("subdir", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_images_of_the_size_are_read(tmp_path, size, subdir):
    path = write(tmp_path / "set", entries(), subdir=subdir)
    dataset = opened(path, resolution=size)
    assert dataset.names == [f"{size}-{i:05}" for i in range(3)]
    assert torch.equal(images_of(dataset), expected(size=size))
    assert sorted(os.listdir(tmp_path)) == ["set"]  # no lock
    assert not subdir or os.listdir(path) == ["data.mdb"]


def test_the_file_inside_is_the_set_too(tmp_path):
    path = write(tmp_path / "set", entries())
    assert torch.equal(images_of(opened(path / "data.mdb")), expected())


@pytest.mark.parametrize(
    ("resolution", "resize", "size"),
    [(None, False, 16), (6, True, 8), (9, True, 16), (64, True, 16), (8, True, 8)],
)
def test_the_nearest_size_is_scaled(tmp_path, resolution, resize, size):
    dataset = opened(write(tmp_path / "set", entries()), resolution=resolution, resize=resize)
    assert dataset.names[0] == f"{size}-00000"
    assert dataset[0][0].shape[1] == (resolution or size)


def test_another_size_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds images of 4, 8, 16 px, none of 32 px") as caught:
        opened(write(tmp_path / "set", entries()), resolution=32)
    assert caught.value.hint == "--resize scales them to 32x32"


def test_past_99999_indices_have_six_digits(tmp_path):
    content = {"8-99999": png(), "8-100000": png(), "length": b"100001"}
    with pytest.raises(DataError, match="holds 2 of the 100001 images of 8 px"):
        opened(write(tmp_path / "set", content))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({}, "an LMDB without images"),
        ({"a-hash-of-lsun": b""}, "the key `a-hash-of-lsun`, allowed are `<size>-<5 digits>`"),
        (entries() | {"9-1": b""}, "the key `9-1`, allowed"),
        (entries() | {"zz": b""}, "the key `zz`, allowed"),
        ({"8-00000": png()}, "no `length`"),
        ({"8-00000": png(), "length": b"x"}, "a `length` that is no number"),
        ({"8-00000": png(), "length": b"2"}, "holds 1 of the 2 images of 8 px"),
        ({"8-00000": png(), "length": b"0"}, "holds 0 of the 0 images of 8 px"),
    ],
)
def test_other_lmdbs_are_refused(tmp_path, content, line):
    with pytest.raises(DataError, match=line) as caught:
        opened(write(tmp_path / "set", content))
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_what_an_earlier_longer_set_left_does_not_count(tmp_path):
    path = write(tmp_path / "set", entries(5) | {"length": b"3"})
    assert torch.equal(images_of(opened(path)), expected())


@pytest.mark.parametrize("content", [b"", b"x", bytes(8192), b"\xff" * 8192])
@pytest.mark.parametrize("as_file", [True, False])
def test_damaged_files_are_named(tmp_path, content, as_file):
    path = write_folder(tmp_path, {"data.mdb": content, "lock.mdb": b"x"})
    with pytest.raises(DataError, match=r"data\.mdb: no LMDB, or damaged \(") as caught:
        opened(path / "data.mdb" if as_file else path)
    assert "pass a folder of its images" in (caught.value.hint or "")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_truncated_files_are_named(tmp_path, share):
    """LMDB itself would read past the end, which ends the process."""
    path = write(tmp_path / "set", entries(40))
    data = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"damaged \(\d+ bytes, should be \d+\)"):
        opened(path)


def test_the_package_is_named_where_it_is_missing(tmp_path, monkeypatch):
    path = write(tmp_path / "set", entries())
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(MissingDependencyError, match="an LMDB needs the package lmdb") as caught:
        opened(path)
    assert caught.value.hint == "pip install 'ganc[lmdb]'"
    assert caught.value.exit_code == 3


def test_images_beside_an_lmdb_are_ambiguous(tmp_path):
    path = write_folder(write(tmp_path / "set", entries()), {"in/0.png": png()})
    with pytest.raises(DataError, match=r"holds an LMDB .* and images \(1, first in/0\.png\)"):
        opened(path)


def test_an_lmdb_further_down_is_pointed_at(tmp_path):
    path = write(tmp_path / "set", entries())
    with pytest.raises(DataError, match=r"no images found, but an LMDB, set/data\.mdb") as caught:
        opened(tmp_path)
    assert str(path) in (caught.value.hint or "")
    packed = write_zip(tmp_path / "a.zip", {"set/data.mdb": (path / "data.mdb").read_bytes()})
    with pytest.raises(DataError, match="but an LMDB") as caught:
        opened(packed)
    assert caught.value.hint == "unpack the LMDB in it first"


def test_one_process_opens_it_several_times(tmp_path):
    path = write(tmp_path / "set", entries())
    first, second = opened(path), opened(path, resolution=16)
    copy = pickle.loads(pickle.dumps(first))
    assert torch.equal(images_of(copy), images_of(first))
    assert torch.equal(images_of(second), expected(size=16))
    assert copy.content_hash == first.content_hash != second.content_hash


def test_threads_read_the_same(tmp_path):
    dataset = opened(write(tmp_path / "set", entries(40)))
    with ThreadPoolExecutor(8) as pool:
        images = torch.stack(list(pool.map(dataset.image, list(range(40)) * 5)))
    assert torch.equal(images, expected(40).repeat(5, 1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "fork"])
def test_worker_processes_read_the_same(tmp_path, context):
    dataset = opened(write(tmp_path / "set", entries()))
    before = images_of(dataset)  # so that it is open in the parent
    loader = DataLoader(dataset, batch_size=3, num_workers=1, multiprocessing_context=context)
    ((images, _),) = loader
    assert torch.equal(images, before)
    assert torch.equal(images_of(dataset), before)


def test_a_folder_of_the_same_images_gives_the_same_pixels(tmp_path):
    """The witness of the whole chain: the values are image files like any other."""
    content = entries(sizes=(8,))
    files = {f"{name}.png": data for name, data in content.items() if name != "length"}
    folder = opened(write_folder(tmp_path / "folder", files))
    assert torch.equal(images_of(opened(write(tmp_path / "set", content))), images_of(folder))


def test_sides_and_inputs_may_be_lmdbs(tmp_path):
    a, b = (write(tmp_path / name, entries(sizes=(8, 16))) for name in "ab")
    sides = open_unpaired(a, b, channels=(3, 3), resolution=8, resize=False, warn=pytest.fail)
    assert [side.names[0] for side in sides] == ["8-00000", "8-00000"]
    inputs = open_inputs(a, make_resnet().generator, warn=pytest.fail)
    assert (inputs.size, inputs.count) == ((16, 16), 3)  # the generator's nominal size
