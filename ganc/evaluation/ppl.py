"""Perceptual path length: how much an image changes along a short step in W.

Source: Karras et al. 2019 (StyleGAN), section 4.1, with the choices of the content-aware
compression code (Liu et al. 2021): two mapped latents, a point anywhere between them, and the point
``EPSILON`` further along the line; the distance of the two images, divided by the step's square.

- ``ppl``: LPIPS VGG, the same noise at both ends, as StyleGAN defines it. ``ppl-undivided`` is its
  mean before the division.
- ``perceptual-ppl``: the same on EfficientNet-Lite0.
- ``ppl-fresh-noise``: what the content-aware code's ``get_ppl.py`` prints. It draws other noise for
  every image and does not divide, so its number is mostly the distance that noise makes.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganc import seeds
from ganc.devices import exact_float32
from ganc.errors import InputError, UsageError
from ganc.evaluation.paired import PERCEPTUAL
from ganc.evaluation.task import Measurement, Task
from ganc.models.sampling import BATCH_UNIT
from ganc.models.style import StyleGenerator
from ganc.perceptual.channels import SEEN

EPSILON = 1e-4
PERCENTILES = (1, 99)
LARGEST_SIDE = 256
LPIPS = "lpips-vgg"

BLOCK = BATCH_UNIT
"""Pairs per pass, whatever ``--batch`` says; of the last pass some are thrown away.

A step changes an image so little that the order of a matrix product's sums, which goes by the
batch, would move the distance by 3e-4 of its value.
"""


class PathLength(Measurement):
    """Mean distance over ``EPSILON`` steps in W, without the shortest and longest percent.

    Pair k starts from the latents 2k and 2k + 1 of the seed, with the label of the first, and a
    position of its own; images are not clamped.

    Args:
        name: Of the value.
        network: A row of ``PERCEPTUAL_DISTANCES``.
        shares_noise: Whether both ends of a step see the same noise, or each its own.
    Raises:
        InputError: The model has no mapping network.
    """

    def __init__(self, task: Task, name: str, network: str, *, shares_noise: bool = True) -> None:
        self.task, self.name, self.shares_noise = task, name, shares_noise
        self.generator = style_generator(task, name)
        self.distance = task.distance(name, network)
        self.pairs = task.samples(name)

    def result(self) -> dict[str, float]:
        mean = float(trimmed(self.distances()).mean())
        if not self.shares_noise:
            return {self.name: mean}  # most of it is noise, which no step divides
        return {self.name: mean / EPSILON**2, f"{self.name}-undivided": mean}

    def protocol(self) -> dict[str, Any]:
        settings = self.task.settings
        return {
            "pairs": self.pairs,
            "seed": settings.seed,
            "truncation_psi": settings.truncation_psi,
            "noise_mode": settings.noise_mode,
            **self.task.labels_protocol,
            "space": "w, whole path",
            "epsilon": EPSILON,
            "percentiles": list(PERCENTILES),
            "noise": "the same at both ends" if self.shares_noise else "other at each end",
            "crop": "none",
            "resize": f"bilinear to {LARGEST_SIDE} from {2 * LARGEST_SIDE} px on",
            "range": "not clamped",
            "quantisation": "none",
            **self.task.protocol_of(self.distance),
        }

    @torch.no_grad()
    def distances(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the distance of every pair, [pairs], not divided."""
        parts: list[Tensor] = []
        with exact_float32():
            for start in range(0, self.pairs, BLOCK):
                near, far = (shrunk(end) for end in self.images(range(start, start + BLOCK)))
                parts.append(self.distance(near, far).cpu().double())
                self.task.progress(f"{self.name} pairs", min(start + BLOCK, self.pairs), self.pairs)
        return torch.cat(parts)[: self.pairs].numpy()

    def images(self, pairs: range) -> tuple[Tensor, Tensor]:
        """Return the images at both ends of some steps, [N, C, R, R] each."""
        settings, generator = self.task.settings, self.generator
        both = range(2 * pairs.start, 2 * pairs.stop)
        inputs = self.task.latents.inputs(generator, both)
        labels = None if inputs.c is None else inputs.c[::2].repeat_interleave(2, dim=0)
        ws = generator.mapping(
            inputs.z.to(self.task.device),
            None if labels is None else labels.to(self.task.device),
            truncation_psi=settings.truncation_psi,
        )
        noise = None
        if inputs.noise is not None:
            ends = (0, 0) if self.shares_noise else (0, 1)
            noise = [
                torch.cat([maps[end::2] for end in ends]).to(self.task.device)
                for maps in inputs.noise
            ]
        images: Tensor = generator.synthesis(
            torch.cat(steps(ws[::2], ws[1::2], self.positions(pairs))),
            noise_mode=settings.noise_mode, noise=noise,
        )  # fmt: skip
        near, far = images.chunk(2)
        return near, far

    def positions(self, pairs: range) -> Tensor:
        """Return where on its path each step starts, [N], float64, uniform in [0, 1)."""
        seed = self.task.settings.seed
        draws = [seeds.generator(seed, "ppl", k).random() for k in pairs]
        return torch.tensor(draws, dtype=torch.float64)


