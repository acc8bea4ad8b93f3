"""Which image is drawn when, broken images in training, reading ahead."""

import gc
import threading
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import TensorDataset

from ganc.data.dataset import open_dataset
from ganc.data.sources import ZipSource
from ganc.data.stream import TrainingStream, prefetch, usable_images
from ganc.errors import DataError, UsageError

from .pictures import encode, png, write_folder

THREADS = Path("/proc/self/task")


def numbered(count: int) -> TensorDataset:
    """Return images of one row, 0 and their number + 1, with that number as the label."""
    numbers = torch.arange(count)
    images = (
        torch.stack([torch.zeros(count), numbers + 1], dim=1).to(torch.uint8).view(count, 1, 1, 2)
    )
    return TensorDataset(images, numbers.to(torch.float32)[:, None])


def stream_of(count: int, *, seed: int = 0, batch: int = 4, mirror: bool = False):
    return TrainingStream(numbered(count), seed=seed, batch=batch, mirror=mirror)


def drawn(stream: TrainingStream, steps: range, **ranks: int) -> list[int]:
    labels = [stream.batch_at(step, **ranks)[1] for step in steps]
    return torch.cat(labels).ravel().int().tolist()


def broken_folder(root, count: int, broken: list[int]):
    files = {f"{index:04}.png": png(seed=index) for index in range(count)}
    files |= {f"{index:04}.png": png()[:70] for index in broken}
    return open_dataset(write_folder(root, files), resolution=8, channels=3)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 40), batch=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_each_epoch_draws_every_image_once(count, batch, seed):
    steps = -(-3 * count // batch)
    order = drawn(stream_of(count, seed=seed, batch=batch), range(steps))
    for epoch in range(3):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(1, 20), share=st.integers(1, 8), world=st.integers(1, 4),
    step=st.integers(0, 10**6),
)  # fmt: skip
def test_ranks_interleave_to_the_single_batch(count, share, world, step):
    stream = stream_of(count, batch=share * world, mirror=True)
    whole = stream.batch_at(step)
    shards = [stream.batch_at(step, rank, world) for rank in range(world)]
    for expected, parts in zip(whole, zip(*shards, strict=True), strict=True):
        assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), expected)


def test_a_step_depends_on_nothing_before_it():
    there = stream_of(10, mirror=True)
    for step in range(30):
        there.batch_at(step)
    images, labels = there.batch_at(30)
    fresh_images, fresh_labels = stream_of(10, mirror=True).batch_at(30)
    assert torch.equal(images, fresh_images)
    assert torch.equal(labels, fresh_labels)


def test_epochs_and_seeds_shuffle_anew():
    order = drawn(stream_of(32, batch=32), range(2))
    other = drawn(stream_of(32, batch=32, seed=1), range(1))
    assert len({tuple(order[:32]), tuple(order[32:]), tuple(other), tuple(range(32))}) == 4


def test_half_of_the_draws_are_mirrored():
    images, labels = stream_of(200, batch=2000, mirror=True).batch_at(0)
    left, right = images.view(2000, 2).unbind(dim=1)
    assert torch.equal(torch.maximum(left, right), labels[:, 0].to(torch.uint8) + 1)
    assert abs((left > 0).float().mean() - 0.5) < 0.05  # 4.5 standard deviations of 2000 fair coins


def test_the_coin_belongs_to_the_draw():
    epochs = [stream_of(64, batch=64, mirror=True).batch_at(step) for step in (0, 1)]
    by_place = [(images[:, 0, 0, 0] > 0).tolist() for images, _ in epochs]
    by_image = [(images[labels[:, 0].argsort(), 0, 0, 0] > 0).tolist() for images, labels in epochs]
    assert by_place[0] != by_place[1]
    assert by_image[0] != by_image[1]


def test_without_mirror_images_are_as_stored():
    images, labels = stream_of(64, batch=64).batch_at(0)
    assert torch.equal(images[:, 0, 0, 1], labels[:, 0].to(torch.uint8) + 1)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.float32


def test_ranks_must_divide_the_batch():
    with pytest.raises(UsageError, match="batch 4 is not a multiple of the number of processes, 3"):
        stream_of(8).batch_at(0, rank=0, world=3)


@pytest.mark.parametrize(("count", "batch"), [(0, 4), (4, 0)])
def test_nothing_to_draw_is_refused(count, batch):
    with pytest.raises(UsageError, match=f"{count} images in batches of {batch}"):
        stream_of(count, batch=batch)


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_one_percent_may_be_broken(tmp_path, cache_bytes):
    warnings, reports = [], []
    dataset = broken_folder(tmp_path, 300, [7, 299])
    usable = usable_images(
        dataset,
        warn=warnings.append,
        progress=lambda what, done, total: reports.append((done, total)),
        cache_bytes=cache_bytes,
    )
    assert len(usable) == 298
    assert [message.split(": ")[0] for message in warnings] == [
        str(tmp_path / "0007.png"), str(tmp_path / "0299.png"),
    ]  # fmt: skip
    assert all(message.endswith("; skipped") for message in warnings)
    assert reports == [(256, 300), (300, 300)]
    assert (usable.cache is None) == (cache_bytes == 0)
    for index in (0, 6, 7, 297):
        position = index + (index >= 7)
        assert torch.equal(usable[index][0], dataset.image(position))


