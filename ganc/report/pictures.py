"""The images of a report: the same inputs through every model, as PNG inside the page."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.data.grid import to_picture
from ganc.models.network import ImageGenerator, LatentGenerator, Translator
from ganc.models.sampling import (
    ImageSource,
    Inputs,
    InputSource,
    Latents,
    device_of,
    generate,
    iterate_samples,
)
from ganc.models.style import StyleGenerator
from ganc.progress import Progress
from ganc.report.entry import Entry

PIXEL_BUDGET = 3_200_000
"""Pixels of all samples together. A generated image takes 1.6 to 2.2 bytes a pixel as PNG and a
third more in base64, so the page stays under 10 MB with its interpolations."""

SAMPLES = range(4, 17)
"""Fewest and most samples per model, whatever the budget says."""

LARGEST_SIDE = 512
"""Larger samples are scaled down to this; a 1024 px image would take 2 MB of the page."""

STRIP_SIDE = 128
"""Likewise of interpolations, where the way matters and not the detail."""

KEY_LATENTS = 3
STEPS_BETWEEN = 4
"""Images from one key latent to the next."""


@dataclass(frozen=True)
class Column:
    """One input.

    Attributes:
        head: Short, above the column.
        title: What it is.
        is_key: Whether it is one that the others lie between.
    """

    head: str
    title: str
    is_key: bool = False


@dataclass(frozen=True)
class Row:
    """One model's images, or the inputs: PNG data URIs, one per column."""

    name: str
    images: list[str]


@dataclass(frozen=True)
class Gallery:
    """Images that are looked at together: a column per input, a row per model.

    Attributes:
        width, height: Pixels of every image in the page.
        full_side: The longer side of the images as they were made, where they were scaled down.
    """

    columns: list[Column]
    rows: list[Row]
    width: int
    height: int
    full_side: int | None

    @property
    def is_coarse(self) -> bool:
        """Whether single pixels should stay visible when an image is enlarged."""
        return max(self.width, self.height) <= 128


def samples_gallery(
    entries: Sequence[Entry],
    latents: Latents,
    inputs: ImageSource | None,
    *,
    device: torch.device,
    progress: Progress,
) -> Gallery | None:
    """Show the first inputs through every model; None for translators without inputs.

    Args:
        entries: Models of one kind, in the order of the rows.
        latents: What generators from latents start from.
        inputs: What translators start from; shown as the first row.
    Raises:
        InputError: An input cannot be read, or a model cannot take it.
    """
    first = entries[0].generator
    source: InputSource[Any] = latents
    given: list[Row] = []
    if not isinstance(first, Translator):
        num = num_samples(first.img_resolution, len(entries))
    elif inputs is None:
        return None
    else:
        source = inputs
        num = num_samples(_longer(inputs.pixels(first, range(1))), len(entries) + 1)
        num = num if inputs.count is None else min(num, inputs.count)
        given = [Row("input", _pngs(inputs.pixels(first, range(num)), LARGEST_SIDE))]

    def run(generator: ImageGenerator) -> Tensor:
        batches = iterate_samples(generator, source, num, batch=4)
        return torch.cat([images.cpu() for images in batches])

    names = [source.name(i).rpartition("/")[2] for i in range(num)]  # of a file, without folders
    columns = [Column(str(i), name) for i, name in enumerate(names)]
    return _gallery(columns, given, entries, run, LARGEST_SIDE, device, progress, "report: samples")


