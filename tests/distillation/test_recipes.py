"""Recipes: the published numbers, overrides and their errors, the JSON round trip."""

import json
from typing import Any

import pytest

from ganc.distillation.recipes import (
    NUMBERS,
    OPPONENTS,
    PERCEPTUAL_NAMES,
    RECIPES,
    Recipe,
    default_recipe,
    recipe_from_json,
    resolve_recipe,
)
from ganc.errors import CheckpointError, UsageError
from ganc.families import FAMILIES
from ganc.perceptual.distance import PERCEPTUAL_DISTANCES


def test_stylekd_has_the_published_weights() -> None:
    recipe = RECIPES["stylekd"]
    assert (recipe.l1_weight, recipe.perceptual_weight, recipe.latent_direction_weight) == (
        3,
        3,
        30,
    )
    assert recipe.perceptual == "lpips-vgg"
    assert (recipe.r1_gamma, recipe.r1_interval) == (10, 16)
    assert (recipe.pl_weight, recipe.pl_interval) == (2, 4)
    assert (recipe.batch, recipe.mixing_prob, recipe.lr) == (16, 0.9, 0.002)


OFFICIAL = {
    "cagan-published": {
        "content": "bisenet", "init": "pruned", "noise": "fresh", "pl_start": "zero",
        "r1_step": "own", "discriminator_start": "inherited", "perceptual": "lpips-vgg",
        "perceptual_shrink": "bilinear", "ema_nimg": 5000, "mirror": True,
        "latent_direction_weight": 0, "lr": 0.002, "l1_weight": 3, "perceptual_weight": 3,
    },
    "dcp-published": {
        "init": "scratch", "noise": "fresh", "similarity_group": 4, "r1_step": "main",
        "discriminator_start": "random", "ema_nimg": 5000, "mirror": True, "content": "none",
    },
    "stylegan3-published": {
        "init": "pruned", "mixing_prob": 0, "pl_weight": 0, "lr": 0.0025, "d_lr": 0.002,
        "augment": "ada", "ada_target": 0.6, "first_similarity_block": 1,
        "last_similarity_block": 2, "similarity_group": 8, "compared": "both", "ema_nimg": 5000,
        "ema_rampup": 0.05, "r1_step": "own", "discriminator_start": "random", "mirror": False,
    },
    "i2i-published": {
        "lr": 0.0002, "lr_decay": 0.5, "ema_nimg": 0, "paired_l1_weight": 10,
        "feature_weight": 0.01, "batch": 1, "beta1": 0.5, "beta2": 0.999,
    },
}  # fmt: skip
"""What the official commands say, beside what all of a kind have."""


@pytest.mark.parametrize("name", OFFICIAL)
def test_opponents_are_the_official_commands(name: str) -> None:
    recipe = RECIPES[name]
    assert {key: getattr(recipe, key) for key in OFFICIAL[name]} == OFFICIAL[name]
    assert name in OPPONENTS


def test_a_family_has_the_default_that_it_is_trained_with() -> None:
    names = {name: default_recipe(name) for name in ("stylegan2", "stylegan3", "sngan")}
    assert names == {"stylegan2": "ganc", "stylegan3": "stylegan3", "sngan": "sngan"}
    assert {default_recipe(name) for name in FAMILIES} <= RECIPES.keys() - {*OPPONENTS}
    assert (RECIPES["stylegan3"].mixing_prob, RECIPES["stylegan3"].pl_weight) == (0, 0)


def test_images_that_are_not_made_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="there is no offset"):
        resolve_recipe("gan", {"compared": "both"})


def test_gan_has_no_distillation_term() -> None:
    recipe = RECIPES["gan"]
    assert recipe.l1_weight == recipe.perceptual_weight == recipe.latent_direction_weight == 0
    assert not recipe.uses_perceptual


def test_perceptual_names_are_those_of_the_perceptual_package() -> None:
    assert {*PERCEPTUAL_NAMES} == {*PERCEPTUAL_DISTANCES, "none"}


def test_every_number_has_help() -> None:
    assert all(field.metadata["help"].endswith(".") for field in NUMBERS)