def steps(start: Tensor, end: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points at ``positions`` and ``EPSILON`` further on the lines from start to end.

    In float64 until the last rounding: ``EPSILON`` has three digits left beside a float32 position.

    Args:
        start, end: [N, L, D_w].
        positions: [N], float64.
    """
    t = positions.to(start.device)[:, None, None]
    way = end.double() - start.double()
    near, far = (start.double() + way * (t + step) for step in (0.0, EPSILON))
    return near.to(start.dtype), far.to(start.dtype)


def shrunk(images: Tensor) -> Tensor:
    """Scale images of 512 px and more to 256, bilinear without antialiasing, as the source does."""
    if images.shape[2] // LARGEST_SIDE < 2:
        return images
    return F.interpolate(images, size=(LARGEST_SIDE, LARGEST_SIDE), mode="bilinear")


def trimmed(
    distances: np.ndarray[Any, np.dtype[np.float64]],
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Drop what lies beyond the 1st and the 99th percentile, themselves kept.

    A percentile that falls between two distances is the outer one, so up to 101 nothing goes.
    """
    low, high = PERCENTILES
    lowest = np.percentile(distances, low, method="lower")
    highest = np.percentile(distances, high, method="higher")
    return distances[(distances >= lowest) & (distances <= highest)]


def style_generator(task: Task, metric: str) -> StyleGenerator:
    """Return the model's generator.

    Raises:
        InputError: It has no W: it is no StyleGAN.
    """
    generator = task.generator
    if not isinstance(generator, StyleGenerator):
        raise InputError(
            f"{metric} needs a model with a mapping network (stylegan2, stylegan3), the model is a"
            f" {generator.architecture}",
            "perceptual-diversity takes any" if generator.img_channels in SEEN else None,
        )
    return generator


def ppl(task: Task) -> PathLength:
    """Perceptual path length on LPIPS VGG, whatever ``--perceptual`` says; lower is smoother."""
    return PathLength(task, "ppl", LPIPS)


def perceptual_ppl(task: Task) -> PathLength:
    """The same on EfficientNet-Lite0. Not comparable with a PPL."""
    return PathLength(task, "perceptual-ppl", PERCEPTUAL)


def ppl_fresh_noise(task: Task) -> PathLength:
    """The content-aware compression code's number: other noise at each end, not divided.

    Raises:
        UsageError: ``noise_mode`` is not "random".
    """
    if task.settings.noise_mode != "random":
        raise UsageError(
            f"ppl-fresh-noise draws noise, --noise-mode {task.settings.noise_mode} does not",
            "leave --noise-mode out, or measure ppl",
        )
    return PathLength(task, "ppl-fresh-noise", LPIPS, shares_noise=False)
