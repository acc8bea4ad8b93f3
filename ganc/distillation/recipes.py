"""Recipes: every loss weight and hyper-parameter of a distillation run, as named plain data.

Sources: Karras et al. 2020 (StyleGAN2) for the adversarial part and its lazy regularisation; Xu et
al. 2022 (StyleKD, "Mind the Gap in Distilling StyleGANs") for the distillation terms.

This module imports no torch: the command line makes one option of each field.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ganc.errors import CheckpointError, UsageError, unknown_name

PERCEPTUAL_NAMES = ("lpips-vgg", "lpips-alex", "lpips-squeeze", "effnet-lite0", "none")
"""What the perceptual term may be measured with; "none" drops the term."""


def _number(
    default: Any, meaning: str, *, low: float = 0.0, high: float = math.inf, below: bool = False
) -> Any:
    """Declare a field: its default, its help text, and the range [low, high], or [low, high)."""
    metadata = {"help": meaning, "low": low, "high": high, "below": below}
    return dataclasses.field(default=default, metadata=metadata)


def _text(default: str, meaning: str, choices: tuple[str, ...]) -> Any:
    return dataclasses.field(default=default, metadata={"help": meaning, "choices": choices})


@dataclass(frozen=True)
class Recipe:
    """The resolved settings of a run. A weight of 0 drops its term, and what only it needs.

    Learning rate and betas are those of a step without regularisation; an optimiser that is also
    stepped by a regulariser every k steps uses ``lr * k/(k+1)`` and ``betas ** (k/(k+1))``.
    """

    name: str
    batch: int = _number(16, "Images per step.", low=1)
    lr: float = _number(0.002, "Learning rate of Adam.")
    beta1: float = _number(0.0, "First beta of Adam.", high=1, below=True)
    beta2: float = _number(0.99, "Second beta of Adam.", high=1, below=True)
    adam_eps: float = _number(1e-8, "Epsilon of Adam.")
    mixing_prob: float = _number(0.9, "Share of samples with two styles.", high=1)
    r1_gamma: float = _number(10.0, "Weight of the R1 penalty (halved, as published).")
    r1_interval: int = _number(16, "Steps between two R1 penalties.", low=1)
    pl_weight: float = _number(2.0, "Weight of path length regularisation.")
    pl_interval: int = _number(4, "Steps between two path length regularisations.", low=1)
    pl_decay: float = _number(0.01, "How fast the mean path length follows.", high=1)
    pl_batch_shrink: int = _number(2, "Path length uses batch / this many images.", low=1)
    adversarial_weight: float = _number(1.0, "Weight of the adversarial loss.")
    l1_weight: float = _number(0.0, "Weight of the pixel L1 distance to the teacher's image.")
    perceptual_weight: float = _number(0.0, "Weight of the perceptual distance to it.")
    perceptual: str = _text(
        "none", "Network of the perceptual distance: " + ", ".join(PERCEPTUAL_NAMES) + ".",
        PERCEPTUAL_NAMES,
    )  # fmt: skip
    perceptual_max_resolution: int = _number(
        256, "Larger images are averaged down to this many px for it.", low=1
    )
    perceptual_resolution: int = _number(
        0, "Side its network resizes images to; 0 keeps its own (LPIPS none, effnet-lite0 128)."
    )
    latent_direction_weight: float = _number(0.0, "Weight of the latent-direction loss.")
    directions_per_block: int = _number(5, "Leading eigenvectors per block.", low=1)
    direction_scale: float = _number(5.0, "Standard deviation of the step along a direction.")
    first_similarity_block: int = _number(2, "First block compared; 0 is the one at 4 px.")
    last_similarity_block: int = _number(5, "Last block compared, clamped to the depth.")
    ema_nimg: float = _number(10_000.0, "Half-life of the weight average, in images.")
    ema_rampup: float = _number(0.05, "Most of it as a share of the images seen.")
    w_avg_beta: float = _number(0.998, "Decay of the running mean of w.", high=1)
    mirror: bool = _number(False, "Flip half of the real images.")

    @property
    def uses_perceptual(self) -> bool:
        """Whether a perceptual network is needed at all."""
        return self.perceptual_weight > 0 and self.perceptual != "none"

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON data, ``name`` first."""
        return dataclasses.asdict(self)


