"""Folders and zips, labels, hashes, and everything that is wrong with them."""

import json
import os
import pickle
import shutil
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ganc.data.dataset import ImageDataset, iterate_images, open_dataset
from ganc.data.images import BrokenImageError
from ganc.data.labels import has_labels, read_labels
from ganc.errors import DataError, UsageError

from .pictures import flip_bit, labels_file, noise, png, write_folder, write_zip

FILES = {"b/2.png": png(seed=2), "a/1.png": png(seed=1), "a/0.PNG": png(seed=0)}
NAMES = ["a/0.PNG", "a/1.png", "b/2.png"]


def expected(*seeds: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(noise(seed=seed)).permute(2, 0, 1) for seed in seeds])


def images_of(dataset: ImageDataset) -> torch.Tensor:
    return torch.stack([dataset[index][0] for index in range(len(dataset))])


@pytest.fixture(params=["folder", "zip"])
def write(request, tmp_path):
    """Write files as a folder or as a zip."""
    if request.param == "folder":
        return lambda files: write_folder(tmp_path / "set", files)
    return lambda files: write_zip(tmp_path / "set.zip", files)


def opened(path, **options) -> ImageDataset:
    return open_dataset(path, **{"resolution": 8, "channels": 3, **options})


def test_images_are_found_recursively_and_sorted(write):
    dataset = opened(write(FILES))
    assert dataset.names == NAMES
    assert len(dataset) == 3
    assert torch.equal(images_of(dataset), expected(0, 1, 2))
    assert [len(label) for _, label in dataset] == [0, 0, 0]
    assert dataset.label_dim == 0


def test_hidden_and_other_files_are_left_out(write):
    extra = {
        "a/._1.png": b"", "__MACOSX/a.png": b"", ".cache/3.png": b"", "readme.txt": b"",
        "dataset.json": b"",
    }  # fmt: skip
    assert opened(write(FILES | extra)).names == NAMES


def test_resolution_is_taken_from_the_first_image(write):
    dataset = opened(write(FILES | {"c.png": png(16)}), resolution=None)
    assert dataset.resolution == 8
    with pytest.raises(DataError, match=r"c\.png: size 16x16, allowed is 8x8"):
        dataset[3]


def test_resize_scales_the_others(write):
    dataset = opened(write({"a.png": png(16), "b.png": png(8)}), resize=True)
    assert images_of(dataset).shape == (2, 3, 8, 8)


def test_resize_needs_a_resolution(tmp_path):
    with pytest.raises(UsageError, match="resize is set without a resolution"):
        opened(tmp_path, resolution=None, resize=True)


def test_class_numbers_become_one_hot(write):
    labels = [["a/0.PNG", 2], ["a/1.png", 0], ["b\\2.png", 3], ["gone.png", 9]]
    dataset = opened(write(FILES | {"dataset.json": labels_file(labels)}), use_labels=True)
    assert dataset.label_dim == 4
    assert [label.tolist() for _, label in dataset] == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    assert dataset.label(0).dtype == torch.float32


def test_label_vectors_are_kept(write):
    labels = [[name, [index, 0.5]] for index, name in enumerate(NAMES)]
    dataset = opened(write(FILES | {"dataset.json": labels_file(labels)}), use_labels=True)
    assert dataset.label_dim == 2
    assert [label.tolist() for _, label in dataset] == [[0, 0.5], [1, 0.5], [2, 0.5]]


def test_whole_floats_are_classes(write):
    labels = [["a/0.PNG", 2.0], ["a/1.png", 0], ["b/2.png", 1.0]]
    dataset = opened(write(FILES | {"dataset.json": labels_file(labels)}), use_labels=True)
    assert dataset.labels is not None
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize("folder", ["", "mydata/", "a/b/c/"])
def test_labels_are_found_beside_the_images(write, folder):
    spellings = ["./a/0.PNG", "a//1.png", "b\\2.png"]
    files = {folder + name: data for name, data in FILES.items()}
    table = labels_file([[name, label] for name, label in zip(spellings, [2, 0, 1], strict=True)])
    path = write(files | {f"{folder}dataset.json": table})
    dataset = opened(path, use_labels=True)
    assert dataset.names == [folder + name for name in NAMES]
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 0, 1]
    assert has_labels(dataset.source)


def test_outermost_table_counts(write):
    tables = {
        "b/dataset.json": labels_file([["2.png", 5]]),
        "dataset.json": labels_file([[name, 1] for name in NAMES]),
        "a/dataset.json": labels_file([["0.PNG", 7]]),
    }
    path = write(FILES | tables)
    assert opened(path, use_labels=True).label_dim == 2


