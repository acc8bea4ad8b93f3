"""Recipes: every loss weight and hyper-parameter of a distillation run, as named plain data.

Sources: Karras et al. 2020 (StyleGAN2) for the adversarial part of the StyleGAN recipes and its
lazy regularisation; Liu et al. 2021 (Content-Aware GAN Compression) for ``cagan``; Xu et al. 2022
(StyleKD, "Mind the Gap in Distilling StyleGANs") for ``stylekd``; Miyato et al. 2018 for ``sngan``;
Isola et al. 2017 and Zhu et al. 2017 (pix2pix, CycleGAN) for ``i2i``; Li et al. 2020 (GAN
Compression) for ``i2i-published``; Karras et al. 2021 (StyleGAN3) and Chung et al. 2024 (DCP-GAN)
for ``stylegan3``. A recipe that ends in "published" is an official command to the letter.

This module imports no torch: the command line makes one option of each field.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ganc import options as declared
from ganc.distillation.options import PRUNED, SCRATCH
from ganc.errors import CheckpointError, UsageError, unknown_name
from ganc.families import ADVERSARIAL_NAMES, FAMILIES, SNGAN, STYLE, TRANSLATION
from ganc.options import flag_of, number, text

PERCEPTUAL_NAMES = ("lpips-vgg", "lpips-alex", "lpips-squeeze", "effnet-lite0", "none")
"""What the perceptual term may be measured with; "none" drops the term."""

AUGMENT_NAMES = ("none", "ada", "fixed")
"""How the discriminator's images are augmented."""

SHARED, FRESH = NOISE_NAMES = ("shared", "fresh")
"""Noise maps of compared images: the same, or separate ones."""

FROM_TEACHER, FROM_ZERO = PL_STARTS = ("teacher", "zero")
"""Where the mean path length starts."""

OWN, MAIN = R1_STEPS = ("own", "main")
"""Which step of the discriminator an R1 penalty belongs to."""

PLAIN, BOTH = COMPARED_NAMES = ("plain", "both")
"""Images in the generator's losses: those of w, or those of w + offset as well."""

AREA, BILINEAR = SHRINK_NAMES = ("area", "bilinear")
"""How images are made smaller for the perceptual network."""

INHERITED, RANDOM = DISCRIMINATOR_STARTS = ("inherited", "random")
"""Where discriminators start."""

LATENT_KINDS = (STYLE, SNGAN)


