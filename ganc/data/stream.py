"""Training data: which image is drawn at which step, and reading it ahead of time.

The images of step s are a pure function of (seed, s, set): nothing depends on what was read
before, so a resumed run, or one on more ranks, draws exactly what the uninterrupted one did.
"""

from collections import Counter, deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ganc import seeds
from ganc.data.dataset import DECODE_THREADS
from ganc.data.images import BrokenImageError
from ganc.data.sources import Source
from ganc.errors import DataError, UsageError
from ganc.progress import Progress, Warn, silent

MAX_BROKEN = 0.01  # share of a training set that may be skipped

_CHUNK = 256  # images decoded between two progress reports

LabelledImages = tuple[torch.Tensor, torch.Tensor]


class SampleSet(Protocol):
    """What a stream draws from: index → (uint8 [C, H, W], float32 [D]).

    ``ImageDataset``, ``UsableImages`` and ``torch.utils.data.TensorDataset`` fit.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]: ...


class ImageSet(Protocol):
    """A set of images of one size: ``ImageDataset``, or ``PairedImages``."""

    @property
    def source(self) -> Source: ...

    @property
    def channels(self) -> int: ...

    @property
    def resolution(self) -> int: ...

    @property
    def label_dim(self) -> int: ...

    @property
    def content_hash(self) -> str: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> torch.Tensor: ...

    def label(self, index: int) -> torch.Tensor: ...


@dataclass(frozen=True, eq=False)
class UsableImages:
    """The images of a set that decode, in memory where they fit. Made by ``usable_images``.

    Args:
        dataset: The whole set.
        indices: Positions in it that are usable, ascending.
        cache: Decoded images by position in the whole set, [N, C, H, W], uint8, or None.
    """

    dataset: ImageSet
    indices: list[int]
    cache: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        position = self.indices[index]
        image = self.dataset.image(position) if self.cache is None else self.cache[position]
        return image, self.dataset.label(position)


def usable_images(
    dataset: ImageSet,
    *,
    warn: Warn,
    progress: Progress = silent,
    cache_bytes: int = 2**30,
) -> UsableImages:
    """Decode a whole set once, leave out broken images, and keep the rest where it fits.

    The full pass is what makes the draws of a stream independent of what was read before. It
    costs one decoding of every image per start (and per rank): 10 000 faces of 32 px take about a
    second on two cores, 70 000 PNGs of 256 px some minutes. A set that fits into ``cache_bytes``
    is not decoded again; a larger one is read anew at each draw, where an image that has since
    vanished or broken ends the run.

    Args:
        warn: Told of each broken image, once.
        progress: Told how many images are decoded.
        cache_bytes: Most memory to spend on decoded images.
    Raises:
        DataError: More than 1 % of the set is broken, or an image is sound but not allowed.
    """
    count = len(dataset)
    shape = (count, dataset.channels, dataset.resolution, dataset.resolution)
    cache = torch.empty(shape, dtype=torch.uint8) if np.prod(shape) <= cache_bytes else None
    broken: list[BrokenImageError] = []
    indices: list[int] = []
    for index, image in enumerate(_decode_all(dataset, progress)):
        if isinstance(image, BrokenImageError):
            broken.append(image)
            _check_share(dataset, broken, index + 1)
            warn(f"{image.message}; skipped")
            continue
        indices.append(index)
        if cache is not None:
            cache[index] = image
    return UsableImages(dataset, indices, cache)


def usage(*sets: UsableImages) -> dict[str, Any]:
    """Return how many images of each set are used, and what was left out, as JSON data."""
    roots = {id(root): root for root in (images.dataset.source.root for images in sets)}
    left_out: Counter[str] = Counter()
    for root in roots.values():
        left_out.update(root.listing.left_out)
    counts = [len(images) for images in sets]
    return {"data_images": counts if len(sets) > 1 else counts[0], "data_left_out": dict(left_out)}


def _decode_all(dataset: ImageSet, progress: Progress) -> Iterator[torch.Tensor | BrokenImageError]:
    """Yield every image in order, or the error where it is broken."""

    def decode(index: int) -> torch.Tensor | BrokenImageError:
        try:
            return dataset.image(index)
        except BrokenImageError as error:
            return error

    count = len(dataset)
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        for start in range(0, count, _CHUNK):
            stop = min(start + _CHUNK, count)
            yield from pool.map(decode, range(start, stop))
            progress("checking images", stop, count)


def _check_share(dataset: ImageSet, broken: list[BrokenImageError], seen: int) -> None:
    if len(broken) > MAX_BROKEN * len(dataset):
        raise DataError(
            f"{dataset.source.path}: {len(broken)} broken among the first {seen} of "
            f"{len(dataset)} images, allowed is 1 %; first: {broken[0].message}",
            "replace the broken files or remove them from the set",
        ) from broken[0]


class TrainingStream:
    """Draws without replacement: each epoch is a permutation of its own, each draw a coin flip.

    Draw p (counted from the start of training) is element p mod n of the permutation keyed by
    (seed, "data", p div n), mirrored by a coin keyed by (seed, "mirror", p).

    Args:
        samples: What to draw from.
        seed: The run's seed.
        batch: Images per step over all ranks.
        mirror: Flip half of the draws left to right. Labels stay as they are.
        stream: Name of the permutations' random numbers. A second set that is drawn independently
            is "data_b"; its coins are then "mirror_b".
    """

    def __init__(
        self, samples: SampleSet, *, seed: int, batch: int, mirror: bool, stream: str = "data"
    ) -> None:
        if len(samples) == 0 or batch < 1:
            raise UsageError(f"{len(samples)} images in batches of {batch}, allowed is 1 and more")
        self.samples = samples
        self.seed = seed
        self.batch = batch
        self.mirror = mirror
        self.stream = stream
        self.coins = "mirror" + stream.removeprefix("data")

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> LabelledImages:
        """Return what one rank sees at one step.

        Args:
            step: From 0.
            rank: Takes draws rank, rank + world, … of the step's batch: strided, so that
                minibatch-stddev groups stay together.
            world: Number of ranks; divides the batch.
        Returns:
            images: [batch/world, C, H, W], uint8.
            labels: [batch/world, D], float32.
        Raises:
            DataError: An image vanished or broke since the set was checked.
        """
        if self.batch % world:
            raise UsageError(
                f"batch {self.batch} is not a multiple of the number of processes, {world}"
            )
        draws = range(step * self.batch + rank, (step + 1) * self.batch, world)
        images, labels = zip(*(self._draw(position) for position in draws), strict=True)
        return torch.from_numpy(np.stack(images)), torch.stack(labels)

    def _draw(self, position: int) -> tuple[npt.NDArray[np.uint8], torch.Tensor]:
        """Return one draw; NumPy's copies are single-threaded, see ``prefetch``."""
        epoch, place = divmod(position, len(self.samples))
        order = _permutation(self.seed, self.stream, epoch, len(self.samples))
        image, label = self.samples[int(order[place])]
        pixels = image.numpy()
        if self.mirror and seeds.generator(self.seed, self.coins, position).random() < 0.5:
            pixels = pixels[..., ::-1]
        return pixels, label


@lru_cache(maxsize=4)  # a batch may span two epochs; the threads of two streams may be ahead
def _permutation(seed: int, stream: str, epoch: int, count: int) -> npt.NDArray[np.int64]:
    return seeds.generator(seed, stream, epoch).permutation(count)


def prefetch(
    stream: TrainingStream,
    start_step: int,
    stop_step: int,
    *,
    rank: int = 0,
    world: int = 1,
    threads: int = 2,
) -> Generator[LabelledImages, None, None]:
    """Yield the batches of steps [start_step, stop_step), prepared ahead on threads.

    Closing the generator (``contextlib.closing``) drops what is ahead and ends the threads; an
    error in a thread is raised here, at the step it belongs to.

    Nothing on these threads splits its work over cores: torch would start a pool of workers for
    each of them, and all pools would compete with the training step's own.

    Args:
        threads: Batches in preparation; one more waits finished.
    """
    pending: deque[Future[LabelledImages]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for step in range(start_step, stop_step):
                pending.append(pool.submit(stream.batch_at, step, rank, world))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
