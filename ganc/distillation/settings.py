"""What a user chose, and what a resumed run must not change."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganc.distillation.reals import TEACHER
from ganc.distillation.recipes import Recipe, recipe_from_json, resolve_recipe
from ganc.errors import InputError

DEFAULT_RECIPE = "stylekd"


@dataclass(frozen=True)
class Choices:
    """The settings as they were given; None is "as the run has it", or the default.

    Attributes:
        recipe: A name, or a recipe of one's own.
        overrides: Numbers to replace in it.
        seed: Default 0.
        data: ``TEACHER`` (default), or a folder or zip of images.
        freeze_mapping: Keep the teacher's mapping network as it is. Default off.
        resize: Scale images of another size. Default off.
    """

    recipe: str | Recipe | None = None
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int | None = None
    data: str | Path | None = None
    freeze_mapping: bool | None = None
    resize: bool | None = None


@dataclass(frozen=True)
class Settings:
    """Everything that decides the losses, beside the networks and the images themselves."""

    recipe: Recipe
    seed: int
    data: str
    freeze_mapping: bool
    resize: bool

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON data."""
        return dataclasses.asdict(self)


def new_settings(choices: Choices) -> Settings:
    """Fill in the defaults.

    Raises:
        UsageError: The recipe or a number in it is not valid.
    """
    return Settings(
        recipe=resolve_recipe(choices.recipe or DEFAULT_RECIPE, choices.overrides),
        seed=choices.seed or 0,
        data=_data_name(choices.data or TEACHER),
        freeze_mapping=bool(choices.freeze_mapping),
        resize=bool(choices.resize),
    )


def resumed_settings(choices: Choices, saved: Mapping[str, Any], where: str) -> Settings:
    """Return the settings of a run that goes on.

    The data may have moved (its content is compared, elsewhere); all else must be as it was.

    Raises:
        InputError: A choice differs from the run's; all differences are named.
    """
    before = Settings(**{**saved, "recipe": recipe_from_json(saved["recipe"], where)})
    asked = dataclasses.replace(
        choices, recipe=choices.recipe or before.recipe, data=choices.data or before.data
    )
    defaults = new_settings(asked)
    now = dataclasses.replace(
        defaults,
        **{
            name: getattr(before, name)
            for name in ("seed", "freeze_mapping", "resize")
            if getattr(choices, name) is None
        },
    )
    differences = _differences(before.recipe.to_json(), now.recipe.to_json())
    differences += _differences(_flat(before), _flat(now))
    if differences:
        raise InputError(
            f"{where} has other settings: {'; '.join(differences)}",
            "drop these options to continue the run, or start a new one with another -o",
        )
    return now


def _flat(settings: Settings) -> dict[str, Any]:
    flat = settings.to_json()
    return {name: flat[name] for name in ("seed", "freeze_mapping", "resize")}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {before[name]} there and {now[name]} here"
        for name in before
        if before[name] != now[name]
    ]


def _data_name(data: str | Path) -> str:
    """Return the data's absolute path, so that a run can be resumed from another folder."""
    return TEACHER if data == TEACHER else str(Path(data).resolve())