def num_samples(side: int, num_rows: int) -> int:
    """Return how many samples each of some models may show."""
    pixels = min(side, LARGEST_SIDE) ** 2 * num_rows
    return min(max(PIXEL_BUDGET // pixels, SAMPLES.start), SAMPLES.stop - 1)


def interpolation_gallery(
    entries: Sequence[Entry], latents: Latents, *, device: torch.device, progress: Progress
) -> Gallery | None:
    """Show the way between the latents of samples 0, 1, 2, …; None for translators.

    Straight lines in W where there is a mapping network (what it is there for), arcs on the sphere
    in z elsewhere. The label is the first sample's all along, noise the stored constants.
    """
    if not isinstance(entries[0].generator, LatentGenerator):
        return None
    last = (KEY_LATENTS - 1) * STEPS_BETWEEN
    positions = torch.arange(last + 1) / STEPS_BETWEEN
    columns = [_place(step) for step in range(len(positions))]
    run = partial(interpolate, latents=latents, positions=positions)
    return _gallery(
        columns, [], entries, run, STRIP_SIDE, device, progress, "report: interpolations"
    )


def _place(step: int) -> Column:
    key, part = divmod(step, STEPS_BETWEEN)
    if not part:
        return Column(str(key), f"sample {key}", is_key=True)
    share = f".{100 * part // STEPS_BETWEEN}"
    return Column(share, f"0{share} of the way from sample {key} to {key + 1}")


def interpolate(generator: ImageGenerator, *, latents: Latents, positions: Tensor) -> Tensor:
    """Return the images at some positions on the way 0 → 1 → 2 … through samples of a seed.

    Args:
        generator: Starts from latents.
        latents: Seed and truncation.
        positions: [N], from 0 on; 1.25 is a quarter of the way from sample 1 to sample 2.
    Returns:
        [N, img_channels, R, R], on the CPU.
    """
    assert isinstance(generator, LatentGenerator)
    const = replace(latents, noise_mode="const")
    keys = const.inputs(generator, range(int(positions.max().ceil()) + 1))
    if keys.c is not None:
        keys = replace(keys, c=keys.c[:1].expand_as(keys.c))
    if isinstance(generator, StyleGenerator):
        return _through_w(generator, keys, latents, positions)
    c = None if keys.c is None else keys.c[:1].expand(len(positions), -1)
    path = replace(keys, z=between(keys.z, positions, slerp), c=c)
    return generate(
        generator, path, truncation_psi=latents.truncation_psi,
        truncation_cutoff=latents.truncation_cutoff,
    ).cpu()  # fmt: skip


@torch.no_grad()
def _through_w(
    generator: StyleGenerator, keys: Inputs, latents: Latents, positions: Tensor
) -> Tensor:
    on_device = keys.to(device_of(generator))
    ws = generator.mapping(
        on_device.z, on_device.c, truncation_psi=latents.truncation_psi,
        truncation_cutoff=latents.truncation_cutoff,
    )  # fmt: skip
    path = between(ws, positions, torch.lerp)
    return torch.cat(
        [generator.synthesis(part, noise_mode="const").cpu() for part in path.split(4)]
    )


def between(
    keys: Tensor, positions: Tensor, mix: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the points at ``positions`` on the way through ``keys``."""
    start = positions.floor().long().clamp(max=len(keys) - 2)
    share = (positions - start).reshape(-1, *[1] * (keys.ndim - 1)).to(keys)
    start = start.to(keys.device)
    return mix(keys[start], keys[start + 1], share)


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Interpolate on the sphere: between normal vectors, whose lengths are nearly equal, a straight
    line would pass through shorter ones than the generator has ever seen.

    Source: Shoemake 1985, "Animating Rotation with Quaternion Curves".

    Args:
        a, b: [N, D].
        share: [N, 1], 0 gives ``a`` and 1 gives ``b``.
    """
    cosine = F.cosine_similarity(a, b, dim=-1).unsqueeze(-1)
    angle = cosine.clamp(-1, 1).acos().clamp(min=1e-4)  # the limit of equal vectors is a lerp
    return (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()


def _gallery(
    columns: list[Column],
    rows: Sequence[Row],
    entries: Sequence[Entry],
    run: Callable[[ImageGenerator], Tensor],
    largest_side: int,
    device: torch.device,
    progress: Progress,
    what: str,
) -> Gallery:
    """Run every model on one set of inputs; its rows come below those that are there."""
    rows = list(rows)
    for done, entry in enumerate(entries, start=1):
        images = run(entry.generator.copy_on(device))
        rows.append(Row(entry.name, _pngs(images, largest_side)))
        progress(what, done, len(entries))
    height, width = shrink(images, largest_side).shape[2:]
    full_side = _longer(images)
    return Gallery(columns, rows, width, height, full_side if full_side > largest_side else None)


def _longer(images: Tensor) -> int:
    return max(images.shape[2:])


def shrink(images: Tensor, largest_side: int) -> Tensor:
    """Scale images down, antialiased, until their longer side fits."""
    scale = largest_side / _longer(images)
    if scale >= 1:
        return images
    size = [max(1, math.floor(side * scale + 0.5)) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)


def _pngs(images: Tensor, largest_side: int) -> list[str]:
    return [_png(image) for image in shrink(images, largest_side)]


def _png(image: Tensor) -> str:
    """Return an image as a data URI. PNG: what JPEG does to an image looks like a model's fault."""
    file = io.BytesIO()
    to_picture(image).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