def test_overrides_replace_numbers_and_nothing_else() -> None:
    recipe = resolve_recipe("stylekd", {"batch": 8, "lr": 1, "mirror": True})
    assert (recipe.batch, recipe.lr, recipe.mirror) == (8, 1.0, True)
    assert isinstance(recipe.lr, float)
    assert recipe.l1_weight == RECIPES["stylekd"].l1_weight
    assert RECIPES["stylekd"].batch == 16


@pytest.mark.parametrize("name", RECIPES)
def test_json_round_trip(name: str) -> None:
    recipe = resolve_recipe(name, {"lr": 0.1})
    assert recipe_from_json(json.loads(json.dumps(recipe.to_json())), "file") == recipe


@pytest.mark.parametrize("name", ["gan", "sngan"])
def test_only_translators_have_a_task(name: str) -> None:
    with pytest.raises(UsageError, match=f"recipe {name} has none") as caught:
        resolve_recipe(name, {"adversarial": "task"})
    assert caught.value.hint == "pass one of non-saturating, hinge, lsgan, bce"
    assert resolve_recipe("i2i", {"adversarial": "task"}).adversarial == "task"


def test_a_number_without_effect_does_not_stop_a_resume() -> None:
    recipe = resolve_recipe("cagan", {"perceptual_weight": 0.0})
    assert recipe_from_json(recipe.to_json(), "file") == recipe


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown recipe `stylkd`") as caught:
        resolve_recipe("stylkd")
    assert caught.value.hint == "did you mean `stylekd`?"
    with pytest.raises(UsageError, match="unknown recipe number `r1_gama`") as caught:
        resolve_recipe("gan", {"r1_gama": 1.0})
    assert caught.value.hint == "did you mean `r1_gamma`?"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"batch": 0}, "--batch 0 is out of range; allowed: 1 and more"),
        ({"batch": 2.5}, "--batch 2.5 must be a whole number"),
        ({"batch": True}, "--batch True must be a whole number"),
        ({"lr": "fast"}, "--lr fast must be a number"),
        ({"lr": float("nan")}, "--lr nan is out of range"),
        ({"beta2": 1.0}, r"--beta2 1.0 is out of range; allowed: \[0, 1\)"),
        ({"mixing_prob": 1.1}, r"--mixing-prob 1.1 is out of range; allowed: \[0, 1\]"),
        ({"mirror": 1}, "--mirror 1 must be true or false"),
        ({"perceptual": "vgg"}, "--perceptual vgg is not known; allowed: lpips-vgg"),
        ({"batch": 0, "lr": -1.0}, "--batch 0 .*; --lr -1.0 "),
    ],
)
def test_bad_values_are_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_recipe("stylekd", overrides)


def test_a_perceptual_network_without_weight_is_refused() -> None:
    with pytest.raises(UsageError, match="has no effect"):
        resolve_recipe("gan", {"perceptual": "effnet-lite0"})
    both = resolve_recipe("gan", {"perceptual": "effnet-lite0", "perceptual_weight": 3.0})
    assert both.uses_perceptual
    assert not resolve_recipe("stylekd", {"perceptual": "none"}).uses_perceptual


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"adversarial_weight": 0.0}, "gives the student no loss"),
        ({"first_similarity_block": 6}, "--first-similarity-block 6 comes after"),
        ({"augment_p": 0.2}, "--augment-p has no effect with --augment none"),
        ({"augment": "fixed"}, "--augment fixed has no effect at probability 0"),
        ({"augment": "fixed", "augment_p": 0.2, "ada_nimg": 1000}, "--ada-nimg has no effect"),
        (
            {"augment": "ada", "adversarial_weight": 0.0, "l1_weight": 1.0},
            "--augment ada has no effect: the adversarial loss has weight 0",
        ),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(
    overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_recipe("gan", overrides)


def test_damaged_json_is_refused() -> None:
    content = Recipe("mine").to_json()
    del content["lr"]
    with pytest.raises(CheckpointError, match="file: the recipe misses lr"):
        recipe_from_json(content, "file")
    with pytest.raises(CheckpointError, match="file: --lr -1"):
        recipe_from_json(content | {"lr": -1.0}, "file")
