"""A step of SN-GAN: several steps of the discriminator, then one of the generator.

Source: Miyato et al. 2018 (SN-GAN), Section 4, and the public mimicry code: every step of the
discriminator has real images and latents of its own, both networks stay in train mode, so batch
norm uses the batch's statistics and every pass through the discriminator improves its sigmas. The
teacher's terms are those of Liu et al. 2021 (Content-Aware GAN Compression).
"""

import torch
from torch import Tensor

from ganc.adversarial import d_loss, g_loss
from ganc.distillation.reals import RealBatch
from ganc.distillation.trainer import Losses, Parts, Terms, Trainer, network_of
from ganc.distillation.trainers.batch_norm import global_batch_norm
from ganc.distillation.trainers.player import Player
from ganc.families import SNGAN
from ganc.models.model import Model
from ganc.models.network import LatentGenerator


class SnganTrainer(Trainer[RealBatch]):
    """Trains a generator of latents against a discriminator and, if there is one, a teacher.

    Attributes:
        generator, discriminator: Of the student.
    """

    kind = SNGAN
    is_recordable = True

    def __init__(self, parts: Parts) -> None:
        self.generator = latent_generator(parts.student)
        self.discriminator = parts.student.discriminator
        super().__init__(parts)

    def make_players(self) -> tuple[Player, Player]:
        global_batch_norm(self.generator)
        for network in (self.generator, self.discriminator):
            network.train()
        for frozen in (self.ema, self.teacher):
            for _, network in frozen.networks() if frozen else ():
                network.eval()
        return (
            Player({"generator": self.generator}, self.recipe),
            Player({"discriminator": self.discriminator}, self.recipe, lr=self.recipe.d_lr),
        )

    def step(self, step: int, batch: RealBatch) -> Losses:
        """See ``Trainer.step``; of the discriminator's losses the last are returned."""
        found, turns = Losses(), self.recipe.d_steps
        if self.recipe.adversarial_weight:
            for turn, images in enumerate(batch.images.chunk(turns)):
                found = self.run("d_main", self.d_main, step * turns + turn, images)
                found |= self.follow(step * turns + turn)
        found |= self.run("g_main", self.g_main, step)
        with self.phase("ema"):
            self.finish_step(step)
        return found

    def d_main(self, turn: int, images: Tensor) -> Losses:
        """Teach the discriminator to tell real images from the student's.

        Args:
            turn: Steps of the discriminator before this one.
            images: Real, [N, C, H, W].
        """
        with torch.no_grad():
            fake = self.generator(self._z("distill.d", turn))
        real_logits = self.discriminator(self.seen(images, "d.real", turn))
        fake_logits = self.discriminator(self.seen(fake, "d.fake", turn))
        loss = d_loss(self.recipe.adversarial, real_logits, fake_logits)
        norm = self.d.descend(self.recipe.adversarial_weight * loss)
        found = {"d_loss": loss.detach(), "d_grad_norm": norm}
        return found | self.look(real_logits)

    def g_main(self, step: int) -> Losses:
        """Teach the student to fool the discriminator and to follow the teacher."""
        z = self._z("distill.g", step)
        target = self._target(z)
        images = self.generator(z)
        terms: Terms = {} if target is None else self.imitation_terms(images, target)
        with self.d.frozen():
            if self.recipe.adversarial_weight:
                logits = self.discriminator(self.seen(images, "g", step))
                loss = g_loss(self.recipe.adversarial, logits)
                terms["g_adversarial"] = (self.recipe.adversarial_weight, loss)
            return self.descend_g(terms)

    @torch.no_grad()
    def _target(self, z: Tensor) -> Tensor | None:
        """Return the teacher's images of the same latents, [N, C, H, W], if they are asked for."""
        if self.teacher is None or not self.recipe.distills:
            return None
        with self.phase("teacher"):
            images: Tensor = self.teacher.generator(z)
        return images

    def _z(self, stream: str, index: int) -> Tensor:
        return self.draws.normal(stream, index, self.generator.z_dim)


def latent_generator(model: Model) -> LatentGenerator:
    """Return a model's generator, which must turn latents into images."""
    generator = network_of(model)
    assert isinstance(generator, LatentGenerator)
    return generator
