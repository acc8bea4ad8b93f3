"""Every setting of the density method, as named plain data with a default.

Source: Ganjdanesh et al. 2024, "Compressing Image-to-Image Translation GANs Using Local Density
Structures on Their Learned Manifold" (MGGC). What the paper settles and what is ours is told in
``docs/density.md``; each open point is one field here, so that the faithful setting is a change of
a value and no change of code.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ganc.errors import UsageError
from ganc.families import ADVERSARIAL_NAMES
from ganc.options import check_numbers, number, text


@dataclass(frozen=True)
class DensityRecipe:
    """How gates for a generator and its discriminator are learned. All fields are JSON data."""

    steps: int = number(3000, "Steps of the two agents.", low=1)
    speedup: float = number(
        4.0, "The generator's MACs before / after that its gates are to reach.", low=1
    )
    discriminator_macs: float = number(
        0.5, "Share of the discriminator's MACs that its gates are to keep; 1 leaves it whole.",
        high=1,
    )  # fmt: skip
    min_width_share: float = number(
        0.0625, "Share of a group's channels that stay at least, and one.", high=1
    )
    keep_groups: str = text("none", "Groups that are not gated, separated by commas; or none.", ())
    encoder: str = text("trained", "What describes images where neighbours are looked for.", ())
    neighbours: int = number(
        0, "Neighbours of a centre; 0 takes one of 200 inputs, from 5 to 50.", low=0
    )
    metric: str = text(
        "cosine", "Distance between descriptions: cosine or euclidean.", ("cosine", "euclidean")
    )
    # Many neighbourhoods of one image each rather than few of many, at the same cost: a step then
    # sees more different inputs, and searches of different seeds agree (see docs/density.md).
    centers: int = number(4, "Neighbourhoods in a step.", low=1)
    images: int = number(1, "Images of each that a side of the game makes in a step.", low=1)
    share_draw: bool = number(False, "Show both sides the same inputs.")
    condition: str = text(
        "projection",
        "How the discriminator knows the centre: projection (of the centre's description onto its"
        " features) or batch (it sees one neighbourhood at a time, no more).",
        ("projection", "batch"),
    )
    adversarial: str = text(
        "task",
        "Form of the game: " + ", ".join(ADVERSARIAL_NAMES) + ", or task (the teacher's own).",
        (*ADVERSARIAL_NAMES, "task"),
    )
    gate: str = text(
        "hard",
        "Gates in the forward pass: hard (0 or 1, straight-through gradient) or soft.",
        ("hard", "soft"),
    )
    temperature: float = number(0.4, "Of the gates' sigmoid.", low=1e-3)
    gate_bias: float = number(3.0, "Added to every logit: gates start open.", low=-50)
    feedback: str = text(
        "h0",
        "How an agent hears of the other's architecture: h0 (its recurrent state starts from it),"
        " concat (it joins every input) or none.",
        ("h0", "concat", "none"),
    )
    budget: str = text(
        "two-sided",
        "Penalty |log(MACs / target)|, or one-sided: of more than the target alone.",
        ("two-sided", "one-sided"),
    )
    budget_weight: float = number(8.0, "Its weight for the generator.")
    discriminator_budget_weight: float = number(1.0, "Its weight for the discriminator.")
    adversarial_weight: float = number(0.1, "Weight of the game in the generator's loss.")
    anchor_weight: float = number(
        10.0, "Weight of the L1 distance to the teacher's image; 0 leaves the game alone."
    )
    lr: float = number(0.001, "Learning rate of the agents (AdamW).")
    weight_decay: float = number(0.001, "Their weight decay.")
    beta1: float = number(0.9, "First beta of AdamW.", high=1, below=True)
    beta2: float = number(0.999, "Second beta of AdamW.", high=1, below=True)
    grad_clip: float = number(1.0, "Largest norm of an agent's gradient.", low=1e-9)
    condition_lr: float = number(1e-4, "Learning rate of the projection.")
    # With the game alone a discriminator that learns finds more of the planted channels; beside the
    # anchor it soon tells all images apart and leads nowhere: see the evidence in docs/density.md.
    discriminator_lr: float = number(
        0.0, "Learning rate of the discriminator's weights during the search; 0 keeps them."
    )
    statistics: str = text(
        "image",
        "What batch norm uses meanwhile, on both sides: each image's own statistics, or those of"
        " the checkpoint.",
        ("image", "checkpoint"),
    )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return dataclasses.asdict(self)

    @property
    def kept_groups(self) -> list[str]:
        """The groups that are not gated, by name."""
        names = [name.strip() for name in self.keep_groups.split(",")]
        return [name for name in names if name and name != "none"]


SETTINGS = {field.name: field for field in dataclasses.fields(DensityRecipe)}
"""Name → field."""


def resolve_density(given: Mapping[str, Any]) -> DensityRecipe:
    """Return the recipe with some settings replaced.

    Raises:
        UsageError: A name is not known, a value is of the wrong type or out of range, or settings
            contradict each other.
    """
    recipe = DensityRecipe(
        **check_numbers(SETTINGS, given, "density setting", "--set {name}={value}")
    )
    if recipe.condition == "batch" and recipe.centers > 1:
        raise UsageError(
            f"--set centers={recipe.centers} does not go with condition=batch: the discriminator"
            " is to see one neighbourhood at a time",
            "add --set centers=1, or take condition=projection",
        )
    if recipe.discriminator_macs == 0:
        raise UsageError("--set discriminator_macs=0 leaves no discriminator", "1 keeps it whole")
    return recipe
