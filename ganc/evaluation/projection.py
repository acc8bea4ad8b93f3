"""How well real images can be found again among a model's own: ``projection``.

What the content-aware compression code does (Liu et al. 2021, its first release; the published
folder lacks the projector since): from the mean w, L-BFGS with a Wolfe line search moves one w per
layer (W+) and the noise maps, until mean squared error plus LPIPS to the real image is least. The
noise is not regularised. Each image is projected by itself, so neither its neighbours nor the batch
size move its result.

- ``projection``: LPIPS VGG of the image found; ``projection-psnr`` beside it.
- ``perceptual-projection``: EfficientNet-Lite0 in LPIPS's place, in the loss as well.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.data.images import to_float
from ganc.devices import exact_float32
from ganc.errors import ComputationError
from ganc.evaluation.paired import PERCEPTUAL, decibels
from ganc.evaluation.ppl import LPIPS, style_generator
from ganc.evaluation.sampling import RunningMean
from ganc.evaluation.task import Measurement, Task

MEAN_OF = 10_000
"""Latents whose mapped mean is the starting point."""

LARGEST_SIDE = 256
HISTORY = 10
EVALUATIONS_PER_STEP = 25  # what torch's line search may take; most steps take one

_CHUNK = 1000


class Projection(Measurement):
    """Mean distance of the first real images to what the model can make of them.

    Args:
        name: Of the value.
        network: A row of ``PERCEPTUAL_DISTANCES``, in the loss and in the result.
    Raises:
        InputError: The model has no mapping network.
    """

    def __init__(self, task: Task, name: str, network: str) -> None:
        assert task.dataset is not None  # the table of metrics says that it is needed
        self.task, self.name, self.dataset = task, name, task.dataset
        self.generator = style_generator(task, name)
        self.distance = task.distance(name, network)
        self.images = min(task.settings.projection_images, len(self.dataset))

    def result(self) -> dict[str, float]:
        distances, psnr = RunningMean(), RunningMean()
        steps = self.task.settings.projection_steps
        with exact_float32():
            start = mean_ws(self.task)
            for index in range(self.images):
                target = to_float(self.dataset.image(index))[None].to(self.task.device)
                found = self.project(target, start, index).clamp(-1, 1)
                distances.update(self._distance(found, target))
                psnr.update(decibels(found, target))
                self.task.progress(f"{self.name} steps", (index + 1) * steps, self.images * steps)
        return {self.name: distances.mean, f"{self.name}-psnr": psnr.mean}

    def protocol(self) -> dict[str, Any]:
        settings = self.task.settings
        return {
            "images": self.images,
            "data": self.dataset.content_hash,
            "seed": settings.seed,
            **self.task.labels_protocol,
            "steps": settings.projection_steps,
            "space": "w of every layer",
            "noise": "optimised" if settings.noise_mode == "random" else settings.noise_mode,
            "start": f"mean w of {MEAN_OF} latents",
            "optimiser": f"L-BFGS, strong Wolfe, history {HISTORY}",
            "loss": f"mse + {self.distance.name}",
            "resize": f"area to {LARGEST_SIDE} above that, for the network",
            "range": [-1, 1],
            "quantisation": "none",
            **self.task.protocol_of(self.distance),
        }

    def project(self, target: Tensor, start: Tensor, index: int) -> Tensor:
        """Return the model's image most like a real one.

        Args:
            target: [1, C, R, R], in [-1, 1].
            start: ws to begin with, [1, L, D_w].
            index: Which image it is: the key of its first noise.
        Returns:
            [1, C, R, R], not clamped.
        Raises:
            ComputationError: The search left the finite numbers.
        """
        ws = start.clone().requires_grad_()
        noise = self._first_noise(index)
        inputs = [ws, *(noise or [])]
        steps, mode = self.task.settings.projection_steps, self.task.settings.noise_mode
        search = torch.optim.LBFGS(
            inputs, lr=1, max_iter=steps, max_eval=steps * EVALUATIONS_PER_STEP,
            tolerance_grad=0, tolerance_change=0, history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def loss() -> Tensor:
            search.zero_grad()
            image = self.generator.synthesis(ws, noise_mode=mode, noise=noise)
            value = F.mse_loss(image, target) + self._distance(image.clamp(-1, 1), target).sum()
            value.backward(inputs=inputs)
            done = search.state[ws].get("n_iter", 0)
            self.task.progress(f"{self.name} steps", index * steps + done, self.images * steps)
            return value

        search.step(loss)
        if not all(tensor.isfinite().all() for tensor in inputs):
            raise ComputationError(
                f"{self.name}: the search for image {index} of {self.dataset.source.path} left the"
                " finite numbers",
                "try fewer --projection-steps",
            )
        with torch.no_grad():
            image: Tensor = self.generator.synthesis(ws, noise_mode=mode, noise=noise)
        return image

    def _first_noise(self, index: int) -> list[Tensor] | None:
        """Return the noise maps to begin with; None where they are not optimised."""
        maps = self.task.latents.inputs(self.generator, range(index, index + 1)).noise
        return maps and [map_.to(self.task.device).requires_grad_() for map_ in maps]

    def _distance(self, images: Tensor, target: Tensor) -> Tensor:
        return self.distance(shrunk(images), shrunk(target))


def shrunk(images: Tensor) -> Tensor:
    """Scale images of more than 256 px to 256 by the means of their pixels."""
    if images.shape[2] <= LARGEST_SIDE:
        return images
    return F.interpolate(images, size=(LARGEST_SIDE, LARGEST_SIDE), mode="area")


@torch.no_grad()
def mean_ws(task: Task) -> Tensor:
    """Return the mean of ``MEAN_OF`` mapped latents of the seed, [1, L, D_w]."""
    generator = style_generator(task, "projection")
    without_noise = replace(task.latents, noise_mode="none")
    total = torch.zeros((), dtype=torch.float64, device=task.device)
    for start in range(0, MEAN_OF, _CHUNK):
        indices = range(start, start + _CHUNK)
        drawn = without_noise.inputs(generator, indices).to(task.device)
        ws = generator.mapping(drawn.z, drawn.c)
        total = total + ws.double().sum(dim=0, keepdim=True)
    return (total / MEAN_OF).float()


def projection(task: Task) -> Projection:
    """LPIPS VGG between real images and their projections; lower is better."""
    return Projection(task, "projection", LPIPS)


def perceptual_projection(task: Task) -> Projection:
    """The same with EfficientNet-Lite0. Not LPIPS."""
    return Projection(task, "perceptual-projection", PERCEPTUAL)
