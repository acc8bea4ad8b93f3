"""A step of StyleGAN2 and StyleGAN3: a short method per phase, each with its own optimiser step.

Source: Karras et al. 2020 (StyleGAN2), Appendix B (lazy regularisation); the distillation terms are
those of ``losses``.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ganc import collectives
from ganc.adversarial import d_loss, g_loss
from ganc.distillation.draws import MixedLatents, draw_latents, draw_noise
from ganc.distillation.reals import RealBatch
from ganc.distillation.recipes import BOTH, FRESH, FROM_ZERO, MAIN, OWN, SHARED
from ganc.distillation.trainer import Losses, Parts, Terms, Trainer, network_of
from ganc.distillation.trainers import losses
from ganc.distillation.trainers.directions import (
    draw_offsets,
    leading_directions,
    similarity_blocks,
)
from ganc.distillation.trainers.player import Player
from ganc.errors import UsageError
from ganc.families import STYLE
from ganc.models.style import StyleGenerator


class Synthesis(Protocol):
    """A synthesis network: ws and noise to images and each block's features."""

    def __call__(self, ws: Tensor, *, noise: list[Tensor]) -> tuple[Tensor, list[Tensor]]: ...


class NoisePair(NamedTuple):
    """Noise maps per layer, for w and for w + offset."""

    plain: list[Tensor]
    moved: list[Tensor]


class Rendered(NamedTuple):
    """Images, and per compared block the features of w and of w + offset.

    The images are those of w; behind them, where both are compared, those of w + offset.
    """

    images: Tensor
    features: list[tuple[Tensor, Tensor]]


