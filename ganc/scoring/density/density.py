"""Gates that keep the local densities of a GAN's images: the method ``density``.

Source: Ganjdanesh et al. 2024, "Compressing Image-to-Image Translation GANs Using Local Density
Structures on Their Learned Manifold" (MGGC). ``docs/density.md`` says what is the paper's and what
is ours.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganc import collectives
from ganc.errors import InputError, UsageError
from ganc.families import family_of, task_form
from ganc.models.model import Model
from ganc.models.network import Network, Translator
from ganc.models.translation import judges_pairs
from ganc.scoring.density import neighbours
from ganc.scoring.density.agent import probabilities
from ganc.scoring.density.budget import check_budget, thresholds
from ganc.scoring.density.encoders import EncoderRequest, check_name, open_encoder
from ganc.scoring.density.game import Game, seen
from ganc.scoring.density.gates import (
    GatedNetwork,
    floors,
    judge_alone,
    use_image_statistics,
)
from ganc.scoring.density.inputs import open_training_inputs
from ganc.scoring.density.judge import Judge, pooled_features
from ganc.scoring.density.kept import check_files, clear, saved_states, state_path, with_names
from ganc.scoring.density.learner import Learner
from ganc.scoring.density.neighbours import Neighbourhoods
from ganc.scoring.density.search import Search
from ganc.scoring.density.steplog import StepLog
from ganc.scoring.request import ScoreRequest
from ganc.scoring.scorer import Run, SideScorer
from ganc.scoring.sides import SIDES
from ganc.stop import catch_signals

FAR_OFF = 1.25
"""Learned MACs / target, or its inverse, from which on a user is told."""
PIXELS_AT_ONCE = 256 * 256
"""Pixels of the images made at once where no ``batch`` says otherwise: one image of 256 px."""


class Density(SideScorer):
    """One side of a model: a generator, its discriminator, and the agents that prune both.

    Everything that can be found wrong is found here, before any side learns.

    Raises:
        InputError: There is no discriminator, a group to keep is not there, the data cannot serve,
            no mask meets a budget, or the file of neighbourhoods is of another teacher.
    """

    def __init__(self, model: Model, request: ScoreRequest) -> None:
        super().__init__(model, request)
        if request.resume and request.state is None:
            raise UsageError("resume needs the file of the state")
        self.recipe = recipe = request.density
        discriminator = self._discriminator(model)
        _check_kept(recipe.kept_groups, self.generator, discriminator)
        self.generator_hash = Model(generator=self.generator).content_hash()
        self.discriminator_hash = Model(discriminator=discriminator).content_hash()
        for network in (self.generator, discriminator):
            network.requires_grad_(False)
            if recipe.statistics == "image":
                use_image_statistics(network)
        judge_alone(discriminator)
        self.gated = GatedNetwork(self.generator, recipe.kept_groups)
        self.judged = GatedNetwork(discriminator, recipe.kept_groups)
        self.targets = self._targets()
        is_shown = isinstance(self.generator, Translator) and judges_pairs(
            discriminator, self.generator
        )
        self.form = self._form(is_shown)
        self.inputs = open_training_inputs(
            self.network, self.generator, request, judges_pairs=is_shown
        )
        k = recipe.neighbours or neighbours.default_neighbours(self.inputs.count)
        neighbours.check_count(self.inputs.count, k, self.inputs.where)
        if recipe.centers * recipe.images < collectives.world_size():
            raise UsageError(
                f"a step of {recipe.centers * recipe.images} images is less than one for each of"
                f" {collectives.world_size()} processes",
                "raise --set images=N",
            )
        self.identity = self._identity(k)
        self.known = self._known_neighbourhoods()
        self.state = None if request.state is None else state_path(request.state, self.network)
        if request.resume and not (request.state and saved_states(request.state, request.network)):
            raise InputError(f"--resume: there is no {self.state}", "start it without --resume")

    @classmethod
    def check(cls, request: ScoreRequest) -> None:
        """Refuse settings that cannot work, before any model is loaded."""
        check_name(request.density.encoder)
        if request.until_stable:
            raise UsageError("--samples auto does not go with density: it learns for --set steps=N")

    @classmethod
    def widths(cls, side: Model, request: ScoreRequest) -> dict[str, int]:
        """Return the groups that get gates, and their channels."""
        recipe = request.density
        return {
            group.name if name == "generator" else f"{name}.{group.name}": group.width
            for name, network in side.networks()
            if name in SIDES or recipe.discriminator_macs < 1
            for group in network.groups()
            if group.prunable and group.name not in recipe.kept_groups
        }

    @classmethod
    def beside(cls, request: ScoreRequest, stem: str, output: str) -> ScoreRequest:
        """Name the files of the neighbourhoods and of the search; a stream has no search."""
        return with_names(request, stem, output)

    @classmethod
    def check_files(cls, request: ScoreRequest, *, force: bool) -> None:
        """Refuse to lose an unfinished search or a log.

        Raises:
            OutputError: One is there.
        """
        check_files(request, force=force)

    @classmethod
    def clear(cls, request: ScoreRequest, *, is_done: bool) -> None:
        """Remove the states of a search that has ended, or that is not gone on with."""
        if is_done or not request.resume:
            clear(request)

    def measure(self) -> Run:
        """Learn the gates; return the probabilities, and the thresholds that meet the budgets."""
        search = self._search(self._neighbourhoods())
        if self.request.resume and self.state is not None and self.state.exists():
            search.restore()
        search.log.cut_back(self.network, search.done)
        phase = "learning gates" + ("" if self.network == "generator" else f" of {self.network}")
        with catch_signals() as stop:
            search.learn(self.request.progress, phase, stop)
        values: dict[str, Tensor] = {}
        cuts: dict[str, float] = {}
        facts: dict[str, Any] = {}
        pair = (search.generator, search.discriminator)
        for own, other in (pair, pair[::-1]):
            decision = own.decide(other.spoken)
            if decision is None or own.target is None:
                continue
            scores = own.network.split(probabilities(decision.logits, self.recipe))
            floor = floors(own.network.groups, self.recipe.min_width_share)
            found = thresholds(own.network, scores, own.target, floor)
            facts[own.name] = outcome = _outcome(own, scores, found)
            self._warn_of_unlearned(own.name, outcome)
            prefix = "" if own.name == "generator" else f"{own.name}."
            values |= {f"{prefix}{name}": scores[name] for name in scores}
            cuts |= {f"{prefix}{name}": found[name] for name in found}
        facts[self.network]["neighbourhoods"] = dict(search.game.neighbourhoods.identity)
        return Run(values, self.inputs.count, cuts, facts)

    def _warn_of_unlearned(self, name: str, outcome: Mapping[str, Any]) -> None:
        share = outcome["learned_macs"] / outcome["target"]
        if not 1 / FAR_OFF < share < FAR_OFF:
            self.request.warn(
                f"the gates of the {name} reached {share:.3g} of its target's MACs by"
                " themselves, thresholds did the rest; pass more --set steps"
            )

    def _search(self, hoods: Neighbourhoods) -> Search:
        recipe, request = self.recipe, self.request
        judge = Judge(self.judged, *self._condition_sizes(hoods)).to(request.device)
        others: dict[str, tuple[nn.Module, float]] = {}
        if judge.projection is not None:
            others["projection"] = (judge.projection, recipe.condition_lr)
        if recipe.discriminator_lr:
            self.judged.network.requires_grad_(True)
            others["discriminator"] = (self.judged.network, recipe.discriminator_lr)
        return Search(
            self._game(judge, hoods),
            self._learner(self.network, self.gated, recipe.budget_weight, {}),
            self._learner(
                SIDES[self.network].discriminator,
                self.judged,
                recipe.discriminator_budget_weight,
                others,
            ),
            identity={
                "recipe": recipe.to_json(),
                "seed": request.seed,
                "teacher": self.generator_hash,
                "discriminator": self.discriminator_hash,
                "inputs": self.inputs.content_hash,
                "neighbourhoods": dict(hoods.identity),
            },
            state=self.state,
            log=StepLog(None if request.log is None else Path(request.log)),
        )

    def _game(self, judge: Judge, hoods: Neighbourhoods) -> Game:
        request = self.request
        batch = request.batch or max(1, PIXELS_AT_ONCE // self.generator.img_resolution**2)
        return Game(
            self.gated, judge, self.inputs, hoods, self.recipe, self.form, request.seed, batch,
            request.device,
        )  # fmt: skip

    def _learner(
        self,
        name: str,
        network: GatedNetwork,
        weight: float,
        others: Mapping[str, tuple[nn.Module, float]],
    ) -> Learner:
        return Learner(
            name, network, self.recipe, target=self.targets[name], budget_weight=weight,
            seed=self.request.seed, device=self.request.device, others=others,
        )  # fmt: skip

    def _condition_sizes(self, hoods: Neighbourhoods) -> tuple[int, int]:
        """Return the length of a description, 0 for none, and the width of the judge's features."""
        if self.recipe.condition == "batch":
            return 0, 0
        return hoods.features.shape[1], self._pooled(range(1)).shape[1]

    def _neighbourhoods(self) -> Neighbourhoods:
        """Return the neighbourhoods of the file, or build them and write it."""
        request = self.request
        if self.known is not None:
            return self.known
        encoder = open_encoder(
            EncoderRequest(
                name=self.recipe.encoder, images=self._images, count=self.inputs.count,
                discriminator=self._pooled, discriminator_sha256=self.discriminator_hash,
                seed=request.seed, device=request.device, offline=request.offline,
                progress=request.progress,
            )
        )  # fmt: skip
        hoods = neighbours.build(
            encoder.encode, self.inputs.count, {**self.identity, "encoder": encoder.protocol},
            batch=self._encoder_batch(), progress=request.progress,
        )  # fmt: skip
        hoods = neighbours.of_first_process(hoods)
        if request.neighbourhoods is not None and collectives.rank() == 0:
            path = Path(request.neighbourhoods)
            others = neighbours.load(path) if path.exists() else {}
            neighbours.save(path, {**others, self.network: hoods}, force=True)
        return hoods

    def _encoder_batch(self) -> int:
        return max(1, min(64, 8 * PIXELS_AT_ONCE // self.generator.img_resolution**2))

    def _known_neighbourhoods(self) -> Neighbourhoods | None:
        if self.request.neighbourhoods is None or not Path(self.request.neighbourhoods).exists():
            return None
        path = Path(self.request.neighbourhoods)
        found = neighbours.load(path).get(self.network)
        if found is not None:
            neighbours.check_identity(path, found.identity, self.identity)
        return found

    def _identity(self, k: int) -> dict[str, Any]:
        recipe = self.recipe
        return {
            "teacher": self.generator_hash, "inputs": self.inputs.content_hash,
            "count": self.inputs.count, "neighbours": k, "metric": recipe.metric,
            "encoder_name": recipe.encoder, "statistics": recipe.statistics,
        }  # fmt: skip

    @torch.no_grad()
    def _images(self, indices: range) -> Tensor:
        """Return the teacher's images of some inputs."""
        return self.inputs.feed(indices, self.request.device).run()

    @torch.no_grad()
    def _pooled(self, indices: range) -> Tensor:
        """Return the discriminator's pooled features of the teacher's images."""
        feed = self.inputs.feed(indices, self.request.device)
        return pooled_features(self.judged.network, seen(feed, feed.run()), feed.labels)

    def _discriminator(self, model: Model) -> Network:
        name = SIDES[self.network].discriminator
        found = dict(model.networks()).get(name)
        if found is None:
            raise InputError(
                f"method density plays against the {name}, which the model does not hold",
                "import the model with the file of its discriminator:"
                " ganc import G.pth D.pth -o MODEL.safetensors",
            )
        return found

    def _form(self, is_paired: bool) -> str:
        if self.recipe.adversarial != "task":
            return self.recipe.adversarial
        form = family_of(self.generator.architecture).adversarial
        return form or task_form(is_paired=is_paired)

    def _targets(self) -> dict[str, float | None]:
        """Return the MACs that each network is to have; None for one that stays whole."""
        recipe = self.recipe
        share = recipe.discriminator_macs
        judge_macs = None if share == 1 else share * self.judged.network.macs()
        targets = {
            self.network: self.generator.macs() / recipe.speedup,
            SIDES[self.network].discriminator: judge_macs,
        }
        for network, (name, target) in zip((self.gated, self.judged), targets.items(), strict=True):
            if not network.groups and target is not None:
                raise InputError(f"the {name} has no group left to gate", "keep fewer groups")
            if target is not None:
                check_budget(network, name, target, floors(network.groups, recipe.min_width_share))
        return targets


def _check_kept(names: list[str], *networks: Network) -> None:
    known = [group.name for network in networks for group in network.groups()]
    for name in names:
        if name not in known:
            raise InputError(
                f"keep_groups names {name}, which the model does not have",
                f"its groups: {', '.join(dict.fromkeys(known))}",
            )


def _outcome(
    learner: Learner, scores: Mapping[str, Tensor], cuts: Mapping[str, float]
) -> dict[str, Any]:
    """Return what the thresholds leave of a network, as JSON data.

    ``learned_macs`` are those of the gates that are more open than closed.
    """
    kept = {name: int((scores[name] >= cuts[name]).sum()) for name in scores}
    more_open = {name: int((scores[name] >= 0.5).sum()) for name in scores}
    network = learner.network
    return {
        "macs": network.macs_at(kept), "of": network.network.macs(), "target": learner.target,
        "learned_macs": network.macs_at(more_open),
    }  # fmt: skip
