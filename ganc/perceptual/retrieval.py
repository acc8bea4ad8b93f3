"""How much of a set a model's samples reach: what they retrieve, and what more of them would.

Every sample retrieves the reference that is nearest to it. With s references equally likely, the
number of distinct ones among n draws has a known distribution; the likeliest s is what unlimited
samples would retrieve.

Source: Dombrowski et al. 2025 (image retrieval score, arXiv 2411.16171). Two things differ. The
distribution is exact, not approximated. And the source's bounds hold for references that are
equally likely; of images some are near to many samples, others to few, and there they are too
narrow, so that what the retrievals themselves say of their spread widens them.
"""

import math
from bisect import bisect_left
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganc.perceptual.feature_rows import FeatureRows
from ganc.perceptual.manifold import COLUMNS, ROWS, squared_distances
from ganc.progress import Progress, silent

TAIL = 0.025
"""Probability beyond each of two bounds."""

DEVIATIONS = 1.96
"""The same in standard deviations."""

_NEGLIGIBLE = 1e-30
_TRIM_EVERY = 64

_TERMS = 6
_WEIGHTS = [
    sum(math.comb(_TERMS, j) for j in range(i, _TERMS + 1)) / 2**_TERMS
    for i in range(1, _TERMS + 1)
]
"""Of an alternating series, smoothed over where it ends (Efron and Thisted 1976)."""


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def count_retrievals(
    references: FeatureRows,
    samples: FeatureRows,
    *,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> Tensor:
    """Return how many samples each reference is the nearest one of, [N references], int64.

    Of equally near references the first counts. Memory does not grow with the samples, time grows
    with the product of the sets.
    """
    centre = references.block(0, 1)[0].to(device)  # distances are float32: near the origin
    counts = torch.zeros(len(references), dtype=torch.long)
    for start, block in samples.blocks(ROWS):
        x = block.to(device) - centre
        best = x.new_full((len(x),), torch.inf)
        nearest = torch.zeros(len(x), dtype=torch.long, device=x.device)
        for first, columns in references.blocks(COLUMNS):
            here, index = squared_distances(x, columns.to(device) - centre).min(dim=1)
            nearest = torch.where(here < best, index + first, nearest)
            best = torch.minimum(best, here)
        counts += torch.bincount(nearest.cpu(), minlength=len(counts))
        progress("nearest references", start + len(x), len(samples))
    return counts


def reachable(counts: Tensor) -> Estimate:
    """Estimate how many references unlimited samples would retrieve.

    The interval is the wider one at each end: of the numbers that ``equally_likely`` does not
    exclude, and of the estimates from as many distinct references as other samples may retrieve.

    Args:
        counts: Of ``count_retrievals``, one or more of them above 0.
    """
    distinct, draws, most = int((counts > 0).sum()), int(counts.sum()), len(counts)
    exact = equally_likely(distinct, draws, most)
    reach = DEVIATIONS * deviation(counts)
    fewer = max(math.floor(distinct - reach), 1)
    more = min(math.ceil(distinct + reach), draws, most)
    return Estimate(
        exact.value,
        min(exact.low, _likeliest(fewer, draws, most)),
        max(exact.high, _likeliest(more, draws, most)),
    )


def deviation(counts: Tensor) -> float:
    """Estimate the standard deviation of the number of distinct references, however likely each is.

    As many again samples would add Σ (-1)^(i+1) f_i new ones (Good and Toulmin 1956; f_i counts
    the references retrieved i times), which is the variance where the number of samples is random;
    f_1² / n comes off it since that number is fixed.
    """
    once, *_ = found = [int((counts == times).sum()) for times in range(1, _TERMS + 1)]
    signed = [w * f * (-1) ** i for i, (w, f) in enumerate(zip(_WEIGHTS, found, strict=True))]
    return math.sqrt(max(sum(signed) - once**2 / int(counts.sum()), 0.0))


def equally_likely(distinct: int, draws: int, most: int) -> Estimate:
    """Return the likeliest number of equally likely references, with the source's bounds.

    Beyond the bounds so few, or so many, distinct ones have a probability below ``TAIL``.

    Args:
        distinct: References retrieved, from 1 to the smaller of the others.
        draws: Samples.
        most: References there are.
    """
    likeliest = _likeliest(distinct, draws, max(draws**2, most))
    chances = _Distinct(likeliest, draws)
    low = distinct + bisect_left(
        range(distinct, min(likeliest, most)), True,
        key=lambda s: chances.at_least(distinct, s) >= TAIL,
    )  # fmt: skip
    high = (
        likeliest
        - 1
        + bisect_left(
            range(likeliest, most + 1), True, key=lambda s: chances.at_most(distinct, s) < TAIL
        )
    )
    return Estimate(min(likeliest, most), low, min(high, most))


def _likeliest(distinct: int, draws: int, most: int) -> int:
    """Return the s up to ``most`` that gives ``distinct`` the highest likelihood.

    It rises up to there and falls beyond; where nothing was retrieved twice it never falls.
    """

    def falls(s: int) -> bool:
        return draws * math.log1p(-1 / (s + 1)) <= math.log1p(-distinct / (s + 1))

    return distinct + bisect_left(range(distinct, most), True, key=falls)


class _Distinct:
    """P(distinct | s equally likely): drawn one by one for one s, for others by the ratio.

    Args:
        s: Near the numbers of distinct references that are asked about, none is lost to rounding.
        draws: Samples.
    """

    def __init__(self, s: int, draws: int) -> None:
        self.s, self.draws = s, draws
        chances, first = np.ones(1), 0  # P(first), P(first + 1), …
        for draw in range(draws):
            again = np.arange(first, first + len(chances)) / s  # P(the draw is no new one)
            chances = np.append(chances * again, 0.0) + np.append(0.0, chances * (1 - again))
            if draw % _TRIM_EVERY == 0 or draw == draws - 1:
                kept = np.flatnonzero(chances > _NEGLIGIBLE)
                chances = chances[kept[0] : kept[-1] + 1]
                first += int(kept[0])
        self.counts, self.logs = first + np.arange(len(chances)), np.log(chances)

    def at_most(self, distinct: int, s: int) -> float:
        """Return P(``distinct`` or fewer | s), for s from ``self.s`` up."""
        return float(self._at(s)[self.counts <= distinct].sum())

    def at_least(self, distinct: int, s: int) -> float:
        """Return P(``distinct`` or more | s), for s up to ``self.s``."""
        return float(self._at(s)[self.counts >= distinct].sum())

    def _at(self, s: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        # P(k | s) is a number without s, times s (s - 1) … (s - k + 1) / sⁿ.
        before = np.arange(self.counts[-1])
        with np.errstate(divide="ignore"):  # more distinct ones than there are: log 0
            new = np.log1p(-np.minimum(before / s, 1.0)) - np.log1p(-before / self.s)
        ratio = np.append(0.0, np.cumsum(new))[self.counts]
        return np.exp(self.logs + ratio + (self.draws - self.counts) * math.log(self.s / s))


def quotient(a: Estimate, b: Estimate) -> Estimate:
    """Return a / b with an interval that joins both (MOVER; Zou and Donner 2008), in logarithms.

    Too wide, never too narrow, where a and b rise and fall together. All must be positive.
    """
    value = a.value / b.value
    below = math.hypot(math.log(a.value / a.low), math.log(b.high / b.value))
    above = math.hypot(math.log(a.high / a.value), math.log(b.value / b.low))
    return Estimate(value, value * math.exp(-below), value * math.exp(above))