def test_more_than_one_percent_stops_the_run(tmp_path):
    warnings = []
    with pytest.raises(DataError, match="2 broken among the first 10 of 100 images") as caught:
        usable_images(broken_folder(tmp_path, 100, [3, 9]), warn=warnings.append)
    assert "allowed is 1 %; first: " in caught.value.message
    assert "0003.png: broken image" in caught.value.message
    assert caught.value.exit_code == 3
    assert len(warnings) == 1


def test_an_image_of_another_size_is_not_skipped(tmp_path):
    dataset = broken_folder(tmp_path, 200, [])
    (tmp_path / "0100.png").write_bytes(png(16))
    with pytest.raises(DataError, match=r"0100\.png: size 16x16, allowed is 8x8"):
        usable_images(dataset, warn=pytest.fail)


def test_cached_and_reread_sets_draw_the_same(tmp_path):
    dataset = broken_folder(tmp_path, 120, [50])
    batches = [
        TrainingStream(
            usable_images(dataset, warn=str, cache_bytes=size), seed=5, batch=16, mirror=True
        ).batch_at(11)
        for size in (0, 2**30)
    ]
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1], batches[1][1])


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_a_file_that_vanishes_is_an_error_unless_it_is_in_memory(tmp_path, cache_bytes):
    usable = usable_images(
        broken_folder(tmp_path, 4, []), warn=pytest.fail, cache_bytes=cache_bytes
    )
    (tmp_path / "0002.png").unlink()
    stream = TrainingStream(usable, seed=0, batch=4, mirror=False)
    if cache_bytes:
        assert len(stream.batch_at(0)[0]) == 4
    else:
        with pytest.raises(DataError, match=r"0002\.png: cannot be read"):
            stream.batch_at(0)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (3, 4), (5, 30)])
def test_prefetch_yields_the_steps_in_order(start, stop):
    stream = stream_of(10, mirror=True)
    found = list(prefetch(stream, start, stop, rank=1, world=2))
    assert len(found) == stop - start
    for step, (images, labels) in zip(range(start, stop), found, strict=True):
        assert torch.equal(images, stream.batch_at(step, 1, 2)[0])
        assert torch.equal(labels, stream.batch_at(step, 1, 2)[1])


class Failing:
    """Eight samples of which number 5 cannot be read; counts the reads."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.reads += 1
        if index == 5:
            raise DataError("5.png: cannot be read")
        return torch.full((1, 1, 1), index, dtype=torch.uint8), torch.zeros(0)


def test_prefetch_raises_at_the_step_of_the_error():
    stream = TrainingStream(Failing(), seed=0, batch=1, mirror=False)
    order = [int(index) for index in drawn_until_error(stream)]
    assert order
    threads = threading.active_count()
    batches = prefetch(stream, 0, 100)
    assert [int(next(batches)[0]) for _ in order] == order
    with pytest.raises(DataError, match=r"5\.png"):
        next(batches)
    assert threading.active_count() == threads


def drawn_until_error(stream: TrainingStream) -> list[torch.Tensor]:
    """Read the steps one by one, up to the failing one."""
    found: list[torch.Tensor] = []
    while True:
        try:
            found.append(stream.batch_at(len(found))[0])
        except DataError:
            return found


def test_closed_prefetch_ends_its_threads_and_reads_no_further():
    samples = numbered(10)
    threads = threading.active_count()
    with closing(prefetch(TrainingStream(samples, seed=0, batch=2, mirror=False), 0, 10**9)) as it:
        next(it)
        assert threading.active_count() > threads
    assert threading.active_count() == threads


@pytest.mark.skipif(not THREADS.exists(), reason="threads are counted as Linux lists them")
def test_prefetching_threads_start_no_pools(tmp_path):
    pixels = encode(Image.new("RGB", (256, 256)))  # large enough for torch to split a copy
    dataset = open_dataset(
        write_folder(tmp_path, {"0.png": pixels, "1.png": pixels}), resolution=256, channels=3
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.zeros(2**20).add_(1)  # the pool of this thread
        count = len(list(THREADS.iterdir()))
        for cache_bytes in (0, 2**30):
            usable = usable_images(dataset, warn=pytest.fail, cache_bytes=cache_bytes)
            stream = TrainingStream(usable, seed=0, batch=2, mirror=True)
            with closing(prefetch(stream, 0, 20, threads=2)) as batches:
                counts = [len(list(THREADS.iterdir())) for _ in batches]
            assert counts[-1] <= count + 2  # at first the decoding pool may be on its way out
    finally:
        torch.set_num_threads(before)


def test_prefetch_reads_only_a_few_batches_ahead():
    samples = Failing()
    stream = TrainingStream(samples, seed=0, batch=1, mirror=False)
    with closing(prefetch(stream, 0, 10**9, threads=2)) as batches:
        next(batches)
    assert 1 <= samples.reads <= 3


def test_an_archive_in_a_cycle_is_closed_before_its_file(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"x")
    source = ZipSource(path)
    source.read("a.png")
    source.cycle = source  # type: ignore[attr-defined]
    opened = source._open()
    del source
    gc.collect()
    assert opened.fp is None
