"""The random numbers of training: keyed by (seed, step, index in the global batch), on the device.

Nothing is carried from step to step, so a resumed run draws what the uninterrupted one did, and a
run on several ranks draws what one rank would: there is no generator state to save.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ganc import seeds
from ganc.models.network import LatentGenerator


@dataclass(frozen=True)
class Draws:
    """Source of a run's random numbers.

    Process r of n gets samples r, r + n, … of the global batch: strided, so that the groups of
    minibatch-stddev, which are interleaved, stay together.

    Args:
        seed: The run's seed.
        batch: Global batch, a multiple of ``world``.
        device: Where numbers are drawn; another kind of device draws others.
        rank, world: This process, and how many there are.
    """

    seed: int
    batch: int
    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def local_batch(self) -> int:
        """Samples per step in this process."""
        return self.batch // self.world

    def normal(self, stream: str, step: int, size: int) -> Tensor:
        """Return standard normal numbers, [local_batch, size]."""
        return self._rows(stream, step, size, is_normal=True)

    def uniform(self, stream: str, step: int, size: int) -> Tensor:
        """Return numbers from [0, 1), [local_batch, size]."""
        return self._rows(stream, step, size, is_normal=False)

    def _rows(self, stream: str, step: int, size: int, *, is_normal: bool) -> Tensor:
        rows = torch.empty(self.local_batch, size, device=self.device)
        self.fill(rows, stream, step, is_normal=is_normal)
        return rows

    def fill(self, rows: Tensor, stream: str, step: int, *, is_normal: bool) -> None:
        """Draw into [local_batch, size] what ``normal`` or ``uniform`` would return."""
        generator = torch.Generator(self.device)
        for i, row in enumerate(rows):
            index = step * self.batch + self.rank + i * self.world
            generator.manual_seed(seeds.torch_seed(self.seed, stream, index))
            if is_normal:
                row.normal_(generator=generator)
            else:
                row.uniform_(generator=generator)


@dataclass(frozen=True)
class MixedLatents:
    """Pairs of latents that a style generator mixes, the same for teacher and student.

    Attributes:
        z: [N, 2, D_z]; the second is mixed in from layer ``cut`` on.
        cut: [N, 1], from 1 to ``num_ws``; ``num_ws`` where nothing is mixed.
        noise: One map [N, 1, R, R] per layer.
        c: [N, D_c], or None for unconditional networks.
    """

    z: Tensor
    cut: Tensor
    noise: list[Tensor]
    c: Tensor | None

    def head(self, count: int) -> "MixedLatents":
        """Return the first ``count`` samples."""
        c = None if self.c is None else self.c[:count]
        return MixedLatents(self.z[:count], self.cut[:count], [m[:count] for m in self.noise], c)


def draw_inputs(
    draws: Draws, stream: str, step: int, generator: LatentGenerator
) -> tuple[Tensor, list[Tensor]]:
    """Draw a batch of latents [N, D_z] and noise maps, one per layer of the generator."""
    shapes = generator.noise_shapes()
    sizes = [generator.z_dim] + [torch.Size(shape).numel() for shape in shapes]
    z, *flat = draws.normal(stream, step, sum(sizes)).split(sizes, dim=1)
    return z, _maps(flat, shapes)


def draw_noise(draws: Draws, stream: str, step: int, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Draw a batch of noise maps, [N, *shape] for each of ``shapes``."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    return _maps(draws.normal(stream, step, sum(sizes)).split(sizes, dim=1), shapes)


def _maps(flat: Sequence[Tensor], shapes: list[tuple[int, ...]]) -> list[Tensor]:
    return [maps.reshape(-1, *shape) for maps, shape in zip(flat, shapes, strict=True)]


def draw_latents(
    draws: Draws,
    stream: str,
    step: int,
    *,
    z_dim: int,
    num_ws: int,
    noise_shapes: list[tuple[int, ...]],
    mixing_prob: float,
    c: Tensor | None,
) -> MixedLatents:
    """Draw a batch of latents, noise maps and mixing cuts.

    Args:
        stream: One name per phase, so that phases do not share samples.
        noise_shapes: One sample's map per layer, (1, R, R).
        mixing_prob: Share of samples that mix two latents.
        c: Labels, passed on.
    """
    sizes = [2 * z_dim] + [torch.Size(shape).numel() for shape in noise_shapes]
    z, *flat = draws.normal(stream, step, sum(sizes)).split(sizes, dim=1)
    noise = _maps(flat, noise_shapes)
    coin, place = draws.uniform(f"{stream}.mixing", step, 2).split(1, dim=1)
    cut = 1 + (place * (num_ws - 1)).long()
    cut = torch.where(coin < mixing_prob, cut, num_ws)
    return MixedLatents(z.reshape(-1, 2, z_dim), cut, noise, c)
