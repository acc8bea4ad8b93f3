"""A step of CycleGAN: both directions, and there and back again.

Source: Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
Networks", Sections 3 and 4, and 5.2 (identity loss); the generators take their step first, then the
discriminators, as in the public code.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ganc.adversarial import d_loss, g_loss
from ganc.distillation.pair_batches import SideBatch
from ganc.distillation.trainer import Losses, Terms
from ganc.distillation.trainers.losses import pixel_l1
from ganc.distillation.trainers.player import Player
from ganc.distillation.trainers.pool import ImagePool
from ganc.distillation.trainers.translation import TranslationTrainer, Way, suffixed
from ganc.families import task_form


class Journey(NamedTuple):
    """A way with the images at its ends."""

    way: Way
    back: Way
    source: Tensor
    goal: Tensor


class CycleTrainer(TranslationTrainer):
    """Trains two translators, each the way back of the other.

    Attributes:
        pools: Past images of each way.
    """

    def make_players(self) -> tuple[Player, Player]:
        players = super().make_players()
        size = self.recipe.pool_size
        self.pools = [ImagePool(size, self.draws, f"distill.pool{way.suffix}") for way in self.ways]
        return players

    def state(self) -> dict[str, Tensor]:
        kept = {name: images for pool in self.pools for name, images in pool.state().items()}
        return super().state() | kept

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        for pool in self.pools:
            pool.restore(state)

    def step(self, step: int, batch: SideBatch) -> Losses:
        self.dropout.start(step)
        with self.phase("g_main"):
            found, fakes = self.g_main(batch)
        if self.recipe.adversarial_weight:
            with self.phase("d_main"):
                found |= self.d_main(step, batch, fakes)
        with self.phase("ema"):
            self.finish_step(step)
        return found

    def g_main(self, batch: SideBatch) -> tuple[Losses, list[Tensor]]:
        """Teach both students to fool their discriminators and to undo each other.

        Returns:
            The losses, and what each way made.
        """
        terms: Terms = {}
        fakes: list[Tensor] = []
        with self.d.frozen():
            for journey in self._journeys(batch):
                made = self.translate(journey.way, journey.source)
                terms |= made.terms | suffixed(self._terms(journey, made.images), journey.way)
                fakes.append(made.images.detach())
            return self.descend_g(terms), fakes

    def _terms(self, journey: Journey, fake: Tensor) -> Terms:
        recipe, (way, back, source, goal) = self.recipe, journey
        terms: Terms = {}
        if recipe.adversarial_weight:
            loss = g_loss(self.form(task_form(is_paired=False)), way.discriminator(fake))
            terms["g_adversarial"] = (recipe.adversarial_weight, loss)
        if recipe.cycle_weight:
            terms["cycle"] = (recipe.cycle_weight, pixel_l1(back.generator(fake), source))
        identity_weight = recipe.cycle_weight * recipe.identity_weight
        # What is on the far side already should stay; it can where both have the same channels.
        if identity_weight and way.generator.in_channels == way.generator.img_channels:
            terms["identity"] = (identity_weight, pixel_l1(way.generator(goal), goal))
        return terms

    def d_main(self, step: int, batch: SideBatch, fakes: list[Tensor]) -> Losses:
        """Teach each discriminator to tell its side's images from translated ones, new and old."""
        losses: dict[str, Tensor] = {}
        for journey, pool, fake in zip(self._journeys(batch), self.pools, fakes, strict=True):
            judge = journey.way.discriminator
            shown = pool.exchange(step, fake)
            loss = d_loss(self.form(task_form(is_paired=False)), judge(journey.goal), judge(shown))
            losses[f"d_adversarial{journey.way.suffix}"] = loss
        total = torch.stack(list(losses.values())).sum()
        norm = self.d.descend(self.recipe.adversarial_weight * total)
        parts = {name: loss.detach() for name, loss in losses.items()}
        return {"d_loss": total.detach(), **parts, "d_grad_norm": norm}

    def _journeys(self, batch: SideBatch) -> Iterator[Journey]:
        there, back = self.ways
        yield Journey(there, back, batch.a, batch.b)
        yield Journey(back, there, batch.b, batch.a)