class StyleTrainer(Trainer[RealBatch]):
    """Trains a style-based generator against a discriminator and, if there is one, a teacher.

    Attributes:
        generator, discriminator: Of the student.
        pl_mean: Running mean of path lengths.
    """

    kind = STYLE
    is_recordable = True

    def __init__(self, parts: Parts) -> None:
        self.generator = style_generator(parts.student)
        self.discriminator = parts.student.discriminator
        super().__init__(parts)
        self.pl_mean = torch.zeros([], device=self.device)
        self.blocks: list[int] = []
        if self.teacher is not None:
            self.run_teacher = self.execution.compiled(style_generator(self.teacher).synthesis.run)
        if self.recipe.latent_direction_weight:
            self._choose_directions()

    def make_players(self) -> tuple[Player, Player]:
        recipe = self.recipe
        self.generator.mapping.requires_grad_(not recipe.freeze_mapping)
        g_interval = recipe.pl_interval if recipe.pl_weight else None
        d_interval = recipe.r1_interval if recipe.r1_gamma else None
        return (
            Player({"generator": self.generator}, recipe, g_interval),
            Player({"discriminator": self.discriminator}, recipe, d_interval, lr=recipe.d_lr),
        )

    def check_split(self) -> None:
        super().check_split()
        world, local, recipe = self.draws.world, self.draws.local_batch, self.recipe
        config = self.discriminator.config
        group = min(config["mbstd_group_size"] or recipe.batch, recipe.batch)
        group = group if config["mbstd_num_channels"] else 1
        path = max(1, recipe.batch // recipe.pl_batch_shrink) if recipe.pl_weight else world
        if world > 1 and (local % group or path % world):
            raise UsageError(
                f"--batch {recipe.batch} gives each of the {world} processes {local} samples: they"
                f" must hold whole groups of {group}, and path length {path} samples whole shares",
                f"pass --batch {max(group, recipe.pl_batch_shrink) * world} or a multiple of it",
            )

        if recipe.latent_direction_weight and recipe.similarity_group:
            self._check_groups(local)

    def _check_groups(self, local: int) -> None:
        size, world = self.recipe.similarity_group, self.draws.world
        if size == 1:
            raise UsageError(
                "--similarity-group 1 leaves nothing to compare", "pass 2 or more, or 0 for all"
            )
        if local % size:
            whose = "a batch" if world == 1 else f"each process's share, {local},"
            raise UsageError(
                f"--similarity-group {size} does not divide {whose} of --batch {self.recipe.batch}",
                f"pass --batch {size * world} or a multiple of it",
            )

    def _choose_directions(self) -> None:
        teacher, recipe = style_generator(self.teacher), self.recipe
        depth = len(teacher.feature_affines())
        self.blocks = similarity_blocks(
            depth, recipe.first_similarity_block, recipe.last_similarity_block
        )
        self.directions = leading_directions(
            teacher, self.blocks[-1], recipe.directions_per_block
        ).to(self.device)

    def prepare(self, batch: RealBatch) -> None:
        """Start the mean path length at the teacher's.

        Training from scratch starts it at 0 and lets it find its level; a student that starts near
        its teacher would first be pulled away from it by that.
        """
        if self.teacher is None or not self.recipe.pl_weight:
            return
        if self.recipe.pl_start == FROM_ZERO:
            return
        with self.phase("prepare", exact=True):
            images, ws, pixels = self._path_inputs(style_generator(self.teacher), 0, batch.c)
            self.pl_mean.copy_(losses.path_lengths(images, ws, pixels).mean().detach())
        collectives.average([self.pl_mean])

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"pl_mean": self.pl_mean}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        self.pl_mean.copy_(state["pl_mean"])

    def moving_statistics(self) -> list[Tensor]:
        return self.generator.moving_statistics()

    def step(self, step: int, batch: RealBatch) -> Losses:
        recipe, found = self.recipe, Losses()
        if recipe.adversarial_weight:
            is_penalised = bool(recipe.r1_gamma) and step % recipe.r1_interval == 0
            if is_penalised and recipe.r1_step == MAIN:
                found |= self.run("d_main_r1", self.d_main_r1, step, *batch, exact=True)
            else:
                found |= self.run("d_main", self.d_main, step, *batch)
            found |= self.follow(step)
            if is_penalised and recipe.r1_step == OWN:
                found |= self.run("d_r1", self.d_r1, step, *batch, exact=True)
        found |= self.run("g_main", self.g_main, step, batch.c)
        if recipe.pl_weight and step % recipe.pl_interval == 0:
            found |= self.run("g_pl", self.g_pl, step, batch.c, exact=True)
        with self.phase("ema"):
            self.finish_step(step)
        return found

    def d_main(self, step: int, images: Tensor, c: Tensor | None) -> Losses:
        """Teach the discriminator to tell real images from the student's."""
        return self._judge(step, images, c, is_penalised=False)

    def d_main_r1(self, step: int, images: Tensor, c: Tensor | None) -> Losses:
        """Do so, and keep its gradient small at the real images: in one step, on both losses."""
        return self._judge(step, images, c, is_penalised=True)

    def _judge(self, step: int, images: Tensor, c: Tensor | None, *, is_penalised: bool) -> Losses:
        latents = self._latents("d", step, c)
        with torch.no_grad():
            ws = self._ws(self.generator, latents)
            fake = self.generator.train_synthesis(ws, latents.noise)
        real = images.detach().requires_grad_(is_penalised)
        real_logits = self.discriminator(self.seen(real, "d.real", step), c)
        fake_logits = self.discriminator(self.seen(fake, "d.fake", step), c)
        loss = d_loss(self.recipe.adversarial, real_logits, fake_logits)
        total = self.recipe.adversarial_weight * loss
        found = {"d_loss": loss.detach()}
        if is_penalised:
            penalty = losses.r1_penalty(real_logits, real)
            total = total + penalty * self._r1_weight()
            found["r1"] = penalty.detach()
        found["d_grad_norm"] = self.d.descend(total)
        return found | self.look(real_logits)

    def d_r1(self, step: int, images: Tensor, c: Tensor | None) -> Losses:
        """Keep the discriminator's gradient small at real images, before they are augmented."""
        real = images.detach().requires_grad_(True)
        logits = self.discriminator(self.seen(real, "d.r1", step), c)
        penalty = losses.r1_penalty(logits, real)
        self.d.descend(penalty * self._r1_weight())
        return {"r1": penalty.detach()}

    def _r1_weight(self) -> float:
        return self.recipe.r1_gamma / 2 * self.recipe.r1_interval

    def g_main(self, step: int, c: Tensor | None) -> Losses:
        """Teach the student to fool the discriminator and to follow the teacher."""
        latents = self._latents("g", step, c)
        offset = self._offset(step) if self.recipe.latent_direction_weight else None
        target = self._target(step, latents, offset)
        ws = self._ws(self.generator, latents)
        noise = self._noise("g", step, latents.noise, offset)
        own = self._render(self.generator.synthesis.run, ws, noise, offset)
        with self.d.frozen():
            return self.descend_g(self._terms(own, target, step, c))

    @torch.no_grad()
    def _target(self, step: int, latents: MixedLatents, offset: Tensor | None) -> Rendered | None:
        if self.teacher is None or not self.recipe.distills:
            return None
        with self.phase("teacher"):
            ws = self._ws(style_generator(self.teacher), latents)
            plain = latents.noise
            if self.recipe.noise == FRESH:
                plain = self._fresh_noise("teacher", step)
            noise = self._noise("teacher", step, plain, offset)
            return self._render(self.run_teacher, ws, noise, offset)

    def _noise(
        self, stream: str, step: int, plain: list[Tensor], offset: Tensor | None
    ) -> NoisePair:
        """Return the noise of w, and of w + offset where that is made."""
        if offset is None or self.recipe.noise == SHARED:
            return NoisePair(plain, plain)
        return NoisePair(plain, self._fresh_noise(f"{stream}.moved", step))

    def _fresh_noise(self, stream: str, step: int) -> list[Tensor]:
        shapes = self.generator.noise_shapes()
        return draw_noise(self.draws, f"distill.noise.{stream}", step, shapes) if shapes else []

    def _terms(self, own: Rendered, target: Rendered | None, step: int, c: Tensor | None) -> Terms:
        recipe = self.recipe
        terms: Terms = {}
        if recipe.adversarial_weight:
            loss = g_loss(recipe.adversarial, self._judged(own.images, step, c))
            terms["g_adversarial"] = (recipe.adversarial_weight, loss)
        if target is None:
            return terms
        terms |= self.imitation_terms(own.images, target.images)
        if recipe.latent_direction_weight:
            loss = losses.latent_direction(own.features, target.features, recipe.similarity_group)
            terms["latent_direction"] = (recipe.latent_direction_weight, loss)
        return terms

    def _judged(self, images: Tensor, step: int, c: Tensor | None) -> Tensor:
        """Return the logits of the images of w, and of those of w + offset that lie behind them."""
        halves = images.split(self.draws.local_batch)
        phases = ("g", "g.moved")[: len(halves)]
        seen = [self.seen(x, phase, step) for x, phase in zip(halves, phases, strict=True)]
        labels = None if c is None else c.repeat(len(halves), 1)
        logits: Tensor = self.discriminator(torch.cat(seen), labels)
        return logits

    def g_pl(self, step: int, c: Tensor | None) -> Losses:
        """Keep the student's path lengths near their running mean."""
        images, ws, pixels = self._path_inputs(self.generator, step, c)
        lengths = losses.path_lengths(images, ws, pixels)
        mean = lengths.detach().mean()
        collectives.average([mean])
        mean = torch.lerp(self.pl_mean, mean, self.recipe.pl_decay)
        penalty = (lengths - mean).square().mean()
        self.g.descend(penalty * (self.recipe.pl_weight * self.recipe.pl_interval))
        self.pl_mean.copy_(mean)
        return {"path_length": penalty.detach(), "path_length_mean": mean}

    def _latents(self, phase: str, step: int, c: Tensor | None) -> MixedLatents:
        return draw_latents(
            self.draws,
            f"distill.{phase}",
            step,
            z_dim=self.generator.z_dim,
            num_ws=self.generator.num_ws,
            noise_shapes=self.generator.noise_shapes(),
            mixing_prob=self.recipe.mixing_prob,
            c=c,
        )

    def _ws(self, generator: StyleGenerator, latents: MixedLatents) -> Tensor:
        """Map both latents and mix them at the cut: [N, num_ws, D_w]."""
        c = None if latents.c is None else latents.c.repeat(2, 1)
        first, second = generator.mapping(latents.z.transpose(0, 1).flatten(0, 1), c).chunk(2)
        if generator is self.generator and not self.recipe.freeze_mapping:
            self._track_w_avg(first[:, 0])
        layer = torch.arange(generator.num_ws, device=first.device)
        return torch.where((layer < latents.cut)[:, :, None], first, second)

    @torch.no_grad()
    def _track_w_avg(self, w: Tensor) -> None:
        self.generator.w_avg.lerp_(w.float().mean(dim=0), 1 - self.recipe.w_avg_beta)

    def _offset(self, step: int) -> Tensor:
        return draw_offsets(
            self.directions,
            self.draws.uniform("distill.direction", step, 1)[:, 0],
            self.draws.normal("distill.step_length", step, 1)[:, 0],
            self.recipe.direction_scale,
        )

    def _render(
        self, run: Synthesis, ws: Tensor, noise: NoisePair, offset: Tensor | None
    ) -> Rendered:
        """Run a synthesis network on w, and on w + offset if there is one."""
        if offset is None:
            return Rendered(run(ws, noise=noise.plain)[0], [])
        both = torch.cat([ws, ws + offset[:, None]])
        maps = [torch.cat(pair) for pair in zip(noise.plain, noise.moved, strict=True)]
        images, features = run(both, noise=maps)
        pairs = [features[block].chunk(2) for block in self.blocks]
        judged = images if self.recipe.compared == BOTH else images[: len(ws)]
        return Rendered(judged, [(plain, moved) for plain, moved in pairs])

    def _path_inputs(
        self, generator: StyleGenerator, step: int, c: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, the ws that they were made from, and random pixels."""
        count = max(1, self.recipe.batch // self.recipe.pl_batch_shrink) // self.draws.world
        latents = self._latents("pl", step, c).head(count)
        ws = self._ws(generator, latents)
        if not ws.requires_grad:  # a frozen mapping network
            ws = ws.requires_grad_(True)
        images = generator.synthesis(ws, noise=latents.noise)
        pixels = self.draws.normal("distill.pixels", step, images[0].numel())[:count]
        return images, ws, pixels.reshape(images.shape)


def style_generator(model: object) -> StyleGenerator:
    """Return a model's generator, which must be style-based."""
    generator = network_of(model)  # type: ignore[arg-type]
    assert isinstance(generator, StyleGenerator)
    return generator
