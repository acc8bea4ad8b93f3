"""Neighbourhoods on the manifold that a generator's images form, and the file that keeps them.

Every image of the teacher, made of one training input, is the centre of a neighbourhood: itself and
its k nearest images, by a description that an encoder gives. Neighbourhoods overlap. Source:
Ganjdanesh et al. 2024 (MGGC) for the neighbourhoods; Casanova et al. 2021 (Instance-Conditioned
GAN) for how they are looked up.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from ganc import collectives
from ganc.errors import InputError
from ganc.files import atomic_write
from ganc.metadata import Metadata
from ganc.progress import Progress, silent
from ganc.safetensors_file import read, serialize
from ganc.version import __version__

FORMAT = 1
BLOCK = 1024
"""Rows of the table of distances that are alive at a time."""
LEAST, MOST, INPUTS_PER_NEIGHBOUR = 5, 50, 200


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """Who lies near whom.

    Attributes:
        neighbours: [N, k], int64: the k nearest of each, nearest first, itself left out.
        radii: [N], float32: distance to the last of them.
        features: [N, d], float32 of float16 precision: the descriptions, of unit length where the
            metric is "cosine".
        identity: What they depend on, JSON data: teacher, inputs, encoder, metric, k.
    """

    neighbours: Tensor
    radii: Tensor
    features: Tensor
    identity: Mapping[str, Any]

    def members(self, center: int) -> Tensor:
        """Return a neighbourhood: the centre, then its neighbours, [k + 1]."""
        return torch.cat([torch.tensor([center]), self.neighbours[center]])


def default_neighbours(count: int) -> int:
    """Return k for ``count`` images: one of 200, from 5 to 50."""
    return min(MOST, max(LEAST, count // INPUTS_PER_NEIGHBOUR))


def check_count(count: int, k: int, where: str) -> None:
    """Refuse a set that is too small for its neighbourhoods.

    Raises:
        InputError: There are no k others.
    """
    if count <= k:
        raise InputError(
            f"{where} holds {count} images, neighbourhoods of {k} neighbours need {k + 1} at least",
            "give more images, or pass --set neighbours=N with a smaller N",
        )


def describe(
    encode: Callable[[range], Tensor], count: int, batch: int, metric: str, progress: Progress
) -> Tensor:
    """Encode all images: [N, d], float32 on the CPU, rounded to what the file keeps."""
    rows = []
    for start in range(0, count, batch):
        stop = min(start + batch, count)
        rows.append(encode(range(start, stop)).float().cpu())
        progress("describing images", stop, count)
    features = torch.cat(rows)
    features = F.normalize(features, dim=1) if metric == "cosine" else features
    return features.half().float()


def nearest(features: Tensor, k: int, progress: Progress = silent) -> tuple[Tensor, Tensor]:
    """Find the k nearest rows of every row, exactly, block by block.

    Args:
        features: [N, d].
        k: Below N.
    Returns:
        Indices [N, k], nearest first, ties by the lower index, the row itself left out; and the
        distance to the last of them, [N].
    """
    count = len(features)
    found, radii = [], []
    indices = torch.arange(count, dtype=torch.int32)
    squares = features.double().square().sum(dim=1)
    for start in range(0, count, BLOCK):
        block = features[start : start + BLOCK].double()
        own = torch.arange(start, start + len(block))
        distances = squares[own, None] + squares[None] - 2 * block @ features.double().T
        distances[torch.arange(len(block)), own] = torch.inf
        # Equal images come in the order of their indices on every machine, however many there are.
        farthest = distances.topk(k, largest=False).values[:, -1:]
        preference = torch.where(distances < farthest, indices - count, indices)
        preference[distances > farthest] = count
        near = preference.topk(k, largest=False).indices.sort(dim=1).values
        order = near.gather(1, distances.gather(1, near).argsort(dim=1, stable=True))
        found.append(order)
        last = (block - features[order[:, -1]].double()).square().sum(dim=1)
        radii.append(last.sqrt().float())
        progress("finding neighbours", start + len(block), count)
    return torch.cat(found), torch.cat(radii)


def build(
    encode: Callable[[range], Tensor],
    count: int,
    identity: Mapping[str, Any],
    *,
    batch: int,
    progress: Progress = silent,
) -> Neighbourhoods:
    """Describe all images and look up their neighbours.

    Args:
        encode: Descriptions of some images, [n, d].
        identity: See ``Neighbourhoods``; "metric" and "neighbours" are read.
    """
    features = describe(encode, count, batch, identity["metric"], progress)
    neighbours, radii = nearest(features, identity["neighbours"], progress)
    return Neighbourhoods(neighbours, radii, features, dict(identity))


def of_first_process(hoods: Neighbourhoods) -> Neighbourhoods:
    """Return the first process's in all of them: encoders may differ by roundings."""
    if collectives.world_size() == 1:
        return hoods
    tensors = {"n": hoods.neighbours, "r": hoods.radii, "f": hoods.features}
    own = {
        name: tensor if collectives.rank() == 0 else tensor * 0 for name, tensor in tensors.items()
    }
    shared = collectives.all_sum(own)
    return Neighbourhoods(shared["n"], shared["r"], shared["f"], hoods.identity)


