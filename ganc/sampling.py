"""``ganc.sample``: images to look at, from latents or from other images."""

import copy
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ganc.data.grid import side_by_side
from ganc.data.inputs import open_inputs, open_source
from ganc.devices import resolve_device
from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.models.network import Translator
from ganc.models.sampling import Latents, iterate_samples, pick_generator
from ganc.progress import Warn, ignore

_DEFAULTS = Latents(noise_mode="const")


def sample(
    model: Model,
    num: int = 16,
    *,
    seed: int = 0,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    labels: Sequence[int] | None = None,
    noise_mode: str = "const",
    input: str | os.PathLike[str] | None = None,
    resize: bool = False,
    network: str = "generator",
    batch: int = 16,
    device: str | torch.device = "auto",
    warn: Warn = ignore,
) -> Tensor:
    """Generate images to look at.

    Args:
        model: The model; it stays where it is.
        num: Number of images; of a folder at most so many.
        seed, truncation_psi, truncation_cutoff, labels, noise_mode: See ``Latents``; they go with
            generators that take latents.
        input: The images that a translator translates: a file, a folder or a zip.
        resize: Scale these (squares) to the translator's resolution; else they may have any one
            size that it can take.
        network: "generator", or "generator_b" for a CycleGAN's other direction.
        batch: Images per forward pass; it changes no image.
        device: Where to compute.
        warn: Told what is left out of ``input``, and of values that cannot be meant.
    Returns:
        [num, img_channels, H, W], float32 on the CPU, nominal range [-1, 1], not clamped.
    Raises:
        UsageError: A value is out of range, or an argument does not go with the model.
        InputError: The model has no such generator, or ``input`` cannot serve.
    """
    if num < 1:
        raise UsageError(f"-n {num} must be at least 1")
    if resize and input is None:
        raise UsageError("--resize scales the images of --input, got none", "leave --resize out")
    generator = pick_generator(model, network)
    latents = Latents(seed, noise_mode, truncation_psi, truncation_cutoff, labels)
    source = open_source(generator, latents, input, defaults=_DEFAULTS, resize=resize, warn=warn)
    if source is None:
        raise UsageError(
            f"the model is a {generator.architecture} that translates images, got none",
            "pass --input IMG|DIR",
        )
    count = num if source.count is None else min(num, source.count)
    own = copy.deepcopy(generator).to(resolve_device(device)).eval()
    return torch.cat([images.cpu() for images in iterate_samples(own, source, count, batch=batch)])


def beside_inputs(
    model: Model,
    images: Tensor,
    input: str | os.PathLike[str],
    *,
    resize: bool = False,
    network: str = "generator",
) -> Tensor:
    """Put each translation of ``sample`` to the right of the image it was made from.

    Args:
        images: [N, img_channels, H, W].
        Others: As in ``sample``.
    Returns:
        [N, C, H, 2 · W], C the larger number of channels of the two.
    Raises:
        InputError: See ``sample``.
    """
    generator = pick_generator(model, network)
    if not isinstance(generator, Translator):
        raise UsageError(f"a {generator.architecture} is not given images")
    given = open_inputs(input, generator, resize=resize).pixels(generator, range(len(images)))
    return side_by_side(given, images)
