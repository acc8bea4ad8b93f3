"""How the page writes a value: its direction, its unit, its digits."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Better = Literal["lower", "higher"]


class Shown(NamedTuple):
    """How one value is shown.

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


# In the order of trust: the first one that is there is what the summary speaks of. A value that is
# not named here is shown as it is, without direction and without a plot.
VALUES: dict[str, Shown] = {
    "fid": Shown("lower", is_quality=True),
    "fd": Shown("lower", is_quality=True),
    "kid": Shown("lower", is_quality=True),
    "kd": Shown("lower", is_quality=True),
    "miou": Shown("higher", is_quality=True),
    "miou-accuracy": Shown("higher"),
    "lpips": Shown("lower", is_quality=True),
    "perceptual": Shown("lower", is_quality=True),
    "lpips-diversity": Shown("higher", is_quality=True),
    "perceptual-diversity": Shown("higher", is_quality=True),
    "l1": Shown("lower", is_quality=True),
    "psnr": Shown("higher", "dB", is_quality=True),
    "l1-target": Shown("lower", is_quality=True),
    "psnr-target": Shown("higher", "dB", is_quality=True),
    "lpips-target": Shown("lower", is_quality=True),
    "perceptual-target": Shown("lower", is_quality=True),
    "projection": Shown("lower", is_quality=True),
    "projection-psnr": Shown("higher", "dB"),
    "perceptual-projection": Shown("lower", is_quality=True),
    "perceptual-projection-psnr": Shown("higher", "dB"),
    "ppl": Shown("lower", is_quality=True),
    "perceptual-ppl": Shown("lower", is_quality=True),
    "ppl-fresh-noise": Shown("lower"),
    "precision": Shown("higher"),
    "recall": Shown("higher"),
    "density": Shown("higher"),
    "coverage": Shown("higher", is_quality=True),
    "macs": Shown("lower", is_cost=True),
    "macs_published": Shown("lower", is_cost=True),
    "params": Shown("lower", is_cost=True),
    **{
        f"latency{runtime}{part}": Shown("lower", "ms", is_cost=True)
        for runtime in ("", "-compile", "-onnx")
        for part in ("", "-p90", "-batch8", "-batch8-p90")
    },
    "speedup": Shown("higher"),
    "memory": Shown("lower", "B", is_cost=True),
    "memory-batch8": Shown("lower", "B", is_cost=True),
    "memory-weights": Shown("lower", "B", is_cost=True),
}

INTERVAL = "-ci95"
"""Ending of a value that is the half width of another one's 95 % interval."""

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(value: float) -> str:
    """Return a number with four significant digits, large ones with a unit: 1.25 M."""
    for size, unit in _UNITS:
        if abs(value) >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g}"


def plain(value: Any) -> str:
    """Return any JSON value as a person reads it, on one line."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")  # a thin space that does not break
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(item)}" for name, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "–"
    return str(value)


def best(name: str, numbers: Mapping[str, float]) -> set[str]:
    """Return whose numbers are the best; nobody's where all are equal or no direction is known."""
    if name not in VALUES or len(set(numbers.values())) < 2:
        return set()
    pick = max if VALUES[name].better == "higher" else min
    top = pick(numbers.values())
    return {who for who, number in numbers.items() if number == top}
