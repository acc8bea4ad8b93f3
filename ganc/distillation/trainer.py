"""What every kind of training has in common: networks, players, the average, the teacher's terms.

How a step goes is each kind's own: ``style``, ``sngan``, ``translation``.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganc import collectives
from ganc.content.request import MaskSource
from ganc.distillation.draws import Draws
from ganc.distillation.execution import Execution
from ganc.distillation.recipes import Recipe
from ganc.distillation.recording import Phase, Recorder, TapedDraws
from ganc.distillation.trainers import losses
from ganc.distillation.trainers.augment import Augmentation
from ganc.distillation.trainers.player import Player
from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.models.network import ImageGenerator

Losses = dict[str, Tensor]
"""Name → scalar on the device, without gradient. Reading one on the host is the caller's business:
nothing in a step waits for the device."""

Terms = dict[str, tuple[float, Tensor]]
"""Name → (weight, loss): what a generator's loss is the weighted sum of."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""A perceptual distance: two batches of images → [N], differentiable."""

_RUNNING = ("running_mean", "running_var")
"""How the names of batch norm's statistics end."""

Batch = TypeVar("Batch")
"""What a step reads: real images and labels, or pairs of images."""


@dataclass(frozen=True)
class Parts:
    """What a trainer is made of.

    Attributes:
        student: The networks in training.
        ema: Its generators' running averages.
        teacher: Frozen here; None where there is nothing to imitate.
        recipe: The numbers.
        draws: Source of random numbers; its batch is the recipe's.
        perceptual: The network of the perceptual term, or None where the recipe uses none.
        masks: Where the contents of interest come from, or None: the whole image counts.
        execution: Device, precision, clock.
    """

    student: Model
    ema: Model
    teacher: Model | None
    recipe: Recipe
    draws: Draws
    perceptual: Distance | None
    masks: MaskSource | None
    execution: Execution