def save(path: Path, sides: Mapping[str, Neighbourhoods], *, force: bool = False) -> None:
    """Write the neighbourhoods of a model's generators, by the generator's name, atomically.

    Raises:
        OutputError: The file exists and ``force`` is off, or it cannot be written.
    """
    tensors = {}
    for name, own in sides.items():
        tensors[f"{name}.neighbours"] = own.neighbours.int()
        tensors[f"{name}.radii"] = own.radii
        tensors[f"{name}.features"] = own.features.half()
    metadata = {
        "ganc_neighbourhoods": str(FORMAT),
        "ganc_version": __version__,
        "sides": json.dumps({name: dict(own.identity) for name, own in sides.items()}),
    }
    with atomic_write(path, force=force) as temporary:
        temporary.write_bytes(serialize(tensors, metadata))


def load(path: Path) -> dict[str, Neighbourhoods]:
    """Read a file of neighbourhoods.

    Raises:
        InputError: It is something else, damaged, of a later format, or cannot be read.
    """
    try:
        metadata, tensors = read(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is not a file of neighbourhoods, or damaged: {error}",
            "name another file with --neighbourhoods, or remove it to build it again",
        ) from error
    if "ganc_neighbourhoods" not in metadata:
        raise InputError(
            f"{path} holds no neighbourhoods", "name another file with --neighbourhoods"
        )

    def refuse(finding: str) -> InputError:
        return InputError(f"{path} is damaged: {finding}", "remove it, and it is built again")

    entries = Metadata(metadata, refuse)
    entries.check_format("ganc_neighbourhoods", FORMAT, InputError, str(path))
    sides = entries.typed("sides", dict[str, dict[str, Any]])
    try:
        return {name: _side(tensors, name, identity) for name, identity in sides.items()}
    except (KeyError, ValueError, RuntimeError) as error:
        raise refuse(str(error)) from error


def _side(tensors: Mapping[str, Tensor], name: str, identity: dict[str, Any]) -> Neighbourhoods:
    parts = (tensors[f"{name}.{part}"] for part in ("neighbours", "radii", "features"))
    neighbours, radii, features = parts
    count = len(features)
    is_sound = (
        (neighbours.ndim, features.ndim) == (2, 2)
        and len(neighbours) == len(radii) == count
        and bool(((neighbours >= 0) & (neighbours < count)).all())
    )
    if not is_sound:
        raise ValueError(f"the neighbourhoods of {name} do not fit together")
    return Neighbourhoods(neighbours.long(), radii, features.float(), identity)


def check_identity(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse neighbourhoods that are not those asked for.

    Args:
        found: The file's identity of one generator.
        wanted: What this run's would have; what it does not know of an encoder is left out.
    Raises:
        InputError: They are of another teacher, or of other inputs or settings.
    """
    names = {"teacher": "another teacher", "inputs": "other inputs"}
    other = [
        names.get(key, f"{key} {found.get(key)} instead of {value}")
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    if other:
        raise InputError(
            f"{path} holds neighbourhoods of {', '.join(other)}",
            "name another file with --neighbourhoods, or remove it to build it again",
        )
