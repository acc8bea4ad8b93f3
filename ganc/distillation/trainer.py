"""One training step: a short method per phase, each with its own optimiser step.

Source: Karras et al. 2020 (StyleGAN2), Appendix B (lazy regularisation); the distillation terms are
those of ``losses``.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ganc.distillation import losses
from ganc.distillation.directions import draw_offsets, leading_directions, similarity_blocks
from ganc.distillation.draws import Draws, Latents, draw_latents
from ganc.distillation.recipes import Recipe
from ganc.models.stylegan2 import Generator
from ganc.models.stylegan2_discriminator import Discriminator

Losses = dict[str, Tensor]
"""Name → scalar on the device, without gradient. Reading one on the host is the caller's business:
nothing in a step waits for the device."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""A perceptual distance: two batches of images → [N], differentiable."""

Rendered = tuple[Tensor, list[tuple[Tensor, Tensor]]]
"""Images, and per compared block the features of w and of w + offset."""


class Trainer:
    """Everything that a step reads and writes.

    Args:
        generator, discriminator: Trained in place.
        ema: The generator's running average, written in place.
        teacher: Frozen.
        recipe: The numbers.
        draws: Source of random numbers; its batch is the recipe's.
        perceptual: The network of the perceptual term, or None where the recipe uses none.
        freeze_mapping: Keep the student's mapping network as it is.
    """

    def __init__(
        self,
        generator: Generator,
        ema: Generator,
        discriminator: Discriminator,
        teacher: Generator,
        *,
        recipe: Recipe,
        draws: Draws,
        perceptual: Distance | None,
        freeze_mapping: bool,
    ) -> None:
        self.generator, self.ema, self.discriminator = generator, ema, discriminator
        self.teacher, self.recipe, self.draws = teacher, recipe, draws
        self.perceptual = perceptual
        self.teacher.requires_grad_(False)
        self.ema.requires_grad_(False)
        self.freeze_mapping = freeze_mapping
        generator.mapping.requires_grad_(not freeze_mapping)
        depth = len(generator.synthesis.blocks())
        self.blocks = similarity_blocks(
            depth, recipe.first_similarity_block, recipe.last_similarity_block
        )
        self.directions = leading_directions(
            teacher, self.blocks[-1], recipe.directions_per_block
        ).to(draws.device)
        g_interval = recipe.pl_interval if recipe.pl_weight else None
        d_interval = recipe.r1_interval if recipe.r1_gamma else None
        self.g_optimizer = lazy_adam(generator, recipe, g_interval)
        self.d_optimizer = lazy_adam(discriminator, recipe, d_interval)
        self.pl_mean = torch.zeros([], device=draws.device)

    def start_path_length(self, c: Tensor | None) -> None:
        """Start the mean path length at the teacher's.

        Training from scratch starts it at 0 and lets it find its level; a student that starts near
        its teacher would first be pulled away from it by that.
        """
        images, ws, pixels = self._path_inputs(self.teacher, 0, c)
        self.pl_mean = losses.path_lengths(images, ws, pixels).mean().detach()

    def step(self, step: int, real: Tensor, c: Tensor | None) -> Losses:
        """Run every phase that is due.

        Args:
            step: From 0.
            real: Real images, [N, C, H, W], in [-1, 1].
            c: Their labels, which the generated images take as well, or None.
        Returns:
            The losses of the phases that ran, unweighted, but for the sums ``d_loss`` and
            ``g_loss``; and the norms of the two main phases' gradients.
        """
        recipe, found = self.recipe, Losses()
        if recipe.adversarial_weight:
            found |= self.d_main(step, real, c)
            if recipe.r1_gamma and step % recipe.r1_interval == 0:
                found |= self.d_r1(real, c)
        found |= self.g_main(step, c)
        if recipe.pl_weight and step % recipe.pl_interval == 0:
            found |= self.g_pl(step, c)
        self.update_ema(step)
        return found

    def d_main(self, step: int, real: Tensor, c: Tensor | None) -> Losses:
        """Teach the discriminator to tell real images from the student's."""
        latents = self._latents("d", step, c)
        with torch.no_grad():
            fake = self.generator.synthesis(self._ws(self.generator, latents), noise=latents.noise)
        loss = losses.d_nonsaturating(self.discriminator(real, c), self.discriminator(fake, c))
        norm = descend(self.d_optimizer, self.recipe.adversarial_weight * loss)
        return {"d_loss": loss.detach(), "d_grad_norm": norm}

    def d_r1(self, real: Tensor, c: Tensor | None) -> Losses:
        """Keep the discriminator's gradient small at real images."""
        real = real.detach().requires_grad_(True)
        penalty = losses.r1_penalty(self.discriminator(real, c), real)
        descend(self.d_optimizer, penalty * (self.recipe.r1_gamma / 2 * self.recipe.r1_interval))
        return {"r1": penalty.detach()}

    def g_main(self, step: int, c: Tensor | None) -> Losses:
        """Teach the student to fool the discriminator and to follow the teacher."""
        latents = self._latents("g", step, c)
        offset = self._offset(step) if self.recipe.latent_direction_weight else None
        with torch.no_grad():
            target = self._render(self.teacher, latents, offset) if self._distills() else None
        own = self._render(self.generator, latents, offset)
        with frozen(self.discriminator):
            terms = self._g_terms(own, target, c)
            total = torch.stack([weight * loss for weight, loss in terms.values()]).sum()
            norm = descend(self.g_optimizer, total)
        found = {name: loss.detach() for name, (_, loss) in terms.items()}
        return {"g_loss": total.detach(), **found, "g_grad_norm": norm}

    def g_pl(self, step: int, c: Tensor | None) -> Losses:
        """Keep the student's path lengths near their running mean."""
        images, ws, pixels = self._path_inputs(self.generator, step, c)
        lengths = losses.path_lengths(images, ws, pixels)
        self.pl_mean = torch.lerp(self.pl_mean, lengths.detach().mean(), self.recipe.pl_decay)
        penalty = (lengths - self.pl_mean).square().mean()
        descend(self.g_optimizer, penalty * (self.recipe.pl_weight * self.recipe.pl_interval))
        return {"path_length": penalty.detach(), "path_length_mean": self.pl_mean}

    @torch.no_grad()
    def update_ema(self, step: int) -> None:
        """Move the average towards the generator; buffers are copied."""
        beta = ema_beta((step + 1) * self.recipe.batch, self.recipe)
        for mean, value in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(value, 1 - beta)
        for own, buffer in zip(self.ema.buffers(), self.generator.buffers(), strict=True):
            own.copy_(buffer)

    def _distills(self) -> bool:
        recipe = self.recipe
        return bool(recipe.l1_weight or recipe.latent_direction_weight or self.perceptual)

    def _g_terms(
        self, own: Rendered, target: Rendered | None, c: Tensor | None
    ) -> dict[str, tuple[float, Tensor]]:
        """Return name → (weight, loss) of the terms that the recipe asks for."""
        recipe, (images, features) = self.recipe, own
        terms: dict[str, tuple[float, Tensor]] = {}
        if recipe.adversarial_weight:
            loss = losses.g_nonsaturating(self.discriminator(images, c))
            terms["g_adversarial"] = (recipe.adversarial_weight, loss)
        if target is None:
            return terms
        teacher_images, teacher_features = target
        if recipe.l1_weight:
            terms["pixel_l1"] = (recipe.l1_weight, losses.pixel_l1(images, teacher_images))
        if self.perceptual is not None:
            small = (
                losses.shrink(x, recipe.perceptual_max_resolution) for x in (images, teacher_images)
            )
            terms["perceptual"] = (recipe.perceptual_weight, self.perceptual(*small).mean())
        if recipe.latent_direction_weight:
            loss = losses.latent_direction(features, teacher_features)
            terms["latent_direction"] = (recipe.latent_direction_weight, loss)
        return terms

    def _latents(self, phase: str, step: int, c: Tensor | None) -> Latents:
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

    def _ws(self, generator: Generator, latents: Latents) -> Tensor:
        """Map both latents and mix them at the cut: [N, num_ws, D_w]."""
        c = None if latents.c is None else latents.c.repeat(2, 1)
        first, second = generator.mapping(latents.z.transpose(0, 1).flatten(0, 1), c).chunk(2)
        if generator is self.generator and not self.freeze_mapping:
            self._track_w_avg(first[:, 0])
        layer = torch.arange(generator.num_ws, device=first.device)
        return torch.where((layer < latents.cut)[:, :, None], first, second)

    @torch.no_grad()
    def _track_w_avg(self, w: Tensor) -> None:
        self.generator.w_avg.lerp_(w.mean(dim=0), 1 - self.recipe.w_avg_beta)

    def _offset(self, step: int) -> Tensor:
        return draw_offsets(
            self.directions,
            self.draws.uniform("distill.direction", step, 1)[:, 0],
            self.draws.normal("distill.step_length", step, 1)[:, 0],
            self.recipe.direction_scale,
        )

    def _render(self, generator: Generator, latents: Latents, offset: Tensor | None) -> Rendered:
        """Run a generator on w, and on w + offset with the same noise where there is one."""
        ws, noise = self._ws(generator, latents), latents.noise
        if offset is None:
            return generator.synthesis(ws, noise=noise), []
        both = torch.cat([ws, ws + offset[:, None]])
        images, features = generator.synthesis.run(
            both, noise=[m.repeat(2, 1, 1, 1) for m in noise]
        )
        pairs = [features[block].chunk(2) for block in self.blocks]
        return images[: len(ws)], [(plain, moved) for plain, moved in pairs]

    def _path_inputs(
        self, generator: Generator, step: int, c: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, the ws that they were made from, and random pixels."""
        count = max(1, self.recipe.batch // self.recipe.pl_batch_shrink)
        latents = self._latents("pl", step, c).head(count)
        ws = self._ws(generator, latents)
        if not ws.requires_grad:  # a frozen mapping network
            ws = ws.requires_grad_(True)
        images = generator.synthesis(ws, noise=latents.noise)
        pixels = self.draws.normal("distill.pixels", step, images[0].numel())[:count]
        return images, ws, pixels.reshape(images.shape)


def lazy_adam(network: nn.Module, recipe: Recipe, interval: int | None) -> torch.optim.Adam:
    """Return Adam for what is trainable, made up for a regulariser's step every ``interval``."""
    ratio = 1.0 if interval is None else interval / (interval + 1)
    return torch.optim.Adam(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=recipe.lr * ratio,
        betas=(recipe.beta1**ratio, recipe.beta2**ratio),
        eps=recipe.adam_eps,
        fused=True,
    )


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Take one optimiser step; return the norm of the gradient, on the device."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
    optimizer.step()
    return norm


def ema_beta(images: int, recipe: Recipe) -> float:
    """Return the decay of the weight average after ``images`` images.

    The half-life is ``ema_nimg`` images, and at most ``ema_rampup`` of the images seen, so that a
    short run exports what it learned. Source: Karras et al. 2020 (ADA), public code.
    """
    half_life = min(recipe.ema_nimg, images * recipe.ema_rampup)
    return 0.5 ** (recipe.batch / half_life) if half_life > 0 else 0.0


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Compute no gradients of a network's weights meanwhile."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Return an optimiser's state, named by parameter: "synthesis.b4.const.exp_avg", …"""
    return {
        f"{name}.{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, network: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Put back what ``optimizer_tensors`` returned."""
    parameters = dict(network.named_parameters())
    for key, value in tensors.items():
        name, _, field = key.rpartition(".")
        state: dict[str, Any] = optimizer.state[parameters[name]]
        state[field] = value.to(parameters[name].device)