class Trainer(ABC, Generic[Batch]):
    """Everything that a step reads and writes.

    Attributes:
        g, d: The two players.
        augmentation: Of what the discriminator sees, or None: it sees the images as they are.
    Raises:
        UsageError: The batch cannot be split over the processes.
    """

    kind: ClassVar[str]
    is_recordable: ClassVar[bool] = False
    """Whether its phases can be CUDA graphs: they go by ``run``."""

    def __init__(self, parts: Parts) -> None:
        self.student, self.ema, self.teacher = parts.student, parts.ema, parts.teacher
        self.recipe, self.draws = parts.recipe, parts.draws
        self.recorder: Recorder | None = None
        if parts.execution.cuda_graphs:
            self.check_recording(parts)
            self.draws = TapedDraws.of(parts.draws)
            self.recorder = Recorder(self.draws)
        self.perceptual, self.masks = parts.perceptual, parts.masks
        self.execution = parts.execution
        for frozen in (self.ema, self.teacher):
            for _, network in frozen.networks() if frozen else ():
                network.requires_grad_(False)
        self.check_split()
        self.g, self.d = self.make_players()
        self.is_paced = bool(self.recipe.lr_warmup or self.recipe.lr_decay)
        if self.is_paced and self.recorder is not None:
            for player in (self.g, self.d):
                player.put_lr_on_device()
        is_augmented = self.recipe.augment != "none"
        self.augmentation = Augmentation(self.recipe, self.draws) if is_augmented else None

    @abstractmethod
    def make_players(self) -> tuple[Player, Player]:
        """Return the generators' player and the discriminators'."""

    @abstractmethod
    def step(self, step: int, batch: Batch) -> Losses:
        """Run every phase that is due, and let the average follow.

        Args:
            step: From 0.
            batch: This process's share of the real images.
        Returns:
            The losses of the phases that ran, unweighted, but for the sums ``d_loss`` and
            ``g_loss``; and the norms of the main phases' gradients.
        """

    def pace(self, step: int, steps: int) -> None:
        """Set the learning rates of a step; see ``lr_share``."""
        if self.is_paced:
            share = lr_share(step, steps, self.recipe)
            self.g.pace(share)
            self.d.pace(share)

    def prepare(self, batch: Batch) -> None:
        """Do what a new run needs before its first step."""

    def state(self) -> dict[str, Tensor]:
        """Return what a step reads beside networks and optimisers."""
        return {} if self.augmentation is None else self.augmentation.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` returned."""
        if self.augmentation is not None:
            self.augmentation.restore(state)

    def moving_statistics(self) -> list[Tensor]:
        """Return running means that this process follows on its own samples."""
        return []

    def check_split(self) -> None:
        """Check that every process gets the same number of samples."""
        world, batch = self.draws.world, self.recipe.batch
        if batch % world:
            raise UsageError(
                f"--batch {batch} is not a multiple of the {world} processes",
                f"pass --batch {-(-batch // world) * world}",
            )

    def seen(self, images: Tensor, phase: str, index: int) -> Tensor:
        """Return images as the discriminator sees them; see ``Augmentation``."""
        return images if self.augmentation is None else self.augmentation(images, phase, index)

    def look(self, real_logits: Tensor) -> Losses:
        """Note what the discriminator thinks of real images; see ``Augmentation.look``."""
        return (
            {} if self.augmentation is None else {"real_sign": self.augmentation.look(real_logits)}
        )

    def follow(self, turn: int) -> Losses:
        """Let the augmentation follow the discriminator; see ``Augmentation.follow``."""
        return {} if self.augmentation is None else {"augment_p": self.augmentation.follow(turn)}

    def finish_step(self, step: int) -> None:
        """Average the running means over the processes, then let the weights' average follow."""
        collectives.average(self.moving_statistics())
        self.update_ema(step)

    @torch.no_grad()
    def update_ema(self, step: int) -> None:
        """Move the average towards the generators.

        The statistics of batch norm move with the weights: those of the last few batches would
        belong to other weights. Other buffers are copied.
        """
        beta = ema_beta((step + 1) * self.recipe.batch, self.recipe)
        for name, average in self.ema.networks():
            network = getattr(self.student, name)
            torch._foreach_lerp_(_averaged(average), _averaged(network), 1 - beta)
            for (key, own), buffer in zip(average.named_buffers(), network.buffers(), strict=True):
                if not key.endswith(_RUNNING):
                    own.copy_(buffer)

    def imitation_terms(self, images: Tensor, target: Tensor) -> Terms:
        """Return the terms that compare images with the teacher's, on the contents of interest.

        Args:
            images, target: [N, C, H, W]; the target carries no gradient.
        """
        recipe = self.recipe
        terms: Terms = {}
        if self.masks is not None:
            images, target = self._masked(images, target)
        if recipe.l1_weight:
            terms["pixel_l1"] = (recipe.l1_weight, losses.pixel_l1(images, target))
        if self.perceptual is not None:
            size, how = recipe.perceptual_max_resolution, recipe.perceptual_shrink
            small = (losses.shrink(x, size, how) for x in (images, target))
            terms["perceptual"] = (recipe.perceptual_weight, self.perceptual(*small).mean())
        return terms

    def _masked(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Blank what is not of interest in both, by the teacher's image.

        A mask of another size is scaled bilinearly and cut at one half, as the published training
        does it (the published scoring takes the nearest pixel). Source: Liu et al. 2021
        (Content-Aware GAN Compression), Section 3.3.
        """
        assert self.masks is not None
        masks = self.masks(target, range(len(target))).to(target.device)[:, None].to(target.dtype)
        if masks.shape[2:] != target.shape[2:]:
            size = target.shape[2:]
            scaled = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
            masks = (scaled > 0.5).to(target.dtype)
        return images * masks, target * masks

    def descend_g(self, terms: Terms) -> Losses:
        """Take a step of the generators on the weighted sum of their terms."""
        total = torch.stack([weight * loss for weight, loss in terms.values()]).sum()
        norm = self.g.descend(total)
        found = {name: loss.detach() for name, (_, loss) in terms.items()}
        return {"g_loss": total.detach(), **found, "g_grad_norm": norm}

    def check_recording(self, parts: Parts) -> None:
        """Check that this trainer's phases can be recorded.

        Raises:
            UsageError: They cannot.
        """
        reason = None
        if not self.is_recordable:
            reason = "the steps of translators are not recorded"
        elif parts.draws.world > 1:
            reason = f"of {parts.draws.world} processes that train together none is recorded"
        elif parts.masks is not None:
            reason = "contents of interest are not recorded"
        if reason is not None:
            raise UsageError(f"--cuda-graphs: {reason}", "leave it out")

    def run(
        self, name: str, phase: Phase, index: int, *inputs: Tensor | None, exact: bool = False
    ) -> Losses:
        """Run a phase of a step, recorded where that is asked for; see ``recording``.

        Args:
            name: Of the phase, which the trainer runs under no other one.
            phase: (index, *inputs) → losses.
            index: What it draws by.
            inputs: What it reads of the batch.
            exact: In float32.
        """
        with self.phase(name, exact=exact):
            if self.recorder is None:
                return phase(index, *inputs)
            return self.recorder.run(name, phase, index, inputs)

    def phase(self, name: str, *, exact: bool = False) -> contextlib.AbstractContextManager[Any]:
        """Time a phase, and run it at the execution's precision, or ``exact``: in float32."""
        return self.execution.phase(name, exact=exact)

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return self.draws.device


def _averaged(network: nn.Module) -> list[Tensor]:
    """Return what an average of networks averages."""
    statistics = [b for key, b in network.named_buffers() if key.endswith(_RUNNING)]
    return [*network.parameters(), *statistics]


def network_of(model: Model | None, name: str = "generator") -> ImageGenerator:
    """Return a network that must be there."""
    network = getattr(model, name)
    assert isinstance(network, ImageGenerator)
    return network


def lr_share(step: int, steps: int, recipe: Recipe) -> float:
    """Return which share of the learning rate a step takes.

    It rises over the first ``lr_warmup`` steps and falls over the last ``lr_decay`` of all, both
    linearly: the step after the last one would take nothing. Source of the fall: Zhu et al. 2017
    (CycleGAN), Section 7.1.

    Args:
        step: From 0.
        steps: Of the whole run.
    """
    rise = (step + 1) / recipe.lr_warmup if recipe.lr_warmup else 1.0
    falling = steps * recipe.lr_decay
    fall = (steps - step) / falling if falling else 1.0
    return min(1.0, rise, fall)


def ema_beta(images: int, recipe: Recipe) -> float:
    """Return the decay of the weight average after ``images`` images.

    The half-life is ``ema_nimg`` images, and at most ``ema_rampup`` of the images seen, so that a
    short run exports what it learned. Source: Karras et al. 2020 (ADA), public code.
    """
    half_life = min(recipe.ema_nimg, images * recipe.ema_rampup)
    return 0.5 ** (recipe.batch / half_life) if half_life > 0 else 0.0
