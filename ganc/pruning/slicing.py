"""From a plan to a smaller model."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ganc import strict_json
from ganc.checkpoints.header import network_configs
from ganc.checkpoints.native import build_model
from ganc.errors import UsageError
from ganc.groups import check_groups, slice_tensors
from ganc.models.model import Model

Widths = dict[str, int]


@dataclass(frozen=True)
class PrunePlan:
    """Which channels stay.

    Attributes:
        keep: Group name → sorted indices of the kept channels. Absent groups stay whole.
        settings: How the plan came about (method, budget, allocation, …). JSON data.
    """

    keep: Mapping[str, Sequence[int]]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def widths(self) -> Widths:
        """Return group name → channels that stay, for the groups the plan speaks of."""
        return {name: len(channels) for name, channels in self.keep.items()}

    def to_json(self) -> str:
        """Return the plan as a JSON document."""
        keep = {name: list(channels) for name, channels in self.keep.items()}
        return json.dumps({"keep": keep, "settings": dict(self.settings)})

    @classmethod
    def from_json(cls, text: str) -> "PrunePlan":
        """Read what ``to_json`` wrote.

        Raises:
            UsageError: It is something else.
        """
        return strict_json.read(text, cls, "the plan", UsageError)


def apply_plan(model: Model, plan: PrunePlan) -> Model:
    """Slice a model; any valid plan, the identity included.

    Returns:
        A new model in eval mode. Its provenance records the plan.
    Raises:
        UsageError: The plan names unknown groups or channels, or empties a group.
        ShapeError: The model declares a slice of a tensor that it does not have.
        CheckpointError: It has a tensor that depends on a width and belongs to no group.
    """
    whole = model.tensors()
    check_groups(model.groups, {name: tuple(tensor.shape) for name, tensor in whole.items()})
    tensors = slice_tensors(whole, model.groups, plan.keep)
    config = with_widths(model.config, plan.widths())
    kept = {name: list(channels) for name, channels in plan.keep.items()}
    provenance = model.with_step("prune", settings=dict(plan.settings), kept=kept)
    return build_model(model.architecture, config, tensors, provenance)


def with_widths(config: Mapping[str, Any], widths: Mapping[str, int]) -> dict[str, Any]:
    """Return a model's config at other group widths; groups that are not named keep theirs."""
    changed = copy.deepcopy(dict(config))
    configs = {"": changed} | {
        f"{name}.": changed[name]["config"] for name in network_configs(changed) if name in changed
    }
    for group, width in widths.items():
        network = next(p for p in sorted(configs, key=len, reverse=True) if group.startswith(p))
        configs[network]["widths"][group.removeprefix(network)] = width
    return changed