RECIPES: dict[str, Recipe] = {
    "gan": Recipe("gan"),
    "stylekd": Recipe(
        "stylekd",
        l1_weight=3.0,
        perceptual_weight=3.0,
        perceptual="lpips-vgg",
        latent_direction_weight=30.0,
    ),
}

NUMBERS = tuple(field for field in fields(Recipe) if field.name != "name")
"""The fields that can be overridden."""


def resolve_recipe(recipe: str | Recipe, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Look a recipe up and replace numbers in it.

    Args:
        recipe: A name in ``RECIPES``, or a recipe of your own.
        overrides: Field name → value.
    Raises:
        UsageError: A name is unknown (the nearest is given), or values are of the wrong type, out
            of range or without effect; all of them are reported together.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise unknown_name("recipe", recipe, RECIPES)
        recipe = RECIPES[recipe]
    overrides = dict(overrides or {})
    allowed = {field.name: field for field in NUMBERS}
    for name in overrides:
        if name not in allowed:
            raise unknown_name("recipe number", name, allowed)
    problems = [_problem(allowed[name], value) for name, value in overrides.items()]
    if any(problems):
        raise UsageError("; ".join(problem for problem in problems if problem))
    typed = {name: _typed(allowed[name], value) for name, value in overrides.items()}
    resolved = dataclasses.replace(recipe, **typed)
    _check_effect(resolved, overrides)
    return resolved


def recipe_from_json(content: Mapping[str, Any], where: str) -> Recipe:
    """Rebuild a recipe from ``Recipe.to_json``.

    Raises:
        CheckpointError: Numbers are missing, unknown or not valid.
    """
    missing = [field.name for field in fields(Recipe) if field.name not in content]
    if missing:
        raise CheckpointError(f"{where}: the recipe misses {', '.join(missing)}")
    numbers = {name: value for name, value in content.items() if name != "name"}
    try:
        return resolve_recipe(Recipe(str(content["name"])), numbers)
    except UsageError as error:
        raise CheckpointError(f"{where}: {error}", error.hint) from error


def _problem(field: "dataclasses.Field[Any]", value: Any) -> str | None:
    """Say what is wrong with a value, or None."""
    flag = f"--{field.name.replace('_', '-')} {value}"
    if "choices" in field.metadata:
        choices = field.metadata["choices"]
        return None if value in choices else f"{flag} is not known; allowed: {', '.join(choices)}"
    # Exact types: bool is a kind of int in Python, but `--batch True` is a mistake.
    accepted = (int, float) if field.type is float else (field.type,)
    if type(value) not in accepted:
        return f"{flag} must be {_TYPE_NAMES[field.type]}"
    low, high, below = (field.metadata[key] for key in ("low", "high", "below"))
    inside = math.isfinite(value) and low <= value <= high and not (below and value == high)
    allowed = (
        f"{low:g} and more" if high == math.inf else f"[{low:g}, {high:g}{')' if below else ']'}"
    )
    return None if inside else f"{flag} is out of range; allowed: {allowed}"


_TYPE_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def _typed(field: "dataclasses.Field[Any]", value: Any) -> Any:
    return float(value) if field.type is float else value


def _check_effect(recipe: Recipe, overrides: Mapping[str, Any]) -> None:
    """Refuse numbers that contradict each other, or would not be used."""
    if overrides.get("perceptual", "none") != "none" and recipe.perceptual_weight == 0:
        raise UsageError(
            f"--perceptual {recipe.perceptual} has no effect: the recipe gives it weight 0",
            "add --perceptual-weight 3, or take --recipe stylekd",
        )
    if recipe.first_similarity_block > recipe.last_similarity_block:
        raise UsageError(
            f"--first-similarity-block {recipe.first_similarity_block} comes after"
            f" --last-similarity-block {recipe.last_similarity_block}"
        )
    weights = (recipe.adversarial_weight, recipe.l1_weight, recipe.latent_direction_weight)
    if not any(weights) and not recipe.uses_perceptual:
        raise UsageError("the recipe gives the student no loss: all of its weights are 0")