def test_several_tables_side_by_side_are_refused(write):
    table = labels_file([["0.PNG", 1]])
    path = write(FILES | {"a/dataset.json": table, "b/dataset.json": table})
    with pytest.raises(DataError, match=r"several label tables, a/dataset\.json and b/dataset"):
        opened(path, use_labels=True)
    with pytest.raises(DataError, match="several label tables"):
        has_labels(opened(path).source)


@pytest.mark.parametrize("content", [None, labels_file(None), labels_file([]), b"[]", b"{}"])
def test_sets_without_labels_are_known(write, content):
    files = FILES if content is None else FILES | {"dataset.json": content}
    assert not has_labels(opened(write(files)).source)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "not found"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[]", "holds no labels"),
        (labels_file(None), "holds no labels"),
        (labels_file({"a/0.PNG": 1}), "not a list of"),
        (labels_file(["a/0.PNG"]), "not a list of"),
        (labels_file([["a/0.PNG", 1]]), r"2 of 3 images have no label \(first: a/1.png\)"),
        (labels_file([[name, -1] for name in NAMES]), "the label of a/0.PNG is -1;"),
        (labels_file([[name, True] for name in NAMES]), "the label of a/0.PNG is true;"),
        (labels_file([[name, []] for name in NAMES]), r"the label of a/0.PNG is \[\];"),
        (
            labels_file([[name, [float("nan")]] for name in NAMES]),
            r"the label of a/0.PNG is \[NaN\];",
        ),
        (
            labels_file([[name, [10**400]] for name in NAMES]),
            r"the label of a/0.PNG is \[1000.* \.\.\.;",
        ),
        (
            labels_file([[name, [1.0] * (1 + i)] for i, name in enumerate(NAMES)]),
            r"label of a/1.png is \[1.0, 1.0\] \(the first image's is \[1.0\]\)",
        ),
        (labels_file([["a/0.PNG", 1], ["a/1.png", 1.5], ["b/2.png", 2]]), "of a/1.png is 1.5 "),
        (labels_file([["a/0.PNG", 1], ["a/1.png", None], ["b/2.png", 2]]), "of a/1.png is null "),
        (labels_file([["a/0.PNG", 1], ["a/1.png", [2]], ["b/2.png", 2]]), r"a/1.png is \[2\] "),
        (
            labels_file([[name, float("inf")] for name in NAMES]),
            "the label of a/0.PNG is Infinity;",
        ),
    ],
)
def test_bad_labels_are_refused_when_they_are_used(write, content, found):
    path = write(FILES if content is None else FILES | {"dataset.json": content})
    with pytest.raises(DataError, match=rf"dataset\.json: .*{found}") as caught:
        opened(path, use_labels=True)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert len(opened(path)) == 3


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'[["a/0.PNG", 0]]', "has no entry `labels`, it holds a list"),
        (b"null", "has no entry `labels`, it holds null"),
        (b"0", "has no entry `labels`, it holds 0"),
        (b'{"annotations": []}', "has no entry `labels`, it holds {.*annotations"),
        (labels_file(False), "not a list of"),
        (labels_file(0), "not a list of"),
        (labels_file(""), "not a list of"),
        (labels_file({"a/0.PNG": 1}), "not a list of"),
        (labels_file([["a/0.PNG", 1, "x"]]), "not a list of"),
    ],
)
def test_other_forms_do_not_mean_that_there_are_no_labels(write, content, found):
    dataset = opened(write(FILES | {"dataset.json": content}))
    for read in (has_labels, lambda source: read_labels(source, dataset.names)):
        with pytest.raises(DataError, match=rf"dataset\.json: .*{found}") as caught:
            read(dataset.source)
        assert "\n" not in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize("outer", [labels_file(None), labels_file([]), b"{}"])
def test_an_empty_table_hides_no_filled_one(write, outer):
    inner = labels_file([["0.PNG", 1], ["1.png", 0]])
    source = opened(write(FILES | {"dataset.json": outer, "a/dataset.json": inner})).source
    with pytest.raises(DataError, match=r"dataset\.json, which .* no labels, a/dataset\.json does"):
        has_labels(source)


def test_two_empty_tables_are_no_labels(write):
    tables = {"dataset.json": labels_file(None), "a/dataset.json": b"{}"}
    assert not has_labels(opened(write(FILES | tables)).source)


@pytest.mark.parametrize("name", ["Dataset.json", "a/DATASET.JSON"])
def test_another_case_of_the_table_is_named(write, name):
    source = opened(write(FILES | {name: labels_file([["0.PNG", 1]])})).source
    with pytest.raises(DataError, match=rf"{name}: is dataset\.json meant"):
        has_labels(source)


