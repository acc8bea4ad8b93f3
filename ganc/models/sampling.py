"""Images from latents or from other images: sample i is the same in every command.

A generator's inputs come from an ``InputSource``: the latents of a seed (``Latents``) or pictures
(``ImageSource``). Input i depends on the source and on i alone and is made on the CPU in float32,
so batch size, device and the other samples change nothing. Two generators that take the same inputs
(teacher and student) get the same ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ganc import seeds
from ganc.errors import InputError, UsageError, unknown_name
from ganc.models.labels import LabelTable
from ganc.models.model import Model
from ganc.models.network import NOISE_MODES, ImageGenerator, LatentGenerator, Translator

GENERATORS = ("generator", "generator_b")
"""The networks that make images; ``generator_b`` is a CycleGAN's other direction."""

BATCH_UNIT = 4
"""Latents are turned into images in multiples of this.

CPU matrix kernels work on blocks of rows and add the rows that are left in another order, which
moves an image by 1e-6, now and then one of its 8-bit pixels by a level, and ``fd`` by 1e-3. In
whole blocks the images of AMD's processors are the same bit for bit at every batch size. On Intel's
with AVX-512, products of some widths are in blocks of 16: their rounding still depends on it.
"""

LARGEST_IN_BLOCKS = 256
"""Pixels per side above which a batch is what was asked for: three images that nobody wanted may
need more memory than there is, which weighs more than the last bits of one."""

Feed = Callable[[], Tensor]
"""Runs a generator on inputs that lie on its device: [N, img_channels, H, W], no gradient."""

G_contra = TypeVar("G_contra", bound=ImageGenerator, contravariant=True)


@dataclass(frozen=True)
class Inputs:
    """What a generator turns into N images.

    Attributes:
        z: [N, D_z], standard normal.
        c: [N, D_c], one-hot for classes, or None where the generator takes no label. Replace it
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
    labels: LabelTable | None = None,
) -> Inputs:
    """Draw the inputs of some samples.

    Args:
        generator: Says the sizes; its weights are not looked at.
        indices: Which samples of the seed.
        seed: Feeds the streams "latents", "labels" and "noise".
        noise_mode: See ``Inputs``.
        labels: Where a conditional generator's labels come from; None draws one class per sample,
            uniform over its ``c_dim``.
    Returns:
        Inputs on the CPU.
    Raises:
        UsageError: ``noise_mode`` is not known, or ``labels`` do not fit the generator.
    """
    if noise_mode not in NOISE_MODES:
        raise unknown_name("noise_mode", noise_mode, NOISE_MODES)
    if labels is None and generator.c_dim:
        labels = LabelTable.every_class(generator.c_dim)
    noise = None
    if noise_mode == "random":
        noise = seeds.noise_maps(seed, "noise", indices, generator.noise_shapes())
    return Inputs(
        z=seeds.normal(seed, "latents", indices, (generator.z_dim,)),
        c=None if labels is None else labels.rows(indices, seed, generator.c_dim),
        noise=noise,
        noise_mode=noise_mode,
    )


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
    on_device = inputs.to(device_of(generator))
    images: Tensor = generator(
        on_device.z,
        on_device.c,
        truncation_psi=truncation_psi,
        truncation_cutoff=truncation_cutoff,
        noise_mode=on_device.noise_mode,
        noise=on_device.noise,
    )
    return images


def noise_images(generator: Translator, indices: Sequence[int] | range, seed: int) -> Tensor:
    """Draw pictures that stand in for real ones where cost or agreement is measured.

    Returns:
        [N, in_channels, R, R], float32 on the CPU, in [-1, 1]: clamped normal noise.
    """
    side = generator.img_resolution
    return seeds.normal(seed, "images", indices, (generator.in_channels, side, side)).clamp(-1, 1)


@torch.no_grad()
def translate(generator: Translator, x: Tensor) -> Tensor:
    """Run a translator on images, on the generator's device, without gradient.

    Args:
        x: [N, in_channels, H, W], in [-1, 1].
    Returns:
        [N, img_channels, H, W], float32, nominal range [-1, 1], not clamped.
    """
    images: Tensor = generator(x.to(device_of(generator)))
    return images


def device_of(generator: ImageGenerator) -> torch.device:
    """Return where a generator lies."""
    return next(generator.parameters()).device


class InputSource(ABC, Generic[G_contra]):
    """Where a generator's inputs come from: the latents of a seed, the images of a folder."""

    def block(self, generator: G_contra) -> int:
        """Return the number of which batches are multiples, so that they change no bit."""
        return 1

    @property
    def count(self) -> int | None:
        """How many inputs there are; None where there is no end to them."""
        return None

    @abstractmethod
    def feed(self, generator: G_contra, indices: range) -> Feed:
        """Bring some inputs to a generator's device; return what runs it on them."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what errors call an input."""

    def images(self, generator: G_contra, indices: range) -> Tensor:
        """Return the images of some inputs, as ``generate`` and ``translate`` do."""
        return self.feed(generator, indices)()


