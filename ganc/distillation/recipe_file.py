"""A user's own recipe, as a TOML file.

base = "stylekd"          # what it starts from
perceptual = "effnet-lite0"
l1_weight = 1.0           # or l1-weight, as the flag is called
"""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from ganc.distillation.recipes import RECIPES, Recipe, resolve_recipe
from ganc.errors import InputError, UsageError

SUFFIX = ".toml"


def read_recipe(path: Path) -> Recipe:
    """Read a recipe: the one that ``base`` names, with the file's numbers, named as the file.

    Raises:
        InputError: The file cannot be read, is not TOML, names no base, or holds an unknown or
            unsuitable number.
    """
    content = {key.replace("-", "_"): value for key, value in _read(path).items()}
    base = content.pop("base", None)
    if base is None:
        raise InputError(f"{path} names no base", f'add base = "{next(iter(RECIPES))}" or another')
    nested = [name for name, value in content.items() if isinstance(value, dict | list)]
    if nested:
        raise InputError(f"{path}: {nested[0]} is a table or list, a recipe is flat")
    try:
        recipe = resolve_recipe(str(base), content)
    except UsageError as error:
        raise InputError(f"{path}: {error.message.replace('--', '')}", error.hint) from error
    return replace(recipe, name=path.stem)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path} cannot be read: {reason}", "check the path") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, too deep
        raise InputError(f"{path} is not a TOML file: {error}") from error
