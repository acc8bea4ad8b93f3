"""The last part of a fit: all layers together, on the teacher's images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ganc import seeds
from ganc.errors import ComputationError
from ganc.models.network import ImageGenerator
from ganc.models.sampling import ImageSource, Latents, device_of
from ganc.progress import Progress
from ganc.pruning.options import JOINT_BATCH
from ganc.pruning.refit.rows import SharedInputs

LR = 0.015
"""Of Adam, relative to the root mean square of what moves, which families store at other sizes."""
BETAS = (0.9, 0.99)
STORED = 2**26
"""Numbers of the teacher's images that are kept in memory; so many samples take part."""


def fit_jointly(
    student: ImageGenerator,
    teacher: ImageGenerator,
    samples: SharedInputs,
    steps: int,
    progress: Progress,
) -> tuple[float, float]:
    """Bring a generator's images nearer to its teacher's: mean L1, Adam, a cosine to rest.

    What ``fit_layers`` names moves, weights and styles; norms, biases and noise stay. In place, and
    never for the worse.

    Returns:
        The mean L1 distance over all samples that take part, before and after.
    Raises:
        ComputationError: A distance is not finite.
    """
    count = min(samples.count, max(1, STORED // (student.img_channels * student.img_resolution**2)))
    with torch.no_grad():
        parts = _parts(range(count), samples.batch)
        goals = torch.cat([_images(teacher, samples, part).cpu() for part in parts])
    moving = _movable(student)
    kept = [tensor.detach().clone() for tensor in moving]
    before = _distance(student, samples, goals)
    if before == 0:
        return before, before
    rates = [{"params": [tensor], "lr": LR * float(_size(tensor))} for tensor in moving]
    # A rate of its own makes each tensor a group: unfused, that is a dozen kernels for every one.
    optimizer = torch.optim.Adam(rates, betas=BETAS, fused=device_of(student).type == "cuda")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        drawn = seeds.generator(samples.seed, "refit/joint", step)
        chosen = sorted(drawn.choice(count, min(JOINT_BATCH, count), replace=False).tolist())
        _step(student, samples, goals, chosen, optimizer)
        schedule.step()
        progress("fitting together", step + 1, steps)
    student.requires_grad_(False)
    after = _distance(student, samples, goals)
    if not after < before:
        with torch.no_grad():
            for tensor, old in zip(moving, kept, strict=True):
                tensor.copy_(old)
        return before, before
    return before, after


def _movable(student: ImageGenerator) -> list[Tensor]:
    student.requires_grad_(False)
    moving: list[Tensor] = []
    for layer in student.fit_layers():
        for conv in layer.convs:
            moving.append(conv.weight)
            moving += [] if conv.affine is None else [conv.affine.weight, conv.affine.bias]
    return [tensor.requires_grad_() for tensor in moving]


def _size(tensor: Tensor) -> Tensor:
    return tensor.detach().square().mean().sqrt().clamp(min=1e-6)


def _step(
    student: ImageGenerator,
    samples: SharedInputs,
    goals: Tensor,
    chosen: Sequence[int],
    optimizer: torch.optim.Optimizer,
) -> None:
    optimizer.zero_grad(set_to_none=True)
    for part in _parts(chosen, samples.batch):
        with torch.enable_grad():
            made = _images(student, samples, part)
            distance = (made - goals[list(part)].to(made.device)).abs().mean()
            (distance * (len(part) / len(chosen))).backward()
    optimizer.step()


@torch.no_grad()
def _distance(student: ImageGenerator, samples: SharedInputs, goals: Tensor) -> float:
    total = 0.0
    for part in _parts(range(len(goals)), samples.batch):
        made = _images(student, samples, part)
        total += float((made - goals[list(part)].to(made.device)).abs().mean()) * len(part)
    mean = total / len(goals)
    if not torch.tensor(mean).isfinite():
        raise ComputationError("the student's images are not finite", "fit with other samples")
    return mean


def _images(generator: ImageGenerator, samples: SharedInputs, indices: Sequence[int]) -> Tensor:
    """Return the images of some samples, with gradient where it is enabled."""
    source, device = samples.source, device_of(generator)
    if isinstance(source, Latents):
        inputs = source.inputs(generator, indices).to(device)  # type: ignore[arg-type]
        made: Tensor = generator(
            inputs.z, inputs.c, noise_mode=inputs.noise_mode, noise=inputs.noise
        )
        return made
    assert isinstance(source, ImageSource)
    images: Tensor = generator(source.pixels(generator, indices).to(device))  # type: ignore[arg-type]
    return images


def _parts(indices: Sequence[int], size: int) -> list[Sequence[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
