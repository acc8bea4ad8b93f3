"""Statistics of real images, kept in the cache: the same data set is never measured twice."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ganc.errors import OutputError
from ganc.files import atomic_write
from ganc.perceptual.features import FeatureNetwork, feature_key
from ganc.perceptual.frechet import FeatureStats
from ganc.progress import Warn
from ganc.user_cache import cache_folder, cache_subfolder


def stats_for(
    dataset_hash: str,
    network: FeatureNetwork,
    compute: Callable[[], FeatureStats],
    *,
    count: int,
    warn: Warn,
) -> FeatureStats:
    """Return the statistics of a data set's features, from the cache where it has them.

    A cached file is believed only if it carries the same key and its numbers the checksum they
    were written with; otherwise it is computed again and replaced.

    Args:
        dataset_hash: Hash of the images' content.
        network: What makes the features; its weights and resize are part of the key.
        compute: Measures the data set.
        count: Images measured; part of the key.
        warn: Told of a damaged file and of a cache that cannot be written.
    """
    key = feature_key(dataset_hash, network, count)
    name = hashlib.sha256(key.encode()).hexdigest()[:32] + ".safetensors"
    path = cache_folder() / "statistics" / name
    if path.exists():
        try:
            return _read(path, key)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            warn(f"{path} is damaged ({error}); its statistics are computed again")
    stats = compute()
    try:
        _write(cache_subfolder("statistics") / name, key, stats)
    except OutputError as error:
        warn(f"the statistics are not kept: {error}")
    return stats


def _write(path: Path, key: str, stats: FeatureStats) -> None:
    tensors = {"mean": stats.mean.cpu(), "scatter": stats.scatter.cpu()}
    tensors["count"] = torch.tensor(stats.count)
    metadata = {"key": key, "checksum": _checksum(tensors)}
    with atomic_write(path, force=True) as temporary:
        save_file(tensors, temporary, metadata)


def _read(path: Path, key: str) -> FeatureStats:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in ("mean", "scatter", "count")}
    if metadata.get("key") != key:
        raise ValueError("it belongs to other data or another network")
    if metadata.get("checksum") != _checksum(tensors):
        raise ValueError("its checksum does not match its numbers")
    return FeatureStats(int(tensors["count"]), tensors["mean"], tensors["scatter"])


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
