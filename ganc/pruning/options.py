"""What ``prune`` is asked for. Imports no torch: the command line is made of it."""

import math
import os
from dataclasses import dataclass, fields
from typing import TypedDict

from ganc.errors import UsageError, unknown_name
from ganc.options import flag_of, option, parse_count, parse_duration
from ganc.runtimes.precisions import ALL_LISTED, PRECISIONS

JOINT_BATCH = 16
"""Images per step of all layers together."""
FIT = "Fit"
LATENCY = "Latency"
"""Headings in the command's help."""

Path = str | os.PathLike[str]

RUNTIMES = tuple(PRECISIONS)
"""What a latency may be a budget of: runtimes that take a layer by itself in about a second."""

UNIFORM, GLOBAL, THRESHOLD = ALLOCATION_NAMES = ("uniform", "global", "threshold")

BUDGETS = ("prune_ratio", "macs", "speedup", "params", "latency")
BUDGET_FLAGS = ", ".join(map(flag_of, BUDGETS))


class PruneSettings(TypedDict, total=False):
    """``PruneOptions`` as the keywords of a function."""

    prune_ratio: float | None
    macs: float | None
    speedup: float | None
    params: float | None
    latency: float | str | None
    allocation: str | None
    round_to: int
    min_width: int
    refit: bool
    refit_samples: int
    refit_steps: int
    data: Path | None
    data_b: Path | None
    refit_batch: int | None
    seed: int
    runtime: str
    dtype: str
    batch: int