@dataclass(frozen=True)
class Recipe:
    """The resolved settings of a run. A weight of 0 drops its term, and what only it needs.

    Learning rate and betas are those of a step without regularisation; an optimiser that is also
    stepped by a regulariser every k steps uses ``lr * k/(k+1)`` and ``betas ** (k/(k+1))``. With
    ``lr_decay`` a run that goes on for more steps falls from there on as if it had been as long.

    Attributes:
        name: Of the recipe.
        kind: What it trains; a field that this kind does not read keeps its default.
        init: What the student starts from by default, one of ``INITS``.
    """

    name: str
    kind: str = STYLE
    init: str = PRUNED
    batch: int = number(16, "Images per step.", low=1)
    lr: float = number(0.002, "Learning rate of Adam.")
    d_lr: float = number(0.0, "Learning rate of the discriminator; 0: the same.")
    lr_warmup: int = number(0, "Steps over which the learning rate rises from 0.")
    lr_decay: float = number(
        0.0, "Last share of --steps over which the learning rate falls linearly to 0.", high=1
    )
    beta1: float = number(0.0, "First beta of Adam.", high=1, below=True)
    beta2: float = number(0.99, "Second beta of Adam.", high=1, below=True)
    adam_eps: float = number(1e-8, "Epsilon of Adam.")
    adversarial: str = text(
        "non-saturating",
        "Form of the adversarial loss: " + ", ".join(ADVERSARIAL_NAMES) + ", or task (bce for"
        " paired images, lsgan for unpaired).",
        (*ADVERSARIAL_NAMES, "task"),
    )
    adversarial_weight: float = number(1.0, "Weight of the adversarial loss.")
    discriminator_start: str = text(
        INHERITED,
        f"Where discriminators start: {INHERITED} (the teacher's, or the student's own) or"
        f" {RANDOM} (as StyleKD and DCP-GAN publish it).",
        DISCRIMINATOR_STARTS,
    )
    d_steps: int = number(1, "Discriminator steps per generator step.", (SNGAN,), low=1)
    mixing_prob: float = number(0.9, "Share of samples with two styles.", (STYLE,), high=1)
    r1_gamma: float = number(10.0, "Weight of the R1 penalty (halved, as published).", (STYLE,))
    r1_step: str = text(
        OWN,
        f"Where R1 is applied: {OWN}, a step of its own after the main one, or {MAIN}, within it"
        " (as StyleKD and DCP-GAN publish it).",
        R1_STEPS,
        (STYLE,),
    )
    r1_interval: int = number(16, "Steps between two R1 penalties.", (STYLE,), low=1)
    pl_weight: float = number(2.0, "Weight of path length regularisation.", (STYLE,))
    pl_interval: int = number(4, "Steps between two path length steps.", (STYLE,), low=1)
    pl_decay: float = number(0.01, "Update rate of the mean path length.", (STYLE,), high=1)
    pl_start: str = text(
        FROM_TEACHER,
        f"Initial mean path length: {FROM_TEACHER} (the teacher's) or {FROM_ZERO} (as published).",
        PL_STARTS,
        (STYLE,),
    )
    pl_batch_shrink: int = number(
        2, "Path length uses batch divided by this many images.", (STYLE,), low=1
    )
    l1_weight: float = number(0.0, "Weight of the pixel L1 distance to the teacher's image.")
    perceptual_weight: float = number(
        0.0, "Weight of the perceptual distance to the teacher's image."
    )
    perceptual: str = text(
        "none",
        "Network of the perceptual distance: " + ", ".join(PERCEPTUAL_NAMES) + ".",
        PERCEPTUAL_NAMES,
    )
    perceptual_max_resolution: int = number(
        256, "Shrink larger images to this many px for the perceptual network.", low=1
    )
    perceptual_shrink: str = text(
        AREA,
        f"How they shrink: {AREA} averages all pixels, {BILINEAR} the nearest four (as published).",
        SHRINK_NAMES,
    )
    perceptual_resolution: int = number(
        0, "Size the network resizes images to; 0: its own (LPIPS none, effnet-lite0 128)."
    )
    content: str = text(
        "none",
        "Mask for both distances, made from the teacher's image: none, center, torchvision:CLASS,"
        " bisenet, bisenet:FILE or module:function.",
        (),
        LATENT_KINDS,
    )
    latent_direction_weight: float = number(0.0, "Weight of the latent-direction loss.", (STYLE,))
    noise: str = text(
        SHARED,
        f"Noise maps of compared images: {SHARED} by student and teacher, w and w + offset, or"
        f" {FRESH} for each (as published).",
        NOISE_NAMES,
        (STYLE,),
    )
    compared: str = text(
        PLAIN,
        f"Images in the generator's losses: {PLAIN}, those of w; or {BOTH}, those of w + offset as"
        " well (as DCP-GAN publishes it for StyleGAN3).",
        COMPARED_NAMES,
        (STYLE,),
    )
    similarity_group: int = number(
        0, "Samples in one similarity matrix; 0: the whole batch.", (STYLE,)
    )
    directions_per_block: int = number(5, "Leading eigenvectors per block.", (STYLE,), low=1)
    direction_scale: float = number(
        5.0, "Standard deviation of the step along a direction.", (STYLE,)
    )
    first_similarity_block: int = number(2, "First block compared; block 0 is at 4 px.", (STYLE,))
    last_similarity_block: int = number(5, "Last block compared, at most the deepest.", (STYLE,))
    freeze_mapping: bool = number(False, "Do not train the mapping network.", (STYLE,))
    paired_l1_weight: float = number(
        0.0,
        "Weight of the L1 distance to the paired image (pix2pix), or to the teacher's (one"
        " direction of a CycleGAN).",
        (TRANSLATION,),
    )
    cycle_weight: float = number(0.0, "Weight of cycle consistency, L1 (CycleGAN).", (TRANSLATION,))
    identity_weight: float = number(
        0.0, "Weight of the identity loss, relative to the cycle's.", (TRANSLATION,)
    )
    pool_size: int = number(
        0, "Past images per direction kept to show the discriminator again.", (TRANSLATION,)
    )
    feature_weight: float = number(
        0.0, "Weight of the distance to the teacher's features.", (TRANSLATION,)
    )
    ema_nimg: float = number(10_000.0, "Half-life of the weight average (EMA), in images.")
    ema_rampup: float = number(
        0.05, "Upper limit of that half-life, as a share of the images seen so far."
    )
    w_avg_beta: float = number(0.998, "Decay of the running mean of w.", (STYLE,), high=1)
    mirror: bool = number(False, "Flip half of the real images.")
    augment: str = text(
        "none",
        "Augmentation of the discriminator's images: none; ada, with an adaptive probability;"
        " fixed, with probability --augment-p.",
        AUGMENT_NAMES,
        LATENT_KINDS,
    )
    augment_p: float = number(
        0.0, "Probability of augmentation; the initial one with ada.", LATENT_KINDS, high=1
    )
    ada_target: float = number(
        0.6, "Mean sign of the real logits that ada aims for.", LATENT_KINDS, low=-1, high=1
    )
    ada_interval: int = number(
        4, "Discriminator steps between two updates of the probability.", LATENT_KINDS, low=1
    )
    ada_nimg: int = number(500_000, "Images in which it can go from 0 to 1.", LATENT_KINDS, low=1)

    @property
    def reals_per_step(self) -> int:
        """Real images that a step reads: a batch for each step of the discriminator."""
        return self.batch * self.d_steps

    @property
    def uses_perceptual(self) -> bool:
        """Whether a perceptual network is needed at all."""
        return self.perceptual_weight > 0 and self.perceptual != "none"

    @property
    def distills(self) -> bool:
        """Whether any term compares with a teacher."""
        weights = (self.l1_weight, self.latent_direction_weight, self.feature_weight)
        return any(weights) or self.uses_perceptual

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON data: ``name``, ``kind``, ``init``, what the kind reads."""
        content = dataclasses.asdict(self)
        unread = [f.name for f in NUMBERS if not is_read(f, self.kind)]
        return {name: value for name, value in content.items() if name not in unread}


_HEAD = ("name", "kind", "init")

NUMBERS = tuple(field for field in fields(Recipe) if field.name not in _HEAD)
"""The fields that can be overridden."""


def is_read(field: "dataclasses.Field[Any]", kind: str) -> bool:
    """Whether a kind of training reads a field; one that names no kinds is read by all."""
    kinds = field.metadata["kinds"]
    return not kinds or kind in kinds


_DISTANCES: dict[str, Any] = {
    "l1_weight": 3.0, "perceptual_weight": 3.0, "perceptual": "lpips-vgg"
}  # fmt: skip

NO_RAMP = 1e9
"""As ``ema_rampup``: the half-life of the average does not depend on the images seen."""

# The average has a decay of 0.5 ** (32 / 10 000) a step of 16.
_PUBLISHED: dict[str, Any] = {
    **_DISTANCES, "noise": FRESH, "pl_start": FROM_ZERO, "perceptual_shrink": BILINEAR,
    "mirror": True, "ema_nimg": 5000.0, "ema_rampup": NO_RAMP,
}  # fmt: skip

# Four GPUs with a batch of 4 each.
_STYLEKD_COMMAND: dict[str, Any] = {
    **_PUBLISHED, "init": SCRATCH, "latent_direction_weight": 30.0, "similarity_group": 4,
    "r1_step": MAIN, "discriminator_start": RANDOM,
}  # fmt: skip

_I2I: dict[str, Any] = {
    "batch": 1, "lr": 0.0002, "beta1": 0.5, "beta2": 0.999, "adversarial": "task",
    "cycle_weight": 10.0, "identity_weight": 0.5, "pool_size": 50, "mirror": True,
}  # fmt: skip

# NVIDIA trains StyleGAN3 without style mixing and path length.
_STYLEGAN3: dict[str, Any] = {
    **_DISTANCES, "lr": 0.0025, "d_lr": 0.002, "mixing_prob": 0.0, "pl_weight": 0.0,
    "latent_direction_weight": 30.0, "first_similarity_block": 1, "last_similarity_block": 2,
    "compared": BOTH, "augment": "ada",
}  # fmt: skip

# What led in docs/quality.md. No L1 to the teacher, whose blur costs sharpness; R1 as StyleGAN2-ADA
# has it at 256 px (its own rule: 0.82), with which the discriminator asks for more diversity.
_GANC: dict[str, Any] = {
    **_DISTANCES, "l1_weight": 0.0, "latent_direction_weight": 30.0, "r1_gamma": 1.0
}  # fmt: skip

RECIPES: dict[str, Recipe] = {
    "ganc": Recipe("ganc", **_GANC),
    "gan": Recipe("gan"),
    "cagan": Recipe("cagan", content="center", **_DISTANCES),
    "cagan-published": Recipe("cagan-published", content="bisenet", **_PUBLISHED),
    "stylekd": Recipe("stylekd", latent_direction_weight=30.0, **_DISTANCES),
    "stylekd-published": Recipe("stylekd-published", **_STYLEKD_COMMAND),
    "dcp-published": Recipe("dcp-published", **_STYLEKD_COMMAND),
    "stylegan3": Recipe("stylegan3", **_STYLEGAN3),
    # Two GPUs with a batch of 8 each.
    "stylegan3-published": Recipe(
        "stylegan3-published", similarity_group=8, discriminator_start=RANDOM,
        perceptual_shrink=BILINEAR, ema_nimg=5000.0, **_STYLEGAN3,
    ),
    "sngan": Recipe(
        "sngan", SNGAN, batch=64, lr=0.0002, beta2=0.9, adversarial="hinge", d_steps=5,
        **_DISTANCES,
    ),
    "i2i": Recipe("i2i", TRANSLATION, paired_l1_weight=100.0, **_I2I),
    "i2i-published": Recipe(
        "i2i-published", TRANSLATION, paired_l1_weight=10.0, feature_weight=0.01, lr_decay=0.5,
        ema_nimg=0.0, **_I2I,
    ),
}  # fmt: skip

ABOUT = {
    "ganc": "best in our study: perceptual distance, latent directions, a weaker R1",
    "gan": "StyleGAN's own training",
    "cagan": "content-aware compression: masked distances to the teacher",
    "cagan-published": "the official command of content-aware compression",
    "stylekd": "StyleKD: distances and latent directions",
    "stylekd-published": "the official command of StyleKD",
    "dcp-published": "the official command of DCP-GAN, which trains as StyleKD's",
    "stylegan3": "stylekd with StyleGAN3's training settings",
    "stylegan3-published": "the official command of DCP-GAN for StyleGAN3",
    "sngan": "SN-GAN's own training, with distances to the teacher",
    "i2i": "pix2pix and CycleGAN",
    "i2i-published": "the official command of GAN Compression, one direction of a CycleGAN",
}
"""Recipe → what it is, in a phrase."""

OPPONENTS = tuple(name for name in RECIPES if name.endswith("-published"))
"""Recipes to compare with: help shows the defaults of the others."""

DEFAULTS = {STYLE: "ganc", SNGAN: "sngan", TRANSLATION: "i2i"}
"""Kind of training → the recipe of a run that names none."""

OWN_DEFAULTS = {"stylegan3": "stylegan3"}
"""Family → its own, where its kind's is not the one."""

