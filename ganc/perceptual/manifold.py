"""Precision, recall, density and coverage of two sets of feature vectors, block by block.

The manifold of a set is the union of balls around its vectors, each as wide as the distance to the
vector's k-th nearest neighbour in the set.

Source: precision and recall, Kynkäänniemi et al. 2019 (Eq. 2, closed balls, k = 3); density and
coverage, Naeem et al. 2020 (Eqs. 4 and 5, and the authors' open balls, k = 5).
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ganc.errors import ComputationError
from ganc.perceptual.feature_rows import FeatureRows
from ganc.progress import Progress, silent

PRECISION, RECALL, DENSITY, COVERAGE = NAMES = ("precision", "recall", "density", "coverage")
NEIGHBOURS = {PRECISION: 3, RECALL: 3, DENSITY: 5, COVERAGE: 5}
"""Value → k of its paper."""

_ROWS = 1024
_COLUMNS = 8192


def compare_manifolds(
    real: FeatureRows,
    generated: FeatureRows,
    names: Collection[str] = NAMES,
    *,
    neighbours: int | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> dict[str, float]:
    """Return some of the four values; memory does not grow with the sets, time with their product.

    Args:
        real, generated: Of one feature network.
        names: Of the four.
        neighbours: k of all of them; None takes ``NEIGHBOURS``.
        device: Where distances are computed.
    Raises:
        ComputationError: A set has no more than k vectors.
    """
    near = NEIGHBOURS if neighbours is None else dict.fromkeys(NAMES, neighbours)
    centre = real.block(0, min(_ROWS, len(real))).mean(dim=0).to(device)  # see _distances
    ranks = sorted({near[name] for name in (PRECISION, DENSITY, COVERAGE) if name in names})
    real_radii = radii(real, ranks, centre, "real", progress)
    ranks = [near[RECALL]] if RECALL in names else []
    generated_radii = radii(generated, ranks, centre, "generated", progress)
    tally = _Tally(len(real), centre.device)
    for start, rows in generated.blocks(_ROWS):
        x = rows.to(device) - centre
        held, counts = x.new_zeros(len(x), dtype=torch.bool), x.new_zeros(len(x))
        for first, columns in real.blocks(_COLUMNS):
            part = slice(first, first + len(columns))
            distances = _distances(x, columns.to(device) - centre)
            if PRECISION in names:
                held |= (distances <= real_radii[near[PRECISION]][part]).any(dim=1)
            if DENSITY in names:
                counts += (distances < real_radii[near[DENSITY]][part]).sum(dim=1)
            if COVERAGE in names:
                inside = distances < real_radii[near[COVERAGE]][part]
                tally.covered[part] |= inside.any(dim=0)
            if RECALL in names:
                reach = generated_radii[near[RECALL]][start : start + len(x), None]
                tally.recalled[part] |= (distances <= reach).any(dim=0)
        tally.held += int(held.sum())
        tally.balls += float(counts.sum(dtype=torch.float64))
        progress("distances between the sets", start + len(x), len(generated))
    values = {
        PRECISION: tally.held / len(generated),
        RECALL: float(tally.recalled.double().mean()),
        DENSITY: tally.balls / near[DENSITY] / len(generated),
        COVERAGE: float(tally.covered.double().mean()),
    }
    return {name: values[name] for name in NAMES if name in names}


@dataclass
class _Tally:
    """What a pass over all pairs counts.

    Attributes:
        held: Generated vectors inside some real ball.
        balls: Real balls that hold a generated vector, summed over these.
        covered, recalled: [N_real]: whether its ball holds a generated vector; whether a generated
            ball holds it.
    """

    num_real: int
    device: torch.device
    held: int = 0
    balls: float = 0.0
    covered: Tensor = field(init=False)
    recalled: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.covered = torch.zeros(self.num_real, dtype=torch.bool, device=self.device)
        self.recalled = self.covered.clone()


def radii(
    rows: FeatureRows,
    ranks: Collection[int],
    centre: Tensor,
    name: str = "",
    progress: Progress = silent,
) -> dict[int, Tensor]:
    """Return k → squared distance of each vector to its k-th nearest other one, [N].

    Args:
        ranks: The k, from 1 up; none costs nothing.
        centre: [D], taken off every vector before distances are computed.
    Raises:
        ComputationError: The set has no more than k vectors.
    """
    if not ranks:
        return {}
    most = max(ranks)
    if len(rows) <= most:
        raise ComputationError(
            f"{len(rows)} {name} images are too few for the distance to the {most}-th neighbour",
            f"raise --samples or --data to {most + 1} images or more, or lower --neighbours",
        )
    found = []
    for start, block in rows.blocks(_ROWS):
        x = block.to(centre.device) - centre
        nearest = x.new_full((len(x), most), torch.inf)
        for first, columns in rows.blocks(_COLUMNS):
            distances = _distances(x, columns.to(centre.device) - centre)
            own = torch.arange(start, start + len(x)) - first  # a vector is not its own neighbour
            here = (own >= 0) & (own < len(columns))
            distances[here.nonzero().squeeze(1), own[here]] = torch.inf
            both = torch.cat([nearest, distances], dim=1)
            nearest = both.topk(most, dim=1, largest=False).values
        found.append(nearest)
        progress(f"distances within the {name} set", start + len(x), len(rows))
    nearest = torch.cat(found)
    return {rank: nearest[:, rank - 1].contiguous() for rank in ranks}


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Return squared distances [N, M]; float32, so both are to be near the origin."""
    squares = y.square().sum(dim=1)
    return torch.addmm(squares, x, y.T, alpha=-2).add_(x.square().sum(dim=1)[:, None]).clamp_(min=0)
