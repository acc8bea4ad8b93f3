"""The steps of a run, and what is due between them."""

import contextlib
import time
from dataclasses import dataclass

from ganc import collectives
from ganc.distillation import monitor, run_folder
from ganc.distillation.evaluations import Evaluate, EvaluationLog, check_values
from ganc.distillation.metrics import MetricsLog
from ganc.distillation.run import TrainingRun
from ganc.distillation.schedule import Schedule
from ganc.errors import ComputationError, Interrupted
from ganc.progress import Progress
from ganc.stop import StopRequest


@dataclass(frozen=True)
class Watchers:
    """Who looks at a run from outside.

    Attributes:
        evaluate: Called where an evaluation is due.
        on_log: Told where the run is whenever losses were fetched.
        progress: Told of every step.
    """

    evaluate: Evaluate | None
    on_log: monitor.Observer
    progress: Progress


class Session:
    """A run at work, with everything open that it writes to."""

    def __init__(
        self,
        run: TrainingRun,
        schedule: Schedule,
        watchers: Watchers,
        log: MetricsLog,
        evaluations: EvaluationLog,
        stop: StopRequest,
    ) -> None:
        self.run, self.schedule, self.watchers = run, schedule, watchers
        self.log, self.evaluations, self.stop = log, evaluations, stop
        self.trainer = run.trainer
        self._told_step, self._told_at, self._clock = 0, 0.0, 0.0

    def train(self, start: int) -> None:
        """Take the steps [start, schedule.steps)."""
        schedule, execution = self.schedule, self.trainer.execution
        self._sample(start)
        if schedule.is_evaluated(start):
            self._evaluate(start)
        self._told_step, self._told_at = start, time.perf_counter()
        self._clock = self._told_at
        with contextlib.closing(self.run.reals.batches(start, schedule.steps)) as batches:
            for step in range(start, schedule.steps):
                with execution.arithmetic():
                    with self.trainer.phase("data", exact=True):
                        batch = next(batches)
                    self.trainer.pace(step, schedule.steps)
                    losses = self.trainer.step(step, batch)
                done, before = step + 1, self._clock
                self._clock = time.perf_counter()
                self.log.add(done, self._images(done), self._clock - before, losses)
                self._after_step(done)
                self.watchers.progress("distilling", done, schedule.steps)

    def _after_step(self, done: int) -> None:
        """Do what is due after a step: losses are looked at before a checkpoint is written."""
        schedule = self.schedule
        exit_code = collectives.largest(self.stop.exit_code or 0)  # all stop at the same step
        is_last = done == schedule.steps or exit_code > 0
        is_evaluated = schedule.is_evaluated(done) and not exit_code
        is_saved = is_last or done % schedule.save_every == 0
        is_saved |= is_evaluated and schedule.keep_best is not None
        is_sampled = is_last or done % schedule.sample_every == 0
        if is_saved or is_sampled or is_evaluated or done % schedule.log_every == 0:
            self._flush(done)
        if is_sampled:
            self._sample(done)
        if is_evaluated:
            self._evaluate(done)
        if is_saved:
            with self.trainer.phase("saving", exact=True):
                self.run.save(done, schedule, self.log.last, self.evaluations)
        if exit_code:
            # torchrun kills the others as soon as one ends: not while it saves.
            collectives.barrier()
            raise Interrupted(
                f"interrupted at step {done} of {schedule.steps}; the state was saved",
                exit_code,
                f"ganc distill -o {self.run.folder} --resume latest",
            )

    def _sample(self, done: int) -> None:
        with self.trainer.phase("sampling", exact=True):
            self.run.sample(done, self.log)

    def _evaluate(self, done: int) -> None:
        """Evaluate in the first process, where that was not done before; the others wait."""
        began = time.perf_counter()
        with self.trainer.phase("evaluation", exact=True), collectives.patience():
            if collectives.rank() == 0 and not self.evaluations.has(done):
                self._measure(done)
        spent = time.perf_counter() - began  # which is no part of a step
        self._clock, self._told_at = self._clock + spent, self._told_at + spent

    def _measure(self, done: int) -> None:
        evaluate, schedule = self.watchers.evaluate, self.schedule
        assert evaluate is not None  # found before the run was opened
        began = time.perf_counter()
        values = dict(evaluate(self.run.to_evaluate(done, schedule.eval_settings)))
        check_values(values, done, schedule.keep_best)
        self.evaluations.add(done, self._images(done), values, time.perf_counter() - began)
        self.log.add_values(done, "evaluation", values)

    def _flush(self, done: int) -> None:
        try:
            with self.trainer.phase("logging", exact=True):
                self.log.flush()
        except ComputationError as error:
            folder = self.run.folder
            last = folder / run_folder.CHECKPOINTS / str(run_folder.steps(folder)[-1])
            raise ComputationError(
                f"{error}; last good checkpoint: {last}",
                "start a new run from it with a lower --lr, or on another device",
            ) from error
        if collectives.rank() == 0:
            self._tell(done)

    def _tell(self, done: int) -> None:
        now = time.perf_counter()
        seconds = (now - self._told_at) / max(1, done - self._told_step)
        self._told_step, self._told_at = done, now
        self.watchers.on_log(
            monitor.TrainingStatus(
                step=done,
                steps=self.schedule.steps,
                images=self._images(done),
                losses=self.log.last,
                evaluation=self.evaluations.last,
                seconds_per_step=seconds,
                process_bytes=monitor.process_bytes(),
                device_bytes=monitor.device_bytes(self.trainer.device),
            )
        )

    def _images(self, done: int) -> int:
        return done * self.run.settings.recipe.reals_per_step