@pytest.mark.parametrize("spelled", ["a/0.PNG", "./a//0.PNG", "a\\0.PNG"])
@pytest.mark.parametrize(("first", "second"), [(2, 3), (2, [2]), ([1, 0], [0, 1])])
def test_two_labels_for_one_image_are_refused(write, spelled, first, second):
    labels = [[name, first] for name in NAMES] + [[spelled, second]]
    path = write(FILES | {"dataset.json": labels_file(labels)})
    with pytest.raises(DataError, match=r"dataset\.json: two labels for one image: ") as caught:
        opened(path, use_labels=True)
    for value in (first, second, "a/0.PNG", spelled):
        assert json.dumps(value) in caught.value.message


def test_the_same_label_twice_is_no_contradiction(write):
    labels = [[name, 1] for name in NAMES] + [["./a/0.PNG", 1.0]]
    path = write(FILES | {"dataset.json": labels_file(labels)})
    dataset = opened(path, use_labels=True)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 1, 1]


def zip_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile tells of names that are there twice
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("again", ["0.png", "./0.png"])
def test_two_files_of_one_name_in_a_zip_are_refused(tmp_path, again):
    path = zip_of(tmp_path / "set.zip", [("0.png", png(seed=0)), (again, png(seed=1))])
    with pytest.raises(DataError) as caught:
        opened(path)
    found = f"{path}: two different files of one name, 0.png and {again}"
    assert caught.value.message == found
    zip_of(path, [("0.png", png(seed=0)), (again, png(seed=0))])
    assert torch.equal(images_of(opened(path)), expected(0))


def test_members_that_point_out_of_a_zip_are_counted(tmp_path):
    members = [("0.png", png()), ("../1.png", png()), ("a\\..\\2.png", png()), (".x/3.png", b"")]
    said: list[str] = []
    dataset = opened(zip_of(tmp_path / "set.zip", members), warn=said.append)
    assert dataset.names == ["0.png"]
    assert dataset.source.listing.left_out == {"named outside the zip (..)": 2}
    assert len(said) == 1
    assert "2 named outside the zip (..)" in said[0]


def test_missing_path_is_named(tmp_path):
    with pytest.raises(DataError, match="nothing does not exist"):
        opened(tmp_path / "nothing")


def test_set_without_images_is_named(write):
    with pytest.raises(
        DataError, match=r"no images found among 1 \.txt, allowed are PNG, "
    ) as caught:
        opened(write({"readme.txt": b"x"}))
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"hello", png()])
def test_file_that_is_no_zip_is_named(tmp_path, content):
    path = tmp_path / "set.zip"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.zip: not a zip, or damaged"):
        opened(path)


def test_truncated_zip_is_named(tmp_path):
    path = write_zip(tmp_path / "set.zip", FILES)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"set\.zip: not a zip, or damaged"):
        opened(path)


def test_unknown_zip_methods_are_not_broken_images(tmp_path):
    path = write_zip(tmp_path / "set.zip", {"a.png": png()})
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    path.write_bytes(flip_bit(data, directory + 8))  # the member's flag "encrypted"
    with pytest.raises(DataError, match=r"set\.zip: a\.png: cannot be read") as caught:
        opened(path)[0]
    assert not isinstance(caught.value, BrokenImageError)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_of_a_zip_changes_a_pixel(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    content = write_zip(folder / "whole.zip", FILES).read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    damaged = folder / "damaged.zip"
    damaged.write_bytes(flip_bit(content, position, data.draw(st.integers(0, 7))))
    images, message = [], "damaged.zip"
    try:
        images = [image for image, _ in opened(damaged)]
    except DataError as error:
        message = error.message
    assert "damaged.zip" in message
    assert "\n" not in message
    assert all(any(torch.equal(image, whole) for whole in expected(0, 1, 2)) for image in images)


def test_vanished_file_is_no_broken_image(tmp_path):
    dataset = opened(write_folder(tmp_path, FILES))
    (tmp_path / "a/1.png").unlink()
    with pytest.raises(DataError, match=r"a/1\.png: cannot be read \(No such file") as caught:
        dataset[1]
    assert not isinstance(caught.value, BrokenImageError)


def test_linked_folders_are_not_followed(tmp_path):
    write_folder(tmp_path, FILES)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert opened(tmp_path).names == NAMES


def test_hash_is_the_same_packed_and_unpacked(tmp_path):
    packed = write_zip(tmp_path / "set.zip", FILES)
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "set")
    copy = shutil.copytree(tmp_path / "set", tmp_path / "copy")
    assert len({opened(path).content_hash for path in (packed, tmp_path / "set", copy)}) == 1