@dataclass(frozen=True)
class PruneOptions:
    """One budget, how it is spread over the groups, and which widths may come out.

    A budget on a count gives the largest plan that does not exceed it. Scores with thresholds carry
    a budget of their own, which holds where none is given.

    Attributes:
        prune_ratio: Fraction removed of every group's n channels: n − int(ratio · n) stay; [0, 1).
        macs: Multiply-accumulates per image at most.
        speedup: MACs before / MACs after at least.
        params: Generator parameters at most.
        latency: Milliseconds per pass of the generator at most, on this machine; a number, or text
            such as "20ms" or "0.02s". Layers are measured once, the chosen plan as a whole.
        allocation: "uniform" removes the same fraction of each group; "global" removes the lowest
            scores, relative to their group's mean, wherever they are; "threshold" shifts the
            thresholds of scores that have them, on the scale of logits. None takes "threshold"
            where the scores have thresholds, else "uniform".
        round_to: Widths are rounded up to a multiple (never above the group's width).
        min_width: Channels that every group keeps at least.
        refit: After slicing, fit every layer to what the teacher's gives in the channels that stay
            (``ganc.pruning.refit.refit``).
        refit_samples: Inputs to fit to; of images at most as many as there are.
        refit_steps: Steps of all layers together that follow, on the teacher's images; 0 leaves
            them out. A layer by itself is solved until its error stops falling.
        data: Images that a translator translates meanwhile; a folder or a zip.
        data_b: The same for a CycleGAN's other direction (``generator_b``).
        refit_batch: Inputs that run at once; None takes what about one image of 256 px takes.
        seed: Of latents, labels, noise and of the pixels that are looked at.
        runtime: What ``latency`` is a budget of: "torch", "onnx" or "openvino".
        dtype: One of the runtime's precisions.
        batch: Images per pass.
    Raises:
        UsageError: Several budgets, a value out of range, settings of a fit without ``refit``, or
            of a runtime without ``latency``.
    """

    prune_ratio: float | None = option(None, "Fraction of the channels removed from every group.")
    macs: float | None = option(
        None, "At most this many MACs, e.g. 4.1G.", parser=parse_count, metavar="COUNT"
    )
    speedup: float | None = option(None, "At least this factor fewer MACs.")
    params: float | None = option(
        None, "At most this many parameters.", parser=parse_count, metavar="COUNT"
    )
    latency: float | str | None = option(
        None, "Milliseconds per pass at most, e.g. 20ms; layers are measured, with --dry-run too.",
        parser=parse_duration, metavar="TIME",
    )  # fmt: skip
    allocation: str | None = option(
        None,
        f"{UNIFORM}, {GLOBAL} or {THRESHOLD}. Default: {THRESHOLD} for scores with thresholds, as"
        f" from density, which need no budget; else {UNIFORM}.",
    )
    round_to: int = option(1, "Round widths up to a multiple.")
    min_width: int = option(1, "Least channels that every group keeps.")
    refit: bool = option(
        False, "After slicing, fit every layer to CKPT's output in the kept channels.", section=FIT
    )
    refit_samples: int = option(1024, "Inputs to fit to; at most all images.", least=1, section=FIT)
    refit_steps: int = option(
        1000, "Steps that then fit all layers together.", least=0, section=FIT
    )
    data: Path | None = option(None, "Translators: images to fit to.", metavar="PATH", section=FIT)
    data_b: Path | None = option(
        None,
        "The same for generator_b, a CycleGAN's other direction.",
        metavar="PATH",
        section=FIT,
    )
    refit_batch: int | None = option(None, "Inputs computed at once.", least=1, section=FIT)
    seed: int = option(0, "Seed of the fit's inputs.", least=0, section=FIT)
    runtime: str = option("torch", f"Where it runs: {', '.join(RUNTIMES)}.", section=LATENCY)
    dtype: str = option("fp32", f"Precision: {ALL_LISTED}.", section=LATENCY)
    batch: int = option(1, "Images per pass.", least=1, section=LATENCY)

    def __post_init__(self) -> None:
        if isinstance(self.latency, str):
            object.__setattr__(self, "latency", _milliseconds(self.latency))
        given = self.budget
        if len(given) > 1:
            found = " and ".join(map(flag_of, given))
            raise UsageError(f"exactly one of {BUDGET_FLAGS} must be given, got {found}")
        for name, value in given.items():
            _check_budget(name, value)
        if self.allocation is not None and self.allocation not in ALLOCATION_NAMES:
            raise unknown_name("allocation", self.allocation, ALLOCATION_NAMES)
        if self.runtime not in RUNTIMES:
            raise unknown_name("--runtime", self.runtime, RUNTIMES)
        if not self.refit:
            self._check_unused(FIT, "how to fit", "add --refit")
        if self.latency is None:
            self._check_unused(LATENCY, "how to run the generator", "add --latency 20ms")
        for flag, width in (("--round-to", self.round_to), ("--min-width", self.min_width)):
            if width < 1:
                raise UsageError(f"{flag} {width} is below 1")

    def _check_unused(self, section: str, what: str, hint: str) -> None:
        """Refuse settings that nothing reads."""
        asked = [f.name for f in fields(self) if f.metadata["section"] == section]
        given = [name for name in asked if getattr(self, name) != getattr(PruneOptions, name)]
        if given:
            raise UsageError(
                f"{', '.join(map(flag_of, given))}: {what}, which nothing asks for", hint
            )

    def refit_cost(self) -> dict[str, int]:
        """Return how many images a fit makes: a backward pass counts as two more."""
        return {
            "teacher": self.refit_samples * (2 if self.refit_steps else 1),
            "student_per_layer": self.refit_samples,
            "student_together": 3 * JOINT_BATCH * self.refit_steps,
        }

    @property
    def budget(self) -> dict[str, float]:
        """The one budget that is given, under its name, or nothing."""
        values = {name: getattr(self, name) for name in BUDGETS}
        return {name: value for name, value in values.items() if value is not None}


def _milliseconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--latency {error}") from error


def _check_budget(name: str, value: float) -> None:
    if name == "prune_ratio" and not 0 <= value < 1:
        raise UsageError(
            f"--prune-ratio {value:g} is outside [0, 1)",
            "it is the fraction removed; to keep 20 % pass --prune-ratio 0.8",
        )
    if name != "prune_ratio" and not (value > 0 and math.isfinite(value)):
        raise UsageError(f"--{name} {value:g} must be a positive number")
