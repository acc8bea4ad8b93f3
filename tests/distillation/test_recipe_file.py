"""Recipes of one's own, read from TOML."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganc.distillation.recipe_file import read_recipe
from ganc.distillation.recipes import RECIPES
from ganc.errors import InputError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_file_is_its_base_with_other_numbers(tmp_path: Path) -> None:
    text = 'base = "stylekd"\nl1_weight = 1\nr1-gamma = 2.5\nmirror = true\n'
    recipe = read_recipe(write(tmp_path / "mine.toml", text))
    expected = RECIPES["stylekd"].to_json() | {
        "name": "mine", "l1_weight": 1.0, "r1_gamma": 2.5, "mirror": True
    }  # fmt: skip
    assert recipe.to_json() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l1_weight = 1", "mine.toml names no base"),
        ('base = "stylkd"', "mine.toml: unknown recipe `stylkd`"),
        ('base = "gan"\nr1_gama = 1', "mine.toml: unknown recipe number `r1_gama`"),
        ('base = "gan"\nlr = -1', "mine.toml: lr -1 is out of range"),
        ('base = "gan"\nlr = "fast"', "mine.toml: lr fast must be a number"),
        ('base = "gan"\n[losses]\nlr = 1', "mine.toml: losses is a table or list"),
        ('base = "sngan"\nr1_gamma = 1.0', "mine.toml: r1-gamma has no effect"),
        ("base = gan", "mine.toml is not a TOML file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_recipe(write(tmp_path / "mine.toml", text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.toml cannot be read: no such file"):
        read_recipe(tmp_path / "no.toml")


def test_a_run_takes_the_file_and_the_flags_win(train: Callable[..., Any], tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", 'base = "stylekd"\nl1_weight = 1.5\nlr = 0.001\n')
    train(steps=1, recipe=str(path), overrides={"lr": 0.005})
    kept = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (kept["name"], kept["l1_weight"], kept["lr"]) == ("mine", 1.5, 0.005)
    path.unlink()
    train(steps=2, resume="latest", overrides={})
