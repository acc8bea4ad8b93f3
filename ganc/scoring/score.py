"""The one function that scores: methods alone or mixed, their settings resolved."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Unpack

import torch
from torch import Tensor

from ganc.devices import exact_float32, resolve_device
from ganc.errors import UsageError, unknown_name
from ganc.models.model import Model
from ganc.options import flag_of, options_of
from ganc.progress import Progress, Warn, ignore, silent
from ganc.scores import Scores
from ganc.scoring.content import Content
from ganc.scoring.density.density import Density
from ganc.scoring.density.recipe import DensityRecipe, resolve_density
from ganc.scoring.diversity import Diversity
from ganc.scoring.features import Asv, MeanActivation, Style
from ganc.scoring.given import GivenState
from ganc.scoring.l1 import L1In, L1Out
from ganc.scoring.methods import METHODS, Method
from ganc.scoring.mix import Share, mixed, parse_mix
from ganc.scoring.options import (
    GeneralOptions,
    Samples,
    ScoreOptions,
    ScoreSettings,
    SearchOptions,
    WeightOptions,
)
from ganc.scoring.random import Random
from ganc.scoring.rebuild import Rebuild
from ganc.scoring.request import ScoreRequest
from ganc.scoring.scorer import SideScorer
from ganc.scoring.sides import SIDES, sides_of

SCORERS: dict[str, type[SideScorer]] = {
    "diversity": Diversity,
    "content": Content,
    "density": Density,
    "rebuild": Rebuild,
    "activation": MeanActivation,
    "asv": Asv,
    "style": Style,
    "l1-in": L1In,
    "l1-out": L1Out,
    "random": Random,
}
"""Method → how it works; its settings are in ``METHODS``."""

GENERAL = {field.name for field in fields(GeneralOptions)}
UNRECORDED = {field.name for kind in (GivenState, SearchOptions) for field in fields(kind)}
"""How a search is kept; its scores are the same without."""
FLAGS = {f.name: f.metadata["flags"][0] for f in fields(ScoreOptions) if f.metadata["flags"]}
"""Setting → how it is written, where that is not its name."""


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

    @property
    def row(self) -> Method:
        """Its settings and defaults."""
        return METHODS[self.name]

    @property
    def scorer(self) -> type[SideScorer]:
        """How it works."""
        return SCORERS[self.name]

    def recorded(self) -> dict[str, Any]:
        """Return the settings that its numbers come from, as JSON data."""
        return self.request.recorded(self.row.settings)

    def beside(self, stem: str, output: str) -> "Part":
        """Return it with the files that it keeps: see ``SideScorer.beside``."""
        return replace(self, request=self.scorer.beside(self.request, stem, output))

    def check_files(self, *, force: bool) -> None:
        """Refuse to replace those files: see ``SideScorer.check_files``."""
        self.scorer.check_files(self.request, force=force)

    def clear(self, *, is_done: bool) -> None:
        """Remove those that are no longer needed: see ``SideScorer.clear``."""
        self.scorer.clear(self.request, is_done=is_done)

    def sides(self, model: Model) -> list[Model]:
        """Return what it scores one after the other."""
        return sides_of(model, self.request, with_discriminator=self.row.is_two_sided)

    def widths(self, model: Model) -> dict[str, int]:
        """Return the groups that it is going to score, and how many channels they have."""
        found: dict[str, int] = {}
        for side in self.sides(model):
            found |= self.scorer.widths(side, self.request)
        return found


def score(
    model: Model,
    method: str,
    *,
    latents: Tensor | None = None,
    directions: Tensor | None = None,
    noise: Sequence[Any] | None = None,
    masks: Tensor | None = None,
    salt: Tensor | None = None,
    state: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    progress: Progress = silent,
    warn: Warn = ignore,
    **settings: Unpack[ScoreSettings],
) -> Scores:
    """Score every channel of the generator, of a CycleGAN both; the model is untouched.

    Started by ``torchrun`` (see ``launch.process_group``), the processes share the batches out
    and all return the same scores.

    Args:
        model: The model to be pruned.
        method: A name in ``METHODS``, or a mix: "diversity:0.7,content:0.3".
        latents, directions, noise, masks, salt, state: See ``ganc.scoring.given``.
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
        salt=salt, state=state,
    )  # fmt: skip
    return score_parts(
        model, method, parts, device=resolve_device(device), progress=progress, warn=warn
    )


def score_parts(
    model: Model,
    method: str,
    parts: Sequence[Part],
    *,
    content_hash: str | None = None,
    device: torch.device,
    progress: Progress = silent,
    warn: Warn = ignore,
) -> Scores:
    """Run what ``resolve`` has made of a method, as ``score`` does.

    Args:
        content_hash: The model's, where it is known.
    """
    own = content_hash or model.content_hash()
    computed = []
    for part in parts:
        request = replace(part.request, device=device, progress=progress, warn=warn)
        computed.append(_compute(model, replace(part, request=request), own))
    if len(computed) == 1:
        return computed[0]
    return mixed(method, [Share(p.weight, s) for p, s in zip(parts, computed, strict=True)])


def _compute(model: Model, part: Part, content_hash: str) -> Scores:
    sides = part.sides(model)
    part = _with_defaults(part, sides[0].architecture)
    own = [side.copy_on(part.request.device) for side in sides]
    # A GPU is to keep the channels that a CPU keeps; a search that learns is to be quick instead.
    with contextlib.nullcontext() if part.row.is_two_sided else exact_float32():
        return _measure(part, own, content_hash)


def _measure(part: Part, own: Sequence[Model], content_hash: str) -> Scores:
    request = part.request
    # All of them before any runs: what is missing is found at once.
    scorers = [part.scorer(side, request) for side in own]
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


def _with_defaults(part: Part, architecture: str) -> Part:
    """Fill in the settings whose default depends on the family."""
    chosen = {
        name: value
        for name, value in part.scorer.defaults(architecture).items()
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
        part.scorer.check(part.request)
    return parts


def _density(given: Any) -> DensityRecipe:
    """Return a recipe of what a caller gave: one, a mapping, pairs, or nothing."""
    return given if isinstance(given, DensityRecipe) else resolve_density(dict(given or ()))


def _check_settings(
    method: str, names: Sequence[str], samples: Samples, settings: dict[str, Any]
) -> None:
    plain = ScoreRequest()
    known = GENERAL.union(*(METHODS[name].settings for name in names))
    for name, value in settings.items():
        if name not in known and value is not None and value != getattr(plain, name):
            flag = FLAGS.get(name, flag_of(name))
            raise UsageError(f"method {method} takes no {flag}")
    for name in names if settings.get("discriminator") else ():
        if WeightOptions not in METHODS[name].options:
            raise UsageError(
                f"method {name} takes no --discriminator: it scores the generator alone",
                "l1-in, l1-out and random score both",
            )
    if not (samples is None or samples == "auto" or isinstance(samples, int)):
        raise UsageError(f"--samples {samples} is neither a count nor auto")
    if samples is not None and not any(METHODS[name].default_samples(settings) for name in names):
        raise UsageError(f"method {method} takes no --samples: it looks at the weights alone")


def _request(
    name: str, samples: Samples, batch: int | None, settings: dict[str, Any]
) -> ScoreRequest:
    row = METHODS[name]
    default = row.default_samples(settings)
    read = GENERAL.union(row.settings)
    own = {key: value for key, value in settings.items() if key in read}
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
