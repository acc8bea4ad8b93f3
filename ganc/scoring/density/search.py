"""The steps of the two agents of one side, and what is due between them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ganc import collectives
from ganc.errors import ComputationError, InputError, Interrupted
from ganc.files import atomic_write
from ganc.metadata import Metadata
from ganc.progress import Progress
from ganc.safetensors_file import read, serialize
from ganc.scoring.density.agent import gumbel
from ganc.scoring.density.game import Game, Losses
from ganc.scoring.density.learner import Learner
from ganc.scoring.density.steplog import StepLog
from ganc.stop import StopRequest

LOOK_EVERY = 10
"""Steps whose losses are fetched from the device together."""
SAVE_EVERY = 100
"""Steps between two states of a search that is saved."""
FORMAT = 1


class Search:
    """Two agents at work on one side of a model.

    Args:
        game: What they play.
        generator, discriminator: Who learns what.
        identity: What the search depends on, JSON data: a state of another one is refused.
        state: Where the search is saved, or None.
        log: Where a line per step goes.
    Attributes:
        done: Steps taken.
    """

    def __init__(
        self,
        game: Game,
        generator: Learner,
        discriminator: Learner,
        *,
        identity: Mapping[str, Any],
        state: Path | None,
        log: StepLog,
    ) -> None:
        self.game, self.generator, self.discriminator = game, generator, discriminator
        self.identity, self.state, self.log = dict(identity), state, log
        self.done = 0
        self._is_saved = False
        self._pending: list[tuple[int, Losses]] = []

    def learn(self, progress: Progress, phase: str, stop: StopRequest) -> None:
        """Take the steps that are left.

        Raises:
            ComputationError: A loss or a gradient is not finite; no later state was written.
            Interrupted: A signal came; the state was saved, where there is a file for it.
        """
        steps = self.game.recipe.steps
        progress(phase, self.done, steps)
        while self.done < steps:
            self._pending.append((self.done + 1, self._step(self.done)))
            self.done += 1
            exit_code = collectives.largest(stop.exit_code or 0)  # all stop at the same step
            is_saved = exit_code > 0 or self.done == steps or self.done % SAVE_EVERY == 0
            if is_saved or self.done % LOOK_EVERY == 0:
                self._look()
            if is_saved:
                self.save()
            progress(phase, self.done, steps)
            if exit_code:
                collectives.barrier()  # torchrun kills the others as soon as one ends
                raise Interrupted(*self._interrupted(steps, exit_code))

    def _step(self, step: int) -> Losses:
        """Let the judge's side move, then the generator's."""
        game, generator, judge = self.game, self.generator, self.discriminator
        draw = game.draw(step)
        found: Losses = {}
        if judge.learns:
            fixed = self._gates(generator, judge, step, "d")[0].detach()
            gates, leaf = self._gates(judge, generator, step, "d")
            judge.clear()
            found |= collectives.all_sum_(game.judge_step(draw, fixed, leaf))
            moved = judge.descend(gates, leaf)
            found |= {f"discriminator_{name}": value for name, value in moved.items()}
        fixed = self._gates(judge, generator, step, "g")[1]
        gates, leaf = self._gates(generator, judge, step, "g")
        generator.clear()
        fixed = None if fixed is None else fixed.detach()
        found |= collectives.all_sum_(game.generator_step(draw, leaf, fixed))
        moved = generator.descend(gates, leaf)
        return found | {f"generator_{name}": value for name, value in moved.items()}

    def _gates(self, own: Learner, other: Learner, step: int, phase: str) -> tuple[Any, Any]:
        """Draw one's gates, which has heard the other: with their graph, and cut off from it."""
        decision = own.decide(other.spoken)
        if decision is None:
            return None, None
        stream, count = f"density.{own.name}.{phase}", len(decision.logits)
        noise = gumbel(self.game.seed, stream, step, count, self.game.device)
        gates = own.gates(decision, noise)
        return gates, gates.detach().requires_grad_()

    def _look(self) -> None:
        """Fetch the losses of the last steps, check them and write them down."""
        pending, self._pending = self._pending, []
        values = [value.double() for _, losses in pending for value in losses.values()]
        fetched = iter(torch.stack(values).tolist() if values else ())  # one transfer for all
        for step, losses in pending:
            numbers = {name: next(fetched) for name in losses}
            bad = [name for name, value in numbers.items() if not math.isfinite(value)]
            if bad:
                shown = ", ".join(f"{name} {numbers[name]}" for name in bad)
                saved = f"; last good state: {self.state}" if self._is_saved else ""
                raise ComputationError(
                    f"step {step} of {self.game.recipe.steps}: {shown} is not finite{saved}",
                    "lower --set lr=…, or use another device",
                )
            self.log.add(self.generator.name, step, numbers)

    def save(self) -> None:
        """Write the state, where there is a file for it; only the first process does."""
        self._is_saved = self.state is not None
        if self.state is None or collectives.rank():
            return
        tensors = self.generator.state() | self.discriminator.state()
        metadata = {
            "ganc_density": str(FORMAT),
            "step": str(self.done),
            "identity": json.dumps(self.identity, sort_keys=True),
        }
        with atomic_write(self.state, force=True) as temporary:
            temporary.write_bytes(serialize(tensors, metadata))

    def restore(self) -> None:
        """Go on from the state file.

        Raises:
            InputError: There is none, it is damaged, or of another search.
        """
        assert self.state is not None
        metadata, tensors = _read(self.state)
        before = metadata.typed("identity", dict[str, Any])
        if before != self.identity:
            other = sorted(k for k in self.identity if before.get(k) != self.identity[k])
            raise InputError(
                f"{self.state} is of a search with another {', '.join(other)} than given here",
                "pass the same ones, or leave --resume out and pass --force to start again",
            )
        try:
            self.generator.restore(tensors)
            self.discriminator.restore(tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise metadata.refuse(str(error)) from error
        self.done, self._is_saved = metadata.count("step"), True

    def _interrupted(self, steps: int, exit_code: int) -> tuple[str, int, str | None]:
        where = f"{self.generator.name} at step {self.done} of {steps}"
        if self.state is None:
            return f"interrupted: {where}; nothing was saved", exit_code, None
        return (
            f"interrupted: {where}; the state was saved in {self.state}",
            exit_code,
            "run the same command with --resume",
        )


def _read(path: Path) -> tuple[Metadata, dict[str, Tensor]]:
    def refuse(finding: str) -> InputError:
        return InputError(
            f"{path} is damaged: {finding}", "leave --resume out and pass --force to start again"
        )

    try:
        metadata, tensors = read(path)
    except FileNotFoundError as error:
        raise InputError(f"--resume: there is no {path}", "start it without --resume") from error
    except (OSError, SafetensorError) as error:
        raise refuse(str(error)) from error
    if metadata.get("ganc_density") != str(FORMAT):
        raise InputError(f"{path} is not the state of a search", "start it without --resume")
    return Metadata(metadata, refuse), tensors
