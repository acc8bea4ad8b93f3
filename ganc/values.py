"""The values that an evaluation gives: which direction of each is good, its unit, what it tells.

Whoever measures, keeps, compares or shows values looks here. This module imports no torch.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Better = Literal["lower", "higher"]


class Value(NamedTuple):
    """What is known of one value.

    Attributes:
        better: Which direction is good.
        unit: Written behind the value's name; "" for none.
        is_quality: Whether it is plotted against the multiply-accumulates.
        is_cost: Whether it is what a smaller model saves, and is compared with the teacher's.
    """

    better: Better
    unit: str = ""
    is_quality: bool = False
    is_cost: bool = False

    @property
    def is_higher_better(self) -> bool:
        """The same direction as a bool."""
        return self.better == "higher"


# In the order of trust: the first one that is there is what the summary speaks of. A value that is
# not named here is shown as it is, without direction and without a plot.
VALUES: dict[str, Value] = {
    "fid": Value("lower", is_quality=True),
    "fd": Value("lower", is_quality=True),
    "kid": Value("lower", is_quality=True),
    "kd": Value("lower", is_quality=True),
    "miou": Value("higher", is_quality=True),
    "miou-accuracy": Value("higher"),
    "lpips": Value("lower", is_quality=True),
    "perceptual": Value("lower", is_quality=True),
    "lpips-diversity": Value("higher", is_quality=True),
    "perceptual-diversity": Value("higher", is_quality=True),
    "l1": Value("lower", is_quality=True),
    "psnr": Value("higher", "dB", is_quality=True),
    "l1-target": Value("lower", is_quality=True),
    "psnr-target": Value("higher", "dB", is_quality=True),
    "lpips-target": Value("lower", is_quality=True),
    "perceptual-target": Value("lower", is_quality=True),
    "projection": Value("lower", is_quality=True),
    "projection-psnr": Value("higher", "dB"),
    "perceptual-projection": Value("lower", is_quality=True),
    "perceptual-projection-psnr": Value("higher", "dB"),
    "ppl": Value("lower", is_quality=True),
    "perceptual-ppl": Value("lower", is_quality=True),
    "ppl-fresh-noise": Value("lower"),
    "precision": Value("higher"),
    "recall": Value("higher"),
    "density": Value("higher"),
    "coverage": Value("higher", is_quality=True),
    "irs": Value("higher"),
    "irs-inf": Value("higher", is_quality=True),
    "irs-kept": Value("higher"),
    "vendi": Value("higher"),
    "macs": Value("lower", is_cost=True),
    "macs_published": Value("lower", is_cost=True),
    "params": Value("lower", is_cost=True),
    **{
        f"latency{runtime}{part}": Value("lower", "ms", is_cost=True)
        for runtime in ("", "-compile", "-onnx", "-openvino")
        for part in ("", "-p90", "-batch8", "-batch8-p90")
    },
    "speedup": Value("higher"),
    "memory": Value("lower", "B", is_cost=True),
    "memory-batch8": Value("lower", "B", is_cost=True),
    "memory-weights": Value("lower", "B", is_cost=True),
}

BOUNDS = ("-low", "-high")
"""Endings of the values that are the ends of another one's 95 % interval."""


def bounds(name: str) -> tuple[str, ...]:
    """Return the names of the ends of a value's interval."""
    return tuple(name + ending for ending in BOUNDS)


def diversity_kept(model: str, metrics: Mapping[str, float]) -> str | None:
    """Say in a sentence how much of its teacher's diversity a model keeps, where it was measured.

    Args:
        model: What the sentence calls it.
        metrics: Value by name.
    """
    if "irs-kept" not in metrics:
        return None
    kept, low, high = (100 * metrics[name] for name in ("irs-kept", *bounds("irs-kept")))
    return (
        f"{model} keeps {kept:.0f} % of the teacher's diversity"
        f" (irs-inf, 95 % interval {low:.0f} to {high:.0f} %)."
    )
