"""``ganc.sample``: images to look at, from latents or from other images."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ganc.data.grid import side_by_side
from ganc.data.inputs import open_inputs, open_source
from ganc.data.label_tables import read_label_file
from ganc.devices import resolve_device
from ganc.errors import ComputationError, GancError, InputError, UsageError
from ganc.models.labels import LabelTable, as_table
from ganc.models.model import Model
from ganc.models.network import ImageGenerator, LatentGenerator, Translator
from ganc.models.sampling import Latents, iterate_samples, pick_generator
from ganc.progress import Warn, ignore

_DEFAULTS = Latents(noise_mode="const")

Labels = Sequence[int] | Sequence[Sequence[float]] | Tensor | str | os.PathLike[str]
"""Class numbers [N] or vectors [N, D_c], or the JSON file that holds them."""


def sample(
    model: Model,
    num: int = 16,
    *,
    seed: int = 0,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    labels: Labels | None = None,
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
        seed, truncation_psi, truncation_cutoff, noise_mode: See ``Latents``; they and ``labels``
            go with generators that take latents.
        labels: Of a conditional generator's images, repeated as often as needed: class numbers [N],
            vectors [N, D_c], or a file, see ``read_label_file``. None draws uniform classes.
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
        InputError: The model has no such generator; ``input``, or a file of ``labels``, cannot
            serve.
        ComputationError: An image is not finite.
    """
    if num < 1:
        raise UsageError(f"-n {num} must be at least 1")
    if resize and input is None:
        raise UsageError("--resize scales the images of --input, got none", "leave --resize out")
    generator = pick_generator(model, network)
    table = None if labels is None else _open_labels(labels, generator)
    latents = Latents(seed, noise_mode, truncation_psi, truncation_cutoff, table)
    source = open_source(generator, latents, input, defaults=_DEFAULTS, resize=resize, warn=warn)
    if source is None:
        raise UsageError(
            f"the model is a {generator.architecture} that translates images, got none",
            "pass --input with an image, folder or zip",
        )
    count = num if source.count is None else min(num, source.count)
    own = generator.copy_on(resolve_device(device))
    made = [images.cpu() for images in iterate_samples(own, source, count, batch=batch)]
    images = torch.cat(made)
    if not images.isfinite().all():
        raise ComputationError("the model gives images that are not finite")
    return images


def _open_labels(labels: Labels, generator: ImageGenerator) -> LabelTable:
    """Return labels that were asked for.

    Raises:
        UsageError: They are none, or do not fit the generator.
        DataError, InputError: The same, of a file.
    """
    kind: type[GancError]
    if isinstance(labels, str | os.PathLike):
        table, where, kind = read_label_file(labels), str(labels), InputError
    else:
        table, where, kind = as_table(labels), "--labels", UsageError
    problem = table.misfit(generator.c_dim) if isinstance(generator, LatentGenerator) else None
    if problem:
        raise kind(f"{where}: {problem}")
    return table


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
