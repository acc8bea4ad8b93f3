"""The table of importance methods, and the one function that runs them, alone or mixed."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor

from ganc.devices import exact_float32, resolve_device
from ganc.errors import UsageError, unknown_name
from ganc.models.model import Model
from ganc.options import flag_of, options_of
from ganc.progress import Progress, Warn, ignore, silent
from ganc.scores import Scores
from ganc.scoring import content as content_method
from ganc.scoring import diversity
from ganc.scoring.density import density as density_method
from ganc.scoring.density.density import Density
from ganc.scoring.density.recipe import DensityRecipe, resolve_density
from ganc.scoring.features import Activation, Asv, Style
from ganc.scoring.l1 import L1In, L1Out
from ganc.scoring.mix import Share, mixed, parse_mix
from ganc.scoring.options import Samples, ScoreOptions, ScoreSettings
from ganc.scoring.random import Random
from ganc.scoring.request import ScoreRequest
from ganc.scoring.scorer import SideScorer
from ganc.scoring.sides import SIDES, sides_of


class Method(NamedTuple):
    """One importance method.

    Attributes:
        scorer: How it works.
        samples: Default; 0 where the method draws no latents.
        batch: Default where it draws some; 0 for as many as take the memory of one large image.
        options: The settings of ``ScoreRequest`` that it reads beside samples, batch and seed.
        defaults: Architecture → settings that are None until the model is known.
        check: Refuses settings that it could not work with, before the model is looked at.
        is_two_sided: Whether it plays generator against discriminator, and scores both.
    """

    scorer: type[SideScorer]
    samples: int
    batch: int
    options: tuple[str, ...]
    defaults: Callable[[str], dict[str, Any]] = lambda architecture: {}
    check: Callable[[ScoreRequest], None] = lambda request: None
    is_two_sided: bool = False


METHODS: dict[str, Method] = {
    "diversity": Method(
        diversity.Diversity, 5000, 5,
        ("noise_mode", "latents", "directions", "noise", "alpha", "num_directions", "gradient",
         "truncation_psi", "direction_batch", "precision"),
        diversity.defaults,
    ),
    "content": Method(
        content_method.Content, 400, 10,
        ("content", "noise_prob", "noise_mode", "latents", "noise", "masks", "salt"),
        check=content_method.check,
    ),
    "density": Method(
        Density, 5000, 0,
        ("data", "data_b", "swap", "resize", "density", "neighbourhoods", "state", "resume", "log",
         "noise_mode"),
        check=density_method.check,
        is_two_sided=True,
    ),
    "activation": Method(Activation, 1000, 10, ("noise_mode", "data", "data_b")),
    "asv": Method(Asv, 1000, 10, ("noise_mode", "data", "data_b")),
    "style": Method(Style, 1000, 10, ()),
    "l1-in": Method(L1In, 0, 0, ("discriminator",)),
    "l1-out": Method(L1Out, 0, 10, ("effective", "discriminator")),
    "random": Method(Random, 0, 0, ("discriminator",)),
}  # fmt: skip

EFFECTIVE_SAMPLES = 1000
ALWAYS = ("seed", "device", "progress", "offline", "until_stable", "prune_ratio", "network", "warn")
"""Settings that say how, and on what, any method is run, not what it computes."""
UNRECORDED = ("state", "resume", "log")
"""What is kept of a search on the way; its scores are the same without."""


@dataclass(frozen=True)
class Part:
    """One method of what was asked for, its settings resolved.

    Attributes:
        name: In ``METHODS``.
        weight: Its share of a mix.
        request: What it is asked to do.
    """

    name: str
    weight: float
    request: ScoreRequest

    def recorded(self) -> dict[str, Any]:
        """Return the settings that its numbers come from, as JSON data."""
        return self.request.recorded(METHODS[self.name].options)


def score(
    model: Model,
    method: str,
    *,
    latents: Tensor | None = None,
    directions: Tensor | None = None,
    noise: Sequence[Any] | None = None,
    masks: Tensor | None = None,
    salt: Tensor | None = None,
    density: DensityRecipe | Mapping[str, Any] | None = None,
    state: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: Progress = silent,
    warn: Warn = ignore,
    **settings: Unpack[ScoreSettings],
) -> Scores:
    """Score every channel of the generator, of a CycleGAN both; the model is untouched.

    Started by ``torchrun`` (see ``parallel.process_group``), the processes share the batches out
    and all return the same scores.

    Args:
        model: The model to be pruned.
        method: A name in ``METHODS``, or a mix: "diversity:0.7,content:0.3".
        latents, directions, noise, masks, salt, state: See ``ScoreRequest``.
        density: density: a recipe, or settings that replace its defaults.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: Called after every batch.
        warn: Told what is left out of a set of images, and of values that cannot be meant.
        settings: See ``ScoreOptions``. A setting that no method asked for reads must keep its
            default.
    Raises:
        UsageError: The method is not known, or a setting does not belong to it.
        InputError: The model holds no generator.
        ShapeError: A tensor does not fit the generator.
        TypeError: A setting is not known.
    """
    options = options_of(ScoreOptions, settings)
    parts = resolve(
        method, **vars(options), latents=latents, directions=directions, noise=noise, masks=masks,
        salt=salt, density=density, state=state, progress=progress, warn=warn,
        device=resolve_device(device),
    )  # fmt: skip
    parts = [with_defaults(part, model.architecture) for part in parts]
    content_hash = model.content_hash()
    computed = [_compute(model, part, content_hash) for part in parts]
    if len(computed) == 1:
        return computed[0]
    return mixed(method, [Share(p.weight, s) for p, s in zip(parts, computed, strict=True)])


def _compute(model: Model, part: Part, content_hash: str) -> Scores:
    row, request = METHODS[part.name], part.request
    sides = sides_of(model, request, with_discriminator=row.is_two_sided)
    own = [side.copy_on(request.device) for side in sides]
    # A GPU is to keep the channels that a CPU keeps; a search that learns is to be quick instead.
    with contextlib.nullcontext() if row.is_two_sided else exact_float32():
        return _measure(part, own, content_hash)


def _measure(part: Part, own: Sequence[Model], content_hash: str) -> Scores:
    row, request = METHODS[part.name], part.request
    # All of them before any runs: what is missing is found at once.
    scorers = [row.scorer(side, request) for side in own]
    values: dict[str, Tensor] = {}
    thresholds: dict[str, float] = {}
    settings = {name: v for name, v in part.recorded().items() if name not in UNRECORDED}
    for key, scorer in zip(("samples", "samples_b"), scorers, strict=False):
        done = scorer.measure()
        values |= done.values
        thresholds |= done.thresholds
        settings |= {key: done.samples, **done.facts}
    if request.until_stable:
        settings |= {"until_stable": True, "prune_ratio": request.prune_ratio}
    return Scores(values, part.name, settings, content_hash, thresholds)


def scored_widths(model: Model, part: Part) -> dict[str, int]:
    """Return the groups that a method is going to score, and how many channels they have."""
    is_two_sided, recipe = METHODS[part.name].is_two_sided, part.request.density
    with_discriminator = is_two_sided and recipe.discriminator_macs < 1
    kept = recipe.kept_groups if is_two_sided else ()
    return {
        group.name if name == "generator" else f"{name}.{group.name}": group.width
        for side in sides_of(model, part.request, with_discriminator=with_discriminator)
        for name, network in side.networks()
        for group in network.groups()
        if group.prunable and group.name not in kept
    }


def with_defaults(part: Part, architecture: str) -> Part:
    """Fill in the settings whose default depends on the family."""
    chosen = {
        name: value
        for name, value in METHODS[part.name].defaults(architecture).items()
        if getattr(part.request, name) is None
    }
    return replace(part, request=replace(part.request, **chosen))


def resolve(
    method: str, *, samples: Samples = None, batch: int | None = None, **settings: Any
) -> list[Part]:
    """Fill in the methods' defaults and refuse settings that none of them reads.

    Raises:
        UsageError: A method is not known, a setting belongs to none, or is out of range.
    """
    weights = parse_mix(method)
    settings = {**settings, "density": _density(settings.get("density"))}
    for name in weights:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
    _check_settings(method, list(weights), samples, settings)
    if settings.get("network") not in (None, *SIDES):
        raise unknown_name("--network", settings["network"], SIDES)
    if not 0 <= settings.get("prune_ratio", 0.0) < 1:
        raise UsageError(f"--prune-ratio {settings['prune_ratio']:g} is outside [0, 1)")
    parts = [
        Part(name, weight, _request(name, samples, batch, settings))
        for name, weight in weights.items()
    ]
    for part in parts:
        METHODS[part.name].check(part.request)
    return parts


def _density(given: DensityRecipe | Mapping[str, Any] | None) -> DensityRecipe:
    return given if isinstance(given, DensityRecipe) else resolve_density(given or {})


def _check_settings(
    method: str, names: Sequence[str], samples: Samples, settings: dict[str, Any]
) -> None:
    plain = ScoreRequest()
    known = {*ALWAYS, *(option for name in names for option in METHODS[name].options)}
    for name, value in settings.items():
        if name not in known and value is not None and value != getattr(plain, name):
            flag = "--set" if name == "density" else flag_of(name)
            raise UsageError(f"method {method} takes no {flag}")
    for name in names if settings.get("discriminator") else ():
        if "discriminator" not in METHODS[name].options:
            raise UsageError(
                f"method {name} takes no --discriminator: it scores the generator alone",
                "l1-in, l1-out and random score both",
            )
    if not (samples is None or samples == "auto" or isinstance(samples, int)):
        raise UsageError(f"--samples {samples} is neither a count nor auto")
    if samples is not None and not any(_default_samples(name, settings) for name in names):
        raise UsageError(f"method {method} takes no --samples: it looks at the weights alone")


def _default_samples(name: str, settings: dict[str, Any]) -> int:
    is_effective = settings.get("effective") and "effective" in METHODS[name].options
    return EFFECTIVE_SAMPLES if is_effective else METHODS[name].samples


def _request(
    name: str, samples: Samples, batch: int | None, settings: dict[str, Any]
) -> ScoreRequest:
    row, default = METHODS[name], _default_samples(name, settings)
    own = {key: value for key, value in settings.items() if key in (*ALWAYS, *row.options)}
    if not default:
        return ScoreRequest(**own)
    given = [own[key] for key in ("latents", "masks", "salt") if own.get(key) is not None]
    count = len(given[0]) if given else default
    if isinstance(samples, int):
        count = samples
    size = min(row.batch, count) if batch is None else batch
    if count < 1 or (batch is not None and batch < 1):
        raise UsageError(f"--samples {count} and --batch {size} must be at least 1")
    return ScoreRequest(samples=count, batch=size, until_stable=samples == "auto", **own)
