"""The table of importance methods, and the one function that runs them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganc.devices import resolve_device
from ganc.errors import InputError, UsageError, unknown_name
from ganc.models.model import Model
from ganc.progress import Progress, silent
from ganc.scores import Scores
from ganc.scoring.diversity import defaults, diversity
from ganc.scoring.l1 import l1_out
from ganc.scoring.random import random
from ganc.scoring.request import ScoreRequest


class Method(NamedTuple):
    """One importance method.

    Attributes:
        compute: Model and request → one vector per group of the generator.
        samples, batch: Defaults; 0 where the method draws no latents.
        options: The settings of ``ScoreRequest`` that it reads beside samples, batch and seed.
        about: One line for the help text.
        defaults: Architecture → settings that are None until the model is known.
    """

    compute: Callable[[Model, ScoreRequest], dict[str, Tensor]]
    samples: int
    batch: int
    options: tuple[str, ...]
    about: str
    defaults: Callable[[str], dict[str, Any]] = lambda architecture: {}


METHODS: dict[str, Method] = {
    "diversity": Method(
        diversity, 5000, 5,
        ("noise_mode", "latents", "directions", "noise", "alpha", "num_directions", "gradient",
         "truncation_psi"),
        "variance of the channel's sensitivity over latent directions (DCP-GAN)",
        defaults,
    ),
    "l1-out": Method(l1_out, 0, 0, ("effective",), "L1 norm of the weights that consume it"),
    "random": Method(random, 0, 0, (), "uniform random numbers, the baseline"),
}  # fmt: skip

EFFECTIVE_SAMPLES = 1000


def score(
    model: Model,
    method: str,
    *,
    samples: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    latents: Tensor | None = None,
    directions: Tensor | None = None,
    noise: Sequence[Sequence[Sequence[Sequence[Tensor]]]] | None = None,
    noise_mode: str = "random",
    masks: Tensor | None = None,
    salt: Tensor | None = None,
    data: str | Path | None = None,
    alpha: float | None = None,
    num_directions: int = 10,
    gradient: str | None = None,
    truncation_psi: float = 1.0,
    effective: bool = False,
    device: str | torch.device = "auto",
    progress: Progress = silent,
) -> Scores:
    """Score every channel of the generator; the model is untouched.

    Args:
        model: The model to be pruned.
        method: A name in ``METHODS``.
        samples, batch: None takes the method's default, or what ``latents`` holds.
        device: "auto", "cpu", "cuda" or "cuda:N".
        Others: See ``ScoreRequest``. A setting that the method does not read must keep its default.
    Raises:
        UsageError: The method is not known, or a setting does not belong to it.
        InputError: The model holds no generator.
        ShapeError: A tensor does not fit the generator.
    """
    request = resolve(
        method, samples=samples, batch=batch, seed=seed, latents=latents, directions=directions,
        noise=noise, noise_mode=noise_mode, masks=masks, salt=salt, data=data, alpha=alpha,
        num_directions=num_directions,
        gradient=gradient, truncation_psi=truncation_psi, effective=effective, progress=progress,
        device=resolve_device(device),
    )  # fmt: skip
    if model.generator is None:
        raise InputError(
            "the model holds no generator to score", "import it with the file of its generator"
        )
    row = METHODS[method]
    request = with_defaults(request, row, model.generator.architecture)
    # A copy: gradients, mode and device of the caller's model stay what they are.
    own = Model(generator=copy.deepcopy(model.generator).to(request.device).eval())
    values = row.compute(own, request)
    return Scores(values, method, request.recorded(row.options), model.content_hash())


def with_defaults(request: ScoreRequest, row: Method, architecture: str) -> ScoreRequest:
    """Fill in the settings whose default depends on the family."""
    chosen = {name: value for name, value in row.defaults(architecture).items()
              if getattr(request, name) is None}  # fmt: skip
    return replace(request, **chosen)


def resolve(
    method: str, *, samples: int | None = None, batch: int | None = None, **settings: Any
) -> ScoreRequest:
    """Fill in a method's defaults and refuse settings that it does not read.

    Raises:
        UsageError: The method is not known, a setting does not belong to it, or is out of range.
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    row, plain = METHODS[method], ScoreRequest()
    for name, value in settings.items():
        foreign = name not in (*row.options, "seed", "device", "progress")
        if foreign and value is not None and value != getattr(plain, name):
            raise UsageError(f"method {method} takes no --{name.replace('_', '-')}")
    default = EFFECTIVE_SAMPLES if settings.get("effective") else row.samples
    if samples is not None and default == 0:
        raise UsageError(f"method {method} takes no --samples: it looks at the weights alone")
    latents = settings.get("latents")
    if samples is None:
        samples = default if latents is None else len(latents)
    if batch is None:
        batch = min(row.batch or 10, samples)
    if default and (samples < 1 or batch < 1):
        raise UsageError(f"--samples {samples} and --batch {batch} must be at least 1")
    return ScoreRequest(samples=samples, batch=batch, **settings)
