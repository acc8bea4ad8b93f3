"""Images from latents: sample i of a seed is the same in every command.

Latent, label and noise of sample i depend only on (seed, i) and are drawn on the CPU in float32,
so batch size, device and the other samples change nothing. Two generators with the same latent and
noise sizes (teacher and student) get the same inputs.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ganc import seeds
from ganc.devices import resolve_device
from ganc.errors import UsageError, unknown_name
from ganc.models.model import Model
from ganc.models.network import NOISE_MODES, LatentGenerator

BATCH_UNIT = 4
"""Samples are generated in multiples of this.

CPU matrix kernels work on blocks of rows and add the rows that are left in another order, which
moves an image by 1e-6, now and then one of its 8-bit pixels by a level, and ``fd`` by 1e-3. In
whole blocks the images are the same bit for bit at every batch size.
"""


@dataclass(frozen=True)
class Inputs:
    """What a generator turns into N images.

    Attributes:
        z: [N, D_z], standard normal.
        c: [N, D_c], one-hot, or None where the generator takes no label. Replace it
            (``dataclasses.replace``) to ask for labels of your own.
        noise: One map [N, 1, R, R] per layer where ``noise_mode`` is "random", else None.
        noise_mode: "random" (drawn per sample, here), "const" (the generator's stored maps) or
            "none".
    """

    z: Tensor
    c: Tensor | None
    noise: list[Tensor] | None
    noise_mode: str

    def to(self, device: torch.device | str) -> "Inputs":
        """Return a copy on another device."""
        return replace(
            self,
            z=self.z.to(device),
            c=None if self.c is None else self.c.to(device),
            noise=None if self.noise is None else [maps.to(device) for maps in self.noise],
        )


def latent_inputs(
    generator: LatentGenerator,
    indices: Sequence[int] | range,
    seed: int,
    *,
    noise_mode: str = "random",
) -> Inputs:
    """Draw the inputs of some samples.

    Args:
        generator: Says the sizes; its weights are not looked at.
        indices: Which samples of the seed.
        seed: Feeds the streams "latents", "labels" and "noise".
        noise_mode: See ``Inputs``.
    Returns:
        Inputs on the CPU. A conditional generator gets one class per sample, uniform over its
        ``c_dim``.
    Raises:
        UsageError: ``noise_mode`` is not known.
    """
    if noise_mode not in NOISE_MODES:
        raise unknown_name("noise_mode", noise_mode, NOISE_MODES)
    noise = None
    if noise_mode == "random":
        noise = seeds.noise_maps(seed, "noise", indices, generator.noise_shapes())
    return Inputs(
        z=seeds.normal(seed, "latents", indices, (generator.z_dim,)),
        c=_labels(seed, indices, generator.c_dim) if generator.c_dim else None,
        noise=noise,
        noise_mode=noise_mode,
    )


def _labels(seed: int, indices: Sequence[int] | range, c_dim: int) -> Tensor:
    classes = [int(seeds.generator(seed, "labels", i).integers(c_dim)) for i in indices]
    return one_hot(classes, c_dim)


@torch.no_grad()
def generate(
    generator: LatentGenerator,
    inputs: Inputs,
    *,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
) -> Tensor:
    """Run a generator on inputs, on the generator's device, without gradient.

    Returns:
        [N, img_channels, R, R], float32, nominal range [-1, 1], not clamped.
    """
    on_device = inputs.to(next(generator.parameters()).device)
    images: Tensor = generator(
        on_device.z,
        on_device.c,
        truncation_psi=truncation_psi,
        truncation_cutoff=truncation_cutoff,
        noise_mode=on_device.noise_mode,
        noise=on_device.noise,
    )
    return images


def iterate_samples(
    generator: LatentGenerator,
    num: int,
    seed: int,
    *,
    batch: int,
    noise_mode: str = "random",
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    labels: Sequence[int] | None = None,
) -> Iterator[Tensor]:
    """Yield samples 0 … ``num`` - 1 of a seed, in order.

    Sample i has the same bits whatever ``num`` and ``batch`` are: batches are rounded up to whole
    blocks of ``BATCH_UNIT``, the last one with samples that are thrown away.

    Args:
        batch: Images per forward pass, rounded up to a multiple of ``BATCH_UNIT``.
        labels: Classes of the images, repeated as often as needed; None draws them.
    Returns:
        Batches [n, img_channels, R, R] as ``generate`` gives them.
    Raises:
        UsageError: ``batch`` is below 1, ``noise_mode`` is not known, or a label is not a class.
    """
    if batch < 1:
        raise UsageError(f"--batch must be at least 1, got {batch}")
    size = _whole_blocks(batch)
    for start in range(0, num, size):
        count = min(size, num - start)
        indices = range(start, start + _whole_blocks(count))
        inputs = latent_inputs(generator, indices, seed, noise_mode=noise_mode)
        if labels is not None:
            classes = [labels[i % len(labels)] for i in indices]
            inputs = replace(inputs, c=one_hot(classes, generator.c_dim))
        images = generate(
            generator, inputs, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff
        )
        yield images[:count]


def _whole_blocks(count: int) -> int:
    return -(-count // BATCH_UNIT) * BATCH_UNIT


def sample(
    model: Model,
    num: int = 16,
    *,
    seed: int = 0,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    labels: Sequence[int] | None = None,
    noise_mode: str = "const",
    batch: int = 16,
    device: str | torch.device = "auto",
) -> Tensor:
    """Generate images to look at.

    Args:
        model: The model; it stays where it is.
        num: Number of images.
        Others: See ``iterate_samples``.
    Returns:
        [num, img_channels, R, R], float32 on the CPU, nominal range [-1, 1], not clamped.
    Raises:
        UsageError: The model has no generator that takes latents, a number is out of range, or a
            label is not one of its classes.
    """
    generator = model.generator
    if not isinstance(generator, LatentGenerator):
        raise UsageError("the model has no generator that takes latents")
    if num < 1:
        raise UsageError(f"-n {num} must be at least 1")
    batches = iterate_samples(
        copy.deepcopy(generator).to(resolve_device(device)).eval(), num, seed, batch=batch,
        noise_mode=noise_mode, truncation_psi=truncation_psi,
        truncation_cutoff=truncation_cutoff, labels=labels,
    )  # fmt: skip
    return torch.cat([images.cpu() for images in batches])


def one_hot(classes: Sequence[int], c_dim: int) -> Tensor:
    """Return labels [N, c_dim] of class numbers.

    Raises:
        UsageError: A class is not below ``c_dim``.
    """
    for label in classes:
        if not 0 <= label < c_dim:
            found = f"has {c_dim} classes" if c_dim else "takes no labels"
            raise UsageError(f"--labels {label}: the model {found}")
    return torch.eye(c_dim)[list(classes)]