TEACHER_WEIGHTS = ("l1_weight", "perceptual_weight", "latent_direction_weight", "feature_weight")


def default_recipe(architecture: str) -> str:
    """Return the recipe of a family's run that names none.

    Raises:
        UsageError: The family cannot be trained.
    """
    if architecture not in FAMILIES:
        raise unknown_name("architecture to train", architecture, FAMILIES)
    return OWN_DEFAULTS.get(architecture, DEFAULTS[FAMILIES[architecture].training])


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
    typed = check_numbers(overrides or {})
    resolved = dataclasses.replace(recipe, **typed)
    _check_effect(resolved, typed)
    return resolved


def check_numbers(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return recipe numbers, each of its field's type.

    Raises:
        UsageError: A name is unknown, or values are of the wrong type or out of range.
    """
    return declared.check_numbers({f.name: f for f in NUMBERS}, numbers, "recipe number")


def without_teacher(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """Return a recipe for a run without a teacher: what would compare with one is off.

    Args:
        overrides: What the user asked for.
    Raises:
        UsageError: The user asked for a term that needs a teacher.
    """
    for name in TEACHER_WEIGHTS:
        if overrides.get(name):
            raise UsageError(
                f"{flag_of(name)} compares with a teacher, there is none", "add --teacher"
            )
    off: dict[str, Any] = dict.fromkeys(TEACHER_WEIGHTS, 0.0)
    return dataclasses.replace(recipe, perceptual="none", **off)


def recipe_from_json(content: Mapping[str, Any], where: str) -> Recipe:
    """Rebuild a recipe from ``Recipe.to_json``.

    Raises:
        CheckpointError: Numbers are missing, unknown or not valid.
    """
    kind = content.get("kind")
    needed = ["name", "kind"] + [f.name for f in NUMBERS if is_read(f, str(kind))]
    missing = [name for name in needed if name not in content]
    if missing:
        raise CheckpointError(f"{where}: the recipe misses {', '.join(missing)}")
    numbers = {name: value for name, value in content.items() if name not in _HEAD}
    try:
        # Whether each has an effect was the business of whoever chose them.
        init = str(content.get("init", PRUNED))
        return Recipe(str(content["name"]), str(kind), init, **check_numbers(numbers))
    except UsageError as error:
        raise CheckpointError(f"{where}: {error}", error.hint) from error


def _check_effect(recipe: Recipe, overrides: Mapping[str, Any]) -> None:
    """Refuse numbers that contradict each other, or would not be used."""
    fields_of = {field.name: field for field in NUMBERS}
    for name, value in overrides.items():
        field = fields_of[name]
        if not is_read(field, recipe.kind) and value != field.default:
            raise UsageError(f"{flag_of(name)} has no effect: recipe {recipe.name} does not use it")
    if overrides.get("perceptual", "none") != "none" and recipe.perceptual_weight == 0:
        raise UsageError(
            f"--perceptual {recipe.perceptual} has no effect: the recipe gives it weight 0",
            f"add --perceptual-weight 3, or take --recipe {DEFAULTS[recipe.kind]}",
        )
    if recipe.adversarial == "task" and recipe.kind != TRANSLATION:
        raise UsageError(
            f"--adversarial task is the form of a translator's task, recipe {recipe.name} has none",
            f"pass one of {', '.join(ADVERSARIAL_NAMES)}",
        )
    if recipe.first_similarity_block > recipe.last_similarity_block:
        raise UsageError(
            f"--first-similarity-block {recipe.first_similarity_block} comes after"
            f" --last-similarity-block {recipe.last_similarity_block}"
        )
    if overrides.get("compared") == BOTH and recipe.latent_direction_weight == 0:
        raise UsageError(
            f"--compared {BOTH} has no effect: at --latent-direction-weight 0 there is no offset",
            "add --latent-direction-weight 30",
        )
    _check_augment(recipe, overrides)
    weights = (recipe.adversarial_weight, recipe.paired_l1_weight, recipe.cycle_weight)
    if not any(weights) and not recipe.distills:
        raise UsageError("the recipe gives the student no loss: all of its weights are 0")


def _check_augment(recipe: Recipe, overrides: Mapping[str, Any]) -> None:
    """Refuse an augmentation that nobody would see, and numbers of another one."""
    readers = {"augment_p": ("ada", "fixed")} | dict.fromkeys(_ADA_NUMBERS, ("ada",))
    for name, words in readers.items():
        if name in overrides and recipe.augment not in words:
            raise UsageError(
                f"{flag_of(name)} has no effect with --augment {recipe.augment}",
                f"add --augment {' or '.join(words)}",
            )
    if recipe.augment != "none" and recipe.adversarial_weight == 0:
        raise UsageError(
            f"--augment {recipe.augment} has no effect: the adversarial loss has weight 0"
        )
    if recipe.augment == "fixed" and recipe.augment_p == 0:
        raise UsageError("--augment fixed has no effect at probability 0", "add --augment-p 0.2")


_ADA_NUMBERS = ("ada_target", "ada_interval", "ada_nimg")
