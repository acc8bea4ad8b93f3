"""How a run is computed: where, how precisely, and what each phase costs."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from ganc.errors import unknown_name

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass
class PhaseTimes:
    """Seconds per phase, over the calls so far."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, name: str, seconds: float) -> None:
        """Count one call of a phase."""
        self.seconds[name] += seconds
        self.calls[name] += 1


@dataclass(frozen=True)
class Execution:
    """Where and how precisely the phases of a step run.

    Attributes:
        device: Where.
        precision: "fp32", or "bf16": phases that stand it run under autocast; "auto" is bf16 on
            CUDA. Weights and optimisers stay float32.
        times: What a profile adds to; None measures nothing, and never waits for the device.
    """

    device: torch.device
    precision: str = "auto"
    times: PhaseTimes | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown_name("--precision", self.precision, PRECISIONS)

    @property
    def is_bf16(self) -> bool:
        """Whether phases that stand it run in bf16."""
        is_cuda = self.device.type == "cuda"
        return self.precision == "bf16" or (self.precision == "auto" and is_cuda)

    @contextlib.contextmanager
    def phase(self, name: str, *, exact: bool = False) -> Iterator[None]:
        """Run a phase, in float32 where it must be ``exact``, and time it where there is a profile.

        Nested phases count for themselves alone in what they are named, and in the outer one too.
        """
        lowered = self.is_bf16 and not exact
        with torch.autocast(self.device.type, torch.bfloat16, enabled=lowered):
            if self.times is None:
                yield
                return
            start = self._now()
            yield
            self.times.add(name, self._now() - start)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