def test_hash_names_what_is_yielded(tmp_path):
    root = write_folder(tmp_path / "set", FILES)
    other_pixels = write_folder(tmp_path / "pixels", FILES | {"a/1.png": png(seed=9)})
    other_name = write_folder(tmp_path / "name", {**FILES, "c.png": FILES["b/2.png"]})
    (other_name / "b/2.png").unlink()
    datasets = [
        opened(root), opened(other_pixels), opened(other_name), opened(root, channels=1),
        opened(root, resize=True), opened(root, resize=True, resolution=4),
    ]  # fmt: skip
    hashes = {dataset.content_hash for dataset in datasets}
    assert len(hashes) == len(datasets)
    assert all(len(name) == 64 for name in hashes)


def test_hash_ignores_labels(write):
    labelled = FILES | {"dataset.json": labels_file([[name, 1] for name in NAMES])}
    plain = opened(write(FILES)).content_hash
    assert opened(write(labelled), use_labels=True).content_hash == plain


def test_dataset_can_be_pickled_after_reading(write):
    dataset = opened(write(FILES))
    before = images_of(dataset)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(images_of(copy), before)
    assert copy.content_hash == dataset.content_hash


def test_another_process_opens_the_zip_anew(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "set.zip", FILES)
    dataset = opened(path)
    path.unlink()
    assert torch.equal(images_of(dataset), expected(0, 1, 2))  # this process has it open
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(DataError, match=r"set\.zip: cannot be read \(No such file"):
        dataset[0]


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "fork"])
def test_worker_processes_read_the_same(write, context):
    dataset = opened(write(FILES))
    before = images_of(dataset)  # so that a zip is open in the parent
    loader = DataLoader(dataset, batch_size=3, num_workers=1, multiprocessing_context=context)
    ((images, labels),) = loader
    assert torch.equal(images, before)
    assert labels.shape == (3, 0)


def test_threads_read_the_same(write):
    dataset = opened(write({f"{seed:03}.png": png(seed=seed) for seed in range(40)}))
    with ThreadPoolExecutor(8) as pool:
        images = torch.stack(list(pool.map(dataset.image, list(range(40)) * 5)))
    assert torch.equal(images, expected(*range(40)).repeat(5, 1, 1, 1))


@pytest.mark.parametrize(("limit", "sizes"), [(None, [2, 1]), (2, [2]), (1, [1]), (9, [2, 1])])
def test_images_are_iterated_in_order(write, limit, sizes):
    batches = list(iterate_images(opened(write(FILES)), limit, batch=2))
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), expected(0, 1, 2)[: sum(sizes)])


def test_iterating_stops_at_a_broken_image(write):
    files = {f"{seed}.png": png(seed=seed) for seed in range(5)} | {"3.png": png()[:60]}
    batches = iterate_images(opened(write(files)), None, batch=2)
    assert torch.equal(next(batches), expected(0, 1))
    with pytest.raises(BrokenImageError, match=r"3\.png: broken image") as caught:
        next(batches)
    assert caught.value.exit_code == 3


def test_bit_flip_inside_a_zip_member_is_a_broken_image(tmp_path):
    path = write_zip(tmp_path / "set.zip", FILES)
    data = path.read_bytes()
    path.write_bytes(flip_bit(data, data.index(b"IDAT") + 20))
    with pytest.raises(BrokenImageError, match=r"set\.zip: b/2\.png: broken zip member \(Bad CRC"):
        opened(path)[2]


# --- sizes --------------------------------------------------------------------------------------


def test_a_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "folder", {"a.png": png(seed=1)})
    with (tmp_path / "folder" / "b.png").open("wb") as file:
        file.truncate(3 * 2**30)  # sparse
    with zipfile.ZipFile("set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", png(seed=1))
        archive.writestr("b.png", b"x")
        archive.filelist[1].file_size = 2**31  # as the table at the end then says
    for path in ("folder", "set.zip"):
        dataset = opened(path, resolution=8)
        assert dataset.image(0).shape == (3, 8, 8)
        with pytest.raises(DataError, match=r"b\.png: too large, \d{10} bytes, allowed are 2684"):
            dataset.image(1)


def test_a_member_gives_no_more_than_it_says(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**6))
        archive.filelist[0].file_size = 100
    source = opened(path, resolution=8).source
    with pytest.raises(BrokenImageError, match="broken zip member"):
        source.read("a.png")


def test_a_label_table_is_as_large_as_its_set(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", png(seed=1))
        archive.writestr("dataset.json", bytes(9_000_000))
    with pytest.raises(DataError, match=r"dataset\.json: too large, 9000000 bytes"):
        has_labels(opened(path, resolution=8).source)


def test_a_set_is_no_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: neither a file nor a folder"):
        opened(tmp_path / "pipe", resolution=8)


def test_linked_files_are_read(tmp_path):
    write_folder(tmp_path / "elsewhere", {"a.png": png(seed=1)})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    assert torch.equal(images_of(opened(tmp_path / "set", resolution=8)), expected(1))