@dataclass(frozen=True)
class Latents(InputSource[LatentGenerator]):
    """The latents, labels and noise of a seed, without end.

    Attributes:
        seed, noise_mode, labels: See ``latent_inputs``.
        truncation_psi, truncation_cutoff: See ``generate``.
    Raises:
        UsageError: ``truncation_psi`` is not a finite number in float32, or the cutoff negative.
    """

    seed: int = 0
    noise_mode: str = "random"
    truncation_psi: float = 1.0
    truncation_cutoff: int | None = None
    labels: LabelTable | None = None

    def __post_init__(self) -> None:
        if not abs(self.truncation_psi) <= torch.finfo(torch.float32).max:  # NaN neither
            raise UsageError(
                f"--truncation {self.truncation_psi} is not a finite number",
                "1 changes nothing, 0.7 is usual",
            )
        if self.truncation_cutoff is not None and self.truncation_cutoff < 0:
            raise UsageError(
                f"--truncation-cutoff {self.truncation_cutoff} is not a number of layers",
                "0 truncates none, without it all are",
            )

    def block(self, generator: LatentGenerator) -> int:
        return BATCH_UNIT if generator.img_resolution <= LARGEST_IN_BLOCKS else 1

    def inputs(self, generator: LatentGenerator, indices: range) -> Inputs:
        """Return some inputs, on the CPU."""
        return latent_inputs(
            generator, indices, self.seed, noise_mode=self.noise_mode, labels=self.labels
        )

    def protocol(self, generator: LatentGenerator) -> dict[str, Any]:
        """Say which labels samples have, as JSON data; nothing where the generator takes none."""
        if not generator.c_dim:
            return {}
        if self.labels is None:
            return {"labels": "uniform"}
        how = "in turn" if self.labels.in_turn else "drawn from the data"
        return {"labels": how, "labels_sha256": self.labels.content_hash}

    def feed(self, generator: LatentGenerator, indices: range) -> Feed:
        return partial(
            generate, generator, self.inputs(generator, indices).to(device_of(generator)),
            truncation_psi=self.truncation_psi, truncation_cutoff=self.truncation_cutoff,
        )  # fmt: skip

    def name(self, index: int) -> str:
        return f"sample {index} of seed {self.seed}"


class ImageSource(InputSource[Translator]):
    """Pictures for a translator."""

    @abstractmethod
    def pixels(self, generator: Translator, indices: range) -> Tensor:
        """Return some of them: [N, in_channels, H, W], float32 on the CPU, in [-1, 1]."""

    def feed(self, generator: Translator, indices: range) -> Feed:
        return partial(
            translate, generator, self.pixels(generator, indices).to(device_of(generator))
        )


@dataclass(frozen=True)
class NoiseImages(ImageSource):
    """The stand-ins of ``noise_images``, without end."""

    seed: int = 0

    def pixels(self, generator: Translator, indices: range) -> Tensor:
        return noise_images(generator, indices, self.seed)

    def name(self, index: int) -> str:
        return f"noise image {index} of seed {self.seed}"


def stand_ins(generator: ImageGenerator, seed: int) -> InputSource[Any]:
    """Return inputs that need nothing from outside, for what depends on their shape alone."""
    if isinstance(generator, Translator):
        return NoiseImages(seed)
    return Latents(seed, "const")


def iterate_samples(
    generator: ImageGenerator, source: InputSource[Any], num: int, *, batch: int
) -> Iterator[Tensor]:
    """Yield samples 0 … ``num`` - 1 of a source, in order.

    From latents, up to ``LARGEST_IN_BLOCKS`` px, sample i has the same bits whatever ``num`` and
    ``batch`` are: batches are rounded up to whole blocks, the last one with samples that are thrown
    away.

    Args:
        batch: Images per forward pass, rounded up to a multiple of the source's block.
    Returns:
        Batches [n, img_channels, H, W], on the generator's device.
    Raises:
        UsageError: ``batch`` is below 1, or the source does not fit the generator.
    """
    if batch < 1:
        raise UsageError(f"--batch must be at least 1, got {batch}")
    block = source.block(generator)
    size = _whole_blocks(batch, block)
    for start in range(0, num, size):
        count = min(size, num - start)
        indices = range(start, start + _whole_blocks(count, block))
        yield source.images(generator, indices)[:count]


def _whole_blocks(count: int, block: int) -> int:
    return -(-count // block) * block


def pick_generator(
    model: Model, network: str = "generator", *, what: str = "the model"
) -> ImageGenerator:
    """Return one of a model's generators.

    Args:
        network: A name in ``GENERATORS``.
        what: How an error calls the model.
    Raises:
        UsageError: ``network`` is not known.
        InputError: The model holds no such network.
    """
    if network not in GENERATORS:
        raise unknown_name("--network", network, GENERATORS)
    found = dict(model.networks())
    generator = found.get(network)
    if not isinstance(generator, ImageGenerator):
        raise InputError(
            f"{what} holds no {network}, but {', '.join(found)}",
            f"import it with the file of its {network}",
        )
    return generator
