"""The game around each centre: the teacher's images of a neighbourhood against the gated ones.

For centre i, inputs j and l are drawn from its neighbourhood; the teacher's image of l plays the
real one, the gated generator's image of j the made one, and the judge knows i. Matching every local
density bounds the mismatch of the whole (the Jensen-Shannon divergence is jointly convex), while a
game over the whole data set may be small with mass moved between neighbourhoods. The equations are
ours; Ganjdanesh et al. 2024 (MGGC) say what is played, not how (``docs/density.md``).

Images are made a few at a time and their gradients with respect to the gates added up, so that a
step takes no more memory than so many images do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganc import collectives, seeds
from ganc.adversarial import d_loss, g_loss
from ganc.scoring.density.gates import GatedNetwork
from ganc.scoring.density.inputs import InputBatch, TrainingInputs
from ganc.scoring.density.judge import Judge
from ganc.scoring.density.neighbours import Neighbourhoods
from ganc.scoring.density.recipe import DensityRecipe

Losses = dict[str, Tensor]
"""Name → a scalar on the device, detached: this process's share of a mean over the step."""


class Draw(NamedTuple):
    """What a step looks at: as many centres, inputs of made images and inputs of real ones."""

    centers: list[int]
    fakes: list[int]
    reals: list[int]

    def part(self, positions: range) -> "Draw":
        """Return some of it."""
        return Draw(*([column[i] for i in positions] for column in self))


@dataclass(frozen=True, eq=False)
class Game:
    """The players of one side, their inputs and their rules.

    Attributes:
        generator: The teacher; with gates, its pruned self.
        judge: The discriminator.
        inputs, neighbourhoods, recipe: What is played about, and how.
        form: Of the adversarial loss.
        seed: Feeds the stream "density.draws".
        batch: Images that are made at once; changes no number but by rounding.
        device: Where everything lies.
    """

    generator: GatedNetwork
    judge: Judge
    inputs: TrainingInputs
    neighbourhoods: Neighbourhoods
    recipe: DensityRecipe
    form: str
    seed: int
    batch: int
    device: torch.device

    def draw(self, step: int) -> Draw:
        """Draw the centres of a step, and inputs from their neighbourhoods."""
        random = seeds.generator(self.seed, "density.draws", step)
        count, recipe = len(self.neighbourhoods.neighbours), self.recipe
        centers = random.integers(count, size=recipe.centers)
        draw = Draw([], [], [])
        for center in centers.tolist():
            members = self.neighbourhoods.members(center).numpy()
            made = random.choice(members, size=recipe.images)
            shown = random.choice(members, size=recipe.images)
            draw.centers.extend([center] * recipe.images)
            draw.fakes.extend(made.tolist())
            draw.reals.extend((made if recipe.share_draw else shown).tolist())
        return draw

    def judge_step(self, draw: Draw, gates: Tensor, judge_gates: Tensor | None) -> Losses:
        """Add the gradients of the judge's loss to whatever of it wants them.

        Args:
            gates: The generator's, without gradient.
            judge_gates: The judge's; None for all open.
        """
        total = dict.fromkeys(("d_loss", "d_real", "d_fake"), torch.zeros((), device=self.device))
        for part, share in self._parts(draw):
            made, shown = (self.inputs.feed(i, self.device) for i in (part.fakes, part.reals))
            with torch.no_grad():
                fake = self.generator.run(made.run, gates)
                real = shown.run()
            centers = self._describe(part.centers)
            fake_logits = self._judge(made, fake, centers, judge_gates)
            real_logits = self._judge(shown, real, centers, judge_gates)
            loss = share * d_loss(self.form, real_logits, fake_logits)
            loss.backward()
            total["d_loss"] = total["d_loss"] + loss.detach()
            total["d_real"] = total["d_real"] + share * real_logits.detach().mean()
            total["d_fake"] = total["d_fake"] + share * fake_logits.detach().mean()
        return total

    def generator_step(self, draw: Draw, gates: Tensor, judge_gates: Tensor | None) -> Losses:
        """Add the gradients of the generator's loss to its gates.

        Args:
            gates: The generator's, a leaf that wants gradients.
            judge_gates: The judge's, without; None for all open.
        """
        recipe = self.recipe
        names = ("g_loss", "anchor") if recipe.anchor_weight else ("g_loss",)
        total = dict.fromkeys(names, torch.zeros((), device=self.device))
        for part, share in self._parts(draw):
            feed = self.inputs.feed(part.fakes, self.device)
            fake = self.generator.run(feed.run, gates)
            logits = self._judge(feed, fake, self._describe(part.centers), judge_gates)
            losses = {"g_loss": share * recipe.adversarial_weight * g_loss(self.form, logits)}
            if recipe.anchor_weight:
                with torch.no_grad():
                    target = feed.run()
                losses["anchor"] = share * recipe.anchor_weight * (fake - target).abs().mean()
            torch.stack(list(losses.values())).sum().backward()
            for name, loss in losses.items():
                total[name] = total[name] + loss.detach()
        return total

    def _parts(self, draw: Draw) -> Iterator[tuple[Draw, float]]:
        """Yield what this process makes at once, and its share of the step."""
        own = range(collectives.rank(), len(draw.centers), collectives.world_size())
        for start in range(0, len(own), self.batch):
            positions = own[start : start + self.batch]
            yield draw.part(positions), len(positions) / len(draw.centers)

    def _describe(self, centers: list[int]) -> Tensor:
        return self.neighbourhoods.features[np.asarray(centers)].to(self.device)

    def _judge(
        self, feed: InputBatch, images: Tensor, centers: Tensor, gates: Tensor | None
    ) -> Tensor:
        logits: Tensor = self.judge(seen(feed, images), feed.labels, centers, gates)
        return logits


def seen(feed: InputBatch, images: Tensor) -> Tensor:
    """Return what a discriminator sees of images: of pairs, the condition in front."""
    return images if feed.condition is None else torch.cat([feed.condition, images], dim=1)
