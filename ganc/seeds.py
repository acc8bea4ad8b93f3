"""Random numbers that depend only on (seed, stream, index).

A counter-based generator (Philox) keyed by the three gives each latent, noise map and direction
its own stream: batch size, workers, device and the number of processes change no draw.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch


def generator(seed: int, stream: str, index: int = 0) -> np.random.Generator:
    """Return the generator of item ``index`` of a named stream ("latents", "noise", "pca", …)."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


def normal(
    seed: int, stream: str, indices: Sequence[int] | range, shape: Sequence[int]
) -> torch.Tensor:
    """Draw one standard normal tensor per index.

    Returns:
        [len(indices), *shape], float32 on the CPU.
    """
    rows = np.empty((len(indices), *shape), dtype=np.float32)
    for row, index in zip(rows, indices, strict=True):
        generator(seed, stream, index).standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(rows)


def noise_maps(
    seed: int, stream: str, indices: Sequence[int] | range, shapes: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Draw the noise inputs of several samples, in layer order.

    Args:
        shapes: Shape of one sample's map per layer, for StyleGAN2 (1, R, R).
    Returns:
        One float32 CPU tensor [len(indices), *shape] per layer.
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    flat = normal(seed, stream, indices, (sum(sizes),))
    parts = flat.split(sizes, dim=1)
    return [part.reshape(len(indices), *shape) for part, shape in zip(parts, shapes, strict=True)]


def torch_seed(seed: int, stream: str, index: int = 0) -> int:
    """Return a 63-bit seed for a ``torch.Generator`` on any device (training draws)."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
