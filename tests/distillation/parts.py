"""Trainers of every kind as a run puts them together, without its folder and its data."""

import copy
from typing import Any

import torch

from ganc.distillation.draws import Draws
from ganc.distillation.execution import Execution
from ganc.distillation.networks import starting_model
from ganc.distillation.recipes import Recipe
from ganc.distillation.trainer import Parts
from ganc.models.model import Model
from ganc.progress import ignore

CPU = torch.device("cpu")


def make_parts(
    student: Model,
    teacher: Model | None,
    recipe: Recipe,
    execution: Execution | None = None,
    *,
    unpaired: bool | None = None,
    **other: Any,
) -> Parts:
    """Return the parts of a trainer; ``other`` replaces some of them."""
    execution = execution or Execution(CPU)
    start = starting_model(student, teacher, 0, "pruned", ignore, unpaired=unpaired)
    parts: dict[str, Any] = {
        "student": start,
        "ema": copy_of_generators(start),
        "teacher": None if teacher is None else copy_of_generators(teacher),
        "recipe": recipe,
        "draws": Draws(0, recipe.batch, execution.device),
        "perceptual": None,
        "masks": None,
        "execution": execution,
    }
    parts |= other
    for name in ("student", "ema", "teacher"):
        if parts[name] is not None:
            parts[name] = execution.place(parts[name])
    return Parts(**parts)


def copy_of_generators(model: Model) -> Model:
    """Return copies of a model's generators."""
    generators: dict[str, Any] = {
        name: copy.deepcopy(network)
        for name, network in model.networks()
        if name.startswith("generator")
    }
    return Model(**generators)
