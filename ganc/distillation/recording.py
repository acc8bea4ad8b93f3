"""Phases of a training step as CUDA graphs: their kernels are recorded once and launched as one.

A step of a small student is thousands of kernels, most of them of microseconds, and the host needs
longer to launch one than the GPU to run it. A recorded phase is launched whole; it reads its batch
and its random numbers where they lay when it was recorded.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganc.distillation.draws import Draws

Phase = Callable[..., dict[str, Tensor]]
"""(index, *inputs) → losses, scalars on the device. It neither waits for the device nor copies from
the host; what changes from call to call comes from the inputs and the draws of this index, and what
it changes it changes in place."""


class Drawn(NamedTuple):
    """One call of ``Draws``, and the rows that it gave."""

    stream: str
    size: int
    is_normal: bool
    rows: Tensor


class TapedDraws(Draws):
    """Draws that a recorded phase repeats: drawn anew, into the memory where they were first.

    Attributes:
        tape: What the phase at work draws; None where none is being recorded.
    """

    tape: "Tape | None"

    @classmethod
    def of(cls, draws: Draws) -> "TapedDraws":
        """Return the same source, with nothing recorded."""
        made = cls(draws.seed, draws.batch, draws.device, draws.rank, draws.world)
        made.put(None)
        return made

    def put(self, tape: "Tape | None") -> None:
        """Choose who records what is drawn from now on."""
        object.__setattr__(self, "tape", tape)  # a frozen dataclass

    def _rows(self, stream: str, step: int, size: int, *, is_normal: bool) -> Tensor:
        if self.tape is None:
            return super()._rows(stream, step, size, is_normal=is_normal)
        if self.tape.is_whole:
            return self.tape.next(stream, size, is_normal=is_normal)
        rows = super()._rows(stream, step, size, is_normal=is_normal)
        self.tape.entries.append(Drawn(stream, size, is_normal, rows))
        return rows


class Tape:
    """What a phase draws, in order: written down at one call, handed out at the next.

    Attributes:
        entries: The draws.
        is_whole: Whether all are known.
    """

    def __init__(self) -> None:
        self.entries: list[Drawn] = []
        self.is_whole = False
        self._place = 0

    def next(self, stream: str, size: int, *, is_normal: bool) -> Tensor:
        """Return the rows of the draw whose turn it is."""
        entry = self.entries[self._place]
        self._place += 1
        if (entry.stream, entry.size, entry.is_normal) != (stream, size, is_normal):
            raise AssertionError(f"{stream} is drawn where {entry.stream} was drawn before")
        return entry.rows

    def rewind(self) -> None:
        """Start again with the first draw."""
        self._place = 0

    def draw(self, draws: Draws, index: int) -> None:
        """Draw everything of another index, in place."""
        for entry in self.entries:
            draws.fill(entry.rows, entry.stream, index, is_normal=entry.is_normal)


class Recorder:
    """The recorded phases of one trainer.

    Args:
        draws: Where all its phases draw.
    """

    def __init__(self, draws: TapedDraws) -> None:
        self.draws = draws
        self.phases: dict[str, RecordedPhase] = {}
        # Of all graphs: one runs at a time, and what it leaves is read before the next.
        self.pool: Any = None

    def run(self, name: str, phase: Phase, index: int, inputs: tuple[Tensor | None, ...]) -> Any:
        """Run a phase of this name: as it is at first, recorded at the second call."""
        recorded = self.phases.setdefault(name, RecordedPhase(phase, self))
        return recorded(index, inputs)


class RecordedPhase:
    """A phase that is recorded at its second call; the first one sets up what libraries keep."""

    def __init__(self, phase: Phase, recorder: Recorder) -> None:
        self.phase, self.recorder = phase, recorder
        self.tape = Tape()
        self.replay: Callable[[], Any] | None = None

    def __call__(self, index: int, inputs: tuple[Tensor | None, ...]) -> dict[str, Tensor]:
        """Return the losses; inputs of other shapes than the first ones' run unrecorded."""
        if not self.tape.is_whole:
            self.shapes = _shapes(inputs)
            losses = self._taped(index, inputs)
            self.tape.is_whole = True
            return losses
        if _shapes(inputs) != self.shapes:
            return self.phase(index, *inputs)
        self.tape.draw(self.recorder.draws, index)
        if self.replay is None:
            self.inputs = tuple(None if x is None else x.clone() for x in inputs)
            self.replay = self._record(index)
        else:
            for own, given in zip(self.inputs, inputs, strict=True):
                if own is not None and given is not None:
                    own.copy_(given)
        self.replay()
        return dict(zip(self.names, self.losses.clone().unbind(), strict=True))

    def _taped(self, index: int, inputs: tuple[Tensor | None, ...]) -> dict[str, Tensor]:
        self.recorder.draws.put(self.tape)
        try:
            return self.phase(index, *inputs)
        finally:
            self.recorder.draws.put(None)

    def _run(self, index: int) -> None:
        """Run on the kept inputs and draws; the losses stay where they are."""
        self.tape.rewind()
        losses = self._taped(index, self.inputs)
        self.names = list(losses)
        self.losses = torch.stack([loss.float() for loss in losses.values()])

    def _record(self, index: int) -> Callable[[], Any]:
        return record(lambda: self._run(index), self.recorder)


def record(run: Callable[[], None], recorder: Recorder) -> Callable[[], Any]:
    """Record what a call launches; return what launches it again."""
    if recorder.pool is None:
        recorder.pool = torch.cuda.graph_pool_handle()
    graph = torch.cuda.CUDAGraph()
    # Other threads fetch batches meanwhile: what they ask of the device is no part of this.
    with torch.cuda.graph(graph, pool=recorder.pool, capture_error_mode="thread_local"):
        run()
    return graph.replay


def _shapes(inputs: tuple[Tensor | None, ...]) -> list[torch.Size | None]:
    return [None if x is None else x.shape for x in inputs]
