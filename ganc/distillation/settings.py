"""What a user chose, and what a resumed run must not change."""

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganc.content.forms import names_code
from ganc.distillation.reals import TEACHER
from ganc.distillation.recipe_file import SUFFIX, read_recipe
from ganc.distillation.recipes import (
    DEFAULTS,
    Recipe,
    check_numbers,
    default_recipe,
    recipe_from_json,
    resolve_recipe,
    without_teacher,
)
from ganc.errors import InputError, UsageError
from ganc.families import FAMILIES, STYLE, TRANSLATION


@dataclass(frozen=True)
class Choices:
    """The settings as they were given; None is "as the run has it", or the default.

    Attributes:
        recipe: A name, a file (see ``recipe_file``), or a ``Recipe``. The default is the family's.
        overrides: Numbers to replace in it.
        seed: Default 0.
        data: ``TEACHER`` (default), or a folder or zip of images.
        data_b: Of translators: images of the other side, where ``data`` holds one side only.
        swap: Of translators: translate from the second side to the first. Default off.
        unpaired: Of translators: whether the images of the sides have nothing to do with each
            other. Default: as the networks were trained; see ``networks.starting_model``.
        resize: Scale images of another size. Default off.
    """

    recipe: str | Recipe | None = None
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int | None = None
    data: str | Path | None = None
    data_b: str | Path | None = None
    swap: bool | None = None
    unpaired: bool | None = None
    resize: bool | None = None

    def check(self) -> None:
        """Find what is wrong with the recipe before any model is loaded.

        Raises:
            UsageError: The recipe or a number in it is not valid.
        """
        if self.recipe is not None:
            self.resolve(self.recipe)
        else:
            check_numbers(self.overrides)

    def resolve(self, recipe: str | Recipe) -> Recipe:
        """Return a recipe, its file read where it is one, with the overrides.

        Raises:
            UsageError: It is not known, or an override is not valid.
            InputError: Its file does not hold one, or names code that the caller does not.
        """
        if isinstance(recipe, str) and recipe.endswith(SUFFIX):
            path, recipe = Path(recipe), read_recipe(Path(recipe))
            self.check_code(recipe, str(path))
        return resolve_recipe(recipe, self.overrides)

    def check_code(self, recipe: Recipe, where: str) -> None:
        """Refuse code that a file names and the caller does not: a module would be imported.

        Args:
            recipe: From a file.
            where: The file.
        Raises:
            InputError: ``content`` is a function there, and not asked for here.
        """
        is_named = "content" in self.overrides or isinstance(self.recipe, Recipe)
        if names_code(recipe.content) and not is_named:
            raise InputError(
                f"{where} names code to run, content = {recipe.content}",
                f"pass --content {shlex.quote(recipe.content)} where you trust it",
            )


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides the losses, beside the networks and the images themselves."""

    recipe: Recipe
    seed: int
    data: str
    data_b: str | None
    swap: bool
    unpaired: bool | None
    resize: bool

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON data."""
        return {**vars(self), "recipe": self.recipe.to_json()}


COMPARED = ("seed", "swap", "unpaired", "resize")
"""What a resumed run must keep, beside the recipe; data may move, their content is compared."""


def new_settings(choices: Choices, architecture: str, *, has_teacher: bool) -> TrainingSettings:
    """Fill in the defaults.

    Raises:
        UsageError: The recipe or a number in it is not valid, or does not go with the architecture
            or the missing teacher; translators have no data.
    """
    recipe = choices.resolve(choices.recipe or _default(architecture, has_teacher))
    if not has_teacher:
        recipe = without_teacher(recipe, choices.overrides)
    kind = FAMILIES[architecture].training
    if recipe.kind != kind:
        raise UsageError(
            f"recipe {recipe.name} does not train a {architecture}",
            f"pass --recipe {default_recipe(architecture)}",
        )
    _check_data(choices, architecture, is_translator=kind == TRANSLATION)
    return TrainingSettings(
        recipe=recipe,
        seed=choices.seed or 0,
        data=_data_name(choices.data or TEACHER),
        data_b=None if choices.data_b is None else _data_name(choices.data_b),
        swap=bool(choices.swap),
        unpaired=choices.unpaired,
        resize=bool(choices.resize),
    )


def _default(architecture: str, has_teacher: bool) -> str:
    name = default_recipe(architecture)
    return "gan" if name == DEFAULTS[STYLE] and not has_teacher else name


def _check_data(choices: Choices, architecture: str, *, is_translator: bool) -> None:
    if is_translator and choices.data in (None, TEACHER):
        raise UsageError(
            f"a {architecture} translates images: there is nothing to train it on without --data",
            "pass --data with a folder or zip of images",
        )
    given = {"--data-b": choices.data_b, "--swap": choices.swap, "--unpaired": choices.unpaired}
    for flag, value in given.items():
        if not is_translator and value:
            raise UsageError(f"{flag} goes with translators, the model is a {architecture}")


def resumed_settings(
    choices: Choices,
    saved: Mapping[str, Any],
    where: str,
    architecture: str,
    *,
    has_teacher: bool,
) -> TrainingSettings:
    """Return the settings of a run that goes on.

    The data may have moved (its content is compared, elsewhere); all else must be as it was.

    Raises:
        InputError: A choice differs from the run's; all differences are named. Or the run names
            code, and the caller does not.
    """
    before = TrainingSettings(**{**saved, "recipe": recipe_from_json(saved["recipe"], where)})
    choices.check_code(before.recipe, where)
    kept = {n: getattr(before, n) for n in COMPARED if getattr(choices, n) is None}
    asked = dataclasses.replace(
        choices,
        recipe=choices.recipe or before.recipe,
        data=choices.data or before.data,
        data_b=choices.data_b or before.data_b,
        **kept,
    )
    now = new_settings(asked, architecture, has_teacher=has_teacher)
    differences = _differences(before.recipe.to_json(), now.recipe.to_json())
    differences += _differences(_compared(before), _compared(now))
    if differences:
        raise InputError(
            f"{where} has other settings: {'; '.join(differences)}",
            "drop these options to continue the run, or start a new one with another -o",
        )
    return now


def _compared(settings: TrainingSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in COMPARED}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {before.get(name)} there and {now.get(name)} here"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _data_name(data: str | Path) -> str:
    """Return the data's absolute path, so that a run can be resumed from another folder."""
    return TEACHER if data == TEACHER else str(Path(data).resolve())
