"""How a run is computed: where, how precisely, and what each phase costs."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from ganc.devices import fp32_precision
from ganc.errors import UsageError, unknown_name
from ganc.models.model import Model

PRECISIONS = ("auto", "fp32", "tf32", "bf16")

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass
class PhaseTimes:
    """Seconds that each phase took for itself, without the phases inside it, and its calls."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _inner: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def measure(self, name: str, now: Callable[[], float]) -> Iterator[None]:
        """Count a call of a phase and what it takes by the clock ``now``."""
        start = now()
        self._inner.append(0.0)
        yield
        spent = now() - start
        self.seconds[name] += spent - self._inner.pop()
        self.calls[name] += 1
        if self._inner:
            self._inner[-1] += spent

    def to_json(self, total_sec: float) -> dict[str, dict[str, float]]:
        """Return phase → its calls, seconds, seconds per call and share of all; dearest first.

        Args:
            total_sec: What everything took; what no phase claims is called "other".
        """
        claimed = dict(self.seconds)
        claimed["other"] = max(0.0, total_sec - sum(claimed.values()))
        ordered = sorted(claimed.items(), key=lambda item: -item[1])
        return {
            name: {
                "calls": (calls := self.calls.get(name, 1)),
                "seconds": round(seconds, 4),
                "seconds_per_call": round(seconds / calls, 6),
                "share": round(seconds / total_sec, 4),
            }
            for name, seconds in ordered
        }


@dataclass(frozen=True)
class Execution:
    """Where and how precisely the phases of a step run.

    Attributes:
        device: Where.
        precision: "fp32"; "tf32": CUDA multiplies float32 with 10-bit mantissas; "bf16": phases
            that tolerate it run under autocast, the others as "tf32". "auto" is bf16 on CUDA, else
            fp32. Weights, averages and optimisers are always float32.
        channels_last: Store feature maps channels-last.
        compiles: Compile what is not trained: teacher and perceptual network.
        cuda_graphs: Replay each phase of a step as a CUDA graph; see ``recording``.
        times: What a profile adds to; None measures nothing, and never waits for the device.
    """

    device: torch.device
    precision: str = "auto"
    channels_last: bool = False
    compiles: bool = False
    cuda_graphs: bool = False
    times: PhaseTimes | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown_name("--precision", self.precision, PRECISIONS)
        if self.cuda_graphs and self.device.type != "cuda":
            raise UsageError(
                f"--cuda-graphs needs a CUDA device, not {self.device}", "leave it out"
            )

    @property
    def is_bf16(self) -> bool:
        """Whether phases that tolerate bf16 run in it."""
        is_cuda = self.device.type == "cuda"
        return self.precision == "bf16" or (self.precision == "auto" and is_cuda)

    def place(self, model: Model) -> Model:
        """Move a model to the device, in its layout, in place."""
        if self.channels_last:
            for _, network in model.networks():
                network.to(memory_format=torch.channels_last)
        return model.to(self.device)

    def compiled(self, function: _Function) -> _Function:
        """Return a function or module that is only looked at, compiled where that is asked for."""
        if not self.compiles:
            return function
        compiled: _Function = torch.compile(function)  # type: ignore[assignment]
        return compiled

    def compile_calls(self, model: Model) -> None:
        """Do the same to a model's networks, in place."""
        if self.compiles:
            for _, network in model.networks():
                network.compile()

    def arithmetic(self) -> contextlib.AbstractContextManager[None]:
        """Set CUDA's switches for a step; they belong to the process and are put back.

        cuDNN's search for its fastest kernels stays as the caller has it: it may find others each
        time, and a resumed run is to go on as the first would have.
        """
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        return fp32_precision("ieee" if self.precision == "fp32" else "tf32")

    @contextlib.contextmanager
    def phase(self, name: str, *, exact: bool = False) -> Iterator[None]:
        """Run a phase, in float32 where it must be ``exact``, and time it where there is a profile.

        Nested phases count for themselves and not in the outer one, but for those of a recorded
        phase, which is launched whole.
        """
        lowered = self.is_bf16 and not exact
        with torch.autocast(self.device.type, torch.bfloat16, enabled=lowered):
            if self.times is None or self._is_recording():
                yield
                return
            with self.times.measure(name, self._now):
                yield

    def _is_recording(self) -> bool:
        return self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
