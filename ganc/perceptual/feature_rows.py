"""Feature vectors in a file: what must see every vector at once need not hold them in memory."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ganc.errors import ComputationError, OutputError, ShapeError
from ganc.files import atomic_write, write_error
from ganc.perceptual.features import FeatureNetwork, feature_key
from ganc.progress import Warn
from ganc.user_cache import cache_folder, cache_subfolder

FOLDER = "features"
_BLOCK = 4096


@dataclass(eq=False)
class FeatureRows:
    """Vectors [N, D], float32, on disk; blocks of them are mapped into memory while they are read.

    Attributes:
        file: Open for reading, and for writing while vectors are added.
        dim: D.
        offset: Bytes before the first vector.
        count: N.
    """

    file: IO[bytes]
    dim: int
    offset: int = 0
    count: int = 0

    @classmethod
    def scratch(cls, dim: int) -> FeatureRows:
        """Return no vectors yet, in a file without a name: it is gone when the process is.

        It lies in the cache, since a folder for temporary files is often a part of memory.
        """
        try:
            folder: Path | None = cache_subfolder(FOLDER)
        except OutputError:
            folder = None
        try:
            return cls(tempfile.TemporaryFile(dir=folder), dim)
        except OSError as error:
            raise write_error(folder or Path(tempfile.gettempdir()), error) from error

    def __post_init__(self) -> None:
        weakref.finalize(self, self.file.close)

    def __len__(self) -> int:
        return self.count

    def append(self, features: Tensor) -> None:
        """Add vectors [N, D] of any floating type and device.

        Raises:
            ShapeError: They are not [N, D].
            ComputationError: One of them is not finite.
            OutputError: The disk is full.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ShapeError(f"features must be [N, {self.dim}], got {list(features.shape)}")
        values = features.detach().to("cpu", torch.float32).contiguous()
        if not values.isfinite().all():
            raise ComputationError(
                f"features are not finite after {self.count} samples",
                "look at the images that the model makes: `ganc sample`",
            )
        try:  # written, not mapped: a full disk is an error then, and not a bus error
            self.file.write(values.numpy().tobytes())
            self.file.flush()
        except OSError as error:
            raise write_error(cache_folder() / FOLDER, error) from error
        self.count += len(values)

    def block(self, start: int, stop: int) -> Tensor:
        """Return a copy of the vectors ``start`` … ``stop`` - 1."""
        return torch.from_numpy(np.array(self._mapped()[start:stop]))

    def take(self, indices: Tensor) -> Tensor:
        """Return a copy of the vectors at ``indices`` [K], in any order."""
        return torch.from_numpy(self._mapped()[indices.numpy()])

    def blocks(self, size: int = _BLOCK) -> Iterator[tuple[int, Tensor]]:
        """Yield (index of the first, vectors), at most ``size`` at a time."""
        for start in range(0, self.count, size):
            yield start, self.block(start, min(start + size, self.count))

    def _mapped(self) -> np.ndarray:
        # A new map each time: pages of an old one would count as this process's memory.
        shape = (self.count, self.dim)
        return np.memmap(self.file, np.float32, mode="r", offset=self.offset, shape=shape)


def rows_for(
    dataset_hash: str,
    network: FeatureNetwork,
    compute: Callable[[], FeatureRows],
    *,
    count: int,
    warn: Warn,
) -> FeatureRows:
    """Return the features of a data set, from the cache where it has them.

    Believed only with the right key and the checksum that they were written with, as ``stats_for``.

    Args:
        dataset_hash: Hash of the images' content.
        network: What makes the features; its weights and resize are part of the key.
        compute: Describes the data set's images, in their order.
        count: Images described; part of the key.
        warn: Told of a damaged file and of a cache that cannot be written.
    """
    key = feature_key(dataset_hash, network, count)
    name = hashlib.sha256(key.encode()).hexdigest()[:32] + ".safetensors"
    path = cache_folder() / FOLDER / name
    if path.exists():
        try:
            return _open(path, key)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            warn(f"{path} is damaged ({error}); its features are computed again")
    rows = compute()
    try:
        _write(cache_subfolder(FOLDER) / name, key, rows)
    except OutputError as error:
        warn(f"the features are not kept: {error}")
    return rows


def _write(path: Path, key: str, rows: FeatureRows) -> None:
    """Write a safetensors file piece by piece: the whole may be larger than memory."""
    digest = hashlib.sha256()
    for _, block in rows.blocks():
        digest.update(block.numpy().tobytes())
    shape = [rows.count, rows.dim]
    header = {
        "__metadata__": {"key": key, "checksum": digest.hexdigest()},
        "features": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path, force=True) as temporary, temporary.open("wb") as output:
        output.write(struct.pack("<Q", len(text)) + text)
        for _, block in rows.blocks():
            output.write(block.numpy().tobytes())


def _open(path: Path, key: str) -> FeatureRows:
    with safe_open(path, framework="pt") as content:  # checks the sizes against the file's
        metadata = content.metadata() or {}
        count, dim = content.get_slice("features").get_shape()
    if metadata.get("key") != key:
        raise ValueError("it belongs to other data or another network")
    file = path.open("rb")
    (length,) = struct.unpack("<Q", file.read(8))
    rows = FeatureRows(file, dim, 8 + length, count)
    digest = hashlib.sha256()
    for _, block in rows.blocks():
        digest.update(block.numpy().tobytes())
    if metadata.get("checksum") != digest.hexdigest():
        raise ValueError("its checksum does not match its numbers")
    return rows
