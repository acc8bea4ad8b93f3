"""What the training of translators has in common: ways to translate, judges, the teacher's terms.

How a step goes is each task's own: ``one_way`` (pix2pix), ``cyclegan``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganc.distillation.pair_batches import SideBatch
from ganc.distillation.trainer import Terms, Trainer
from ganc.distillation.trainers.batch_norm import global_batch_norm
from ganc.distillation.trainers.dropout import DropoutDraws, key_dropout
from ganc.distillation.trainers.features import FeatureDistance, watch
from ganc.distillation.trainers.player import Player
from ganc.families import TRANSLATION
from ganc.models.network import Network, Translator


@dataclass(frozen=True)
class Way:
    """One way to translate, and who judges it.

    Attributes:
        suffix: Of the names of its networks and losses: "" from A to B, "_b" back.
        generator, discriminator: In training.
        teacher: The teacher's generator of this way, or None.
        distance: Compares features with it, or None where the recipe does not.
    """

    suffix: str
    generator: Translator
    discriminator: Network
    teacher: Translator | None
    distance: FeatureDistance | None


class Translated(NamedTuple):
    """Images, with what the teacher makes of the same ones.

    Attributes:
        images: The student's, with gradient.
        target: The teacher's; None where nothing asks for it.
        terms: What compares the two.
    """

    images: Tensor
    target: Tensor | None
    terms: Terms


class TeacherOutput(NamedTuple):
    """What a teacher makes of images, and its features meanwhile."""

    images: Tensor
    features: list[Tensor]


class TranslationTrainer(Trainer[SideBatch]):
    """Trains translators, each against its discriminator and, if there is one, its teacher.

    Networks in training are in train mode: batch norm on the statistics of the batch, dropout on.
    The teacher is in eval mode.

    Attributes:
        ways: The ways to translate.
        dropout: The masks of the step's dropout.
    """

    kind = TRANSLATION

    def make_players(self) -> tuple[Player, Player]:
        self.dropout = DropoutDraws(self.draws)
        for _, network in self.student.networks():
            global_batch_norm(network)
            key_dropout(network, self.dropout)
            network.train()
        for frozen in (self.ema, self.teacher):
            for _, network in frozen.networks() if frozen else ():
                network.eval()
        self.ways = [self._way(s) for s in ("", "_b") if getattr(self.student, f"generator{s}")]
        generators = {f"generator{way.suffix}": way.generator for way in self.ways}
        judges = {f"discriminator{way.suffix}": way.discriminator for way in self.ways}
        recipe = self.recipe
        return (
            Player({**generators, **self._distances()}, recipe),
            Player(judges, recipe, lr=recipe.d_lr),
        )

    def _way(self, suffix: str) -> Way:
        generator = getattr(self.student, f"generator{suffix}")
        teacher = getattr(self.teacher, f"generator{suffix}", None)
        distance = None
        if teacher is not None and self.recipe.feature_weight:
            distance = FeatureDistance(generator, teacher).to(self.device)
        judge = getattr(self.student, f"discriminator{suffix}")
        return Way(suffix, generator, judge, teacher, distance)

    def _distances(self) -> dict[str, nn.Module]:
        named = {f"features{way.suffix}": way.distance for way in self.ways}
        return {name: distance for name, distance in named.items() if distance is not None}

    def state(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": tensor
            for name, distance in self._distances().items()
            for key, tensor in distance.state_dict().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, distance in self._distances().items():
            distance.load_state_dict({k: state[f"{name}.{k}"] for k in distance.state_dict()})

    def form(self, task_form: str) -> str:
        """Return the form of the adversarial loss; ``task_form`` is the task's own."""
        return task_form if self.recipe.adversarial == "task" else self.recipe.adversarial

    def uses_target(self) -> bool:
        """Return whether a step asks for the teacher's images."""
        return self.teacher is not None and self.recipe.distills

    def translate(self, way: Way, images: Tensor) -> Translated:
        """Translate images, and compare with the teacher."""
        target = self._target(way, images) if self.uses_target() else None
        with watch(way.generator, way.distance.layers if way.distance else ()) as features:
            made = way.generator(images)
        if target is None:
            return Translated(made, None, {})
        terms = self.imitation_terms(made, target.images)
        if way.distance is not None:
            distance = way.distance(features, target.features)
            terms["features"] = (self.recipe.feature_weight, distance)
        return Translated(made, target.images, suffixed(terms, way))

    @torch.no_grad()
    def _target(self, way: Way, images: Tensor) -> TeacherOutput:
        assert way.teacher is not None
        layers = way.distance.teacher_layers if way.distance else ()
        with self.phase("teacher"), watch(way.teacher, layers) as features:
            return TeacherOutput(way.teacher(images), features)


def suffixed(terms: Terms, way: Way) -> Terms:
    """Name terms by the way that they belong to."""
    return {f"{name}{way.suffix}": term for name, term in terms.items()}
