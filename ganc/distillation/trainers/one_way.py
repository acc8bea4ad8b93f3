"""A step of pix2pix, and of one direction of a CycleGAN that learns from its teacher alone.

Source: Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks",
Section 3 and the public code's order: translate, then the discriminator's step, then the
generator's. Without pairs the teacher's image takes the place of the paired one, and the
discriminator judges images without their input: Li et al. 2020 (GAN Compression), Section 3.2.
"""

import torch
from torch import Tensor

from ganc.adversarial import d_loss, g_loss
from ganc.distillation.pair_batches import SideBatch
from ganc.distillation.trainer import Losses
from ganc.distillation.trainers.losses import pixel_l1
from ganc.distillation.trainers.player import Player
from ganc.distillation.trainers.translation import Translated, TranslationTrainer
from ganc.errors import UsageError
from ganc.families import task_form
from ganc.models.translation import judges_pairs


class OneWayTrainer(TranslationTrainer):
    """Trains one translator.

    Attributes:
        is_paired: Whether the data are pairs; the discriminator then sees input and image.
    """

    def make_players(self) -> tuple[Player, Player]:
        players = super().make_players()
        (self.way,) = self.ways
        self.is_paired = judges_pairs(self.way.discriminator, self.way.generator)
        if not self.is_paired and self.teacher is None:
            raise UsageError(
                "one direction alone, on unpaired images, learns what to make of its input from a"
                " teacher only, and there is none",
                "pass --teacher, or a student with both directions, or --no-unpaired for pairs",
            )
        recipe = self.recipe
        if not (recipe.adversarial_weight or recipe.paired_l1_weight or recipe.distills):
            raise UsageError(
                "the recipe gives the student no loss: one direction has no cycle",
                "add --adversarial-weight or --paired-l1-weight",
            )
        return players

    def uses_target(self) -> bool:
        replaces_pair = self.recipe.paired_l1_weight > 0 and not self.is_paired
        return super().uses_target() or replaces_pair

    def step(self, step: int, batch: SideBatch) -> Losses:
        found = Losses()
        self.dropout.start(step)
        with self.phase("translate"):
            made = self.translate(self.way, batch.a)
        if self.recipe.adversarial_weight:
            with self.phase("d_main"):
                found |= self.d_main(batch, made.images.detach())
        with self.phase("g_main"):
            found |= self.g_main(batch, made)
        with self.phase("ema"):
            self.finish_step(step)
        return found

    def d_main(self, batch: SideBatch, fake: Tensor) -> Losses:
        """Teach the discriminator to tell the images of side B from translated ones."""
        loss = d_loss(
            self._form, self._judge(batch.a, batch.b), self._judge(batch.a, fake)
        )  # fmt: skip
        norm = self.d.descend(self.recipe.adversarial_weight * loss)
        return {"d_loss": loss.detach(), "d_grad_norm": norm}

    def g_main(self, batch: SideBatch, made: Translated) -> Losses:
        """Teach the student to fool the discriminator, and to make the image that is known."""
        recipe, terms = self.recipe, dict(made.terms)
        goal = batch.b if self.is_paired else made.target
        if recipe.paired_l1_weight:
            assert goal is not None
            terms["paired_l1"] = (recipe.paired_l1_weight, pixel_l1(made.images, goal))
        with self.d.frozen():
            if recipe.adversarial_weight:
                loss = g_loss(self._form, self._judge(batch.a, made.images))
                terms["g_adversarial"] = (recipe.adversarial_weight, loss)
            return self.descend_g(terms)

    @property
    def _form(self) -> str:
        return self.form(task_form(is_paired=self.is_paired))

    def _judge(self, condition: Tensor, images: Tensor) -> Tensor:
        """Return the logits of images, [N, 1, h, w]; of pairs with the condition in front."""
        seen = torch.cat([condition, images], dim=1) if self.is_paired else images
        logits: Tensor = self.way.discriminator(seen)
        return logits
