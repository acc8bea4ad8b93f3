"""Precision, recall, density and coverage of two sets of feature vectors, block by block.

The manifold of a set is the union of balls around its vectors, each as wide as the distance to the
vector's k-th nearest neighbour in the set.

Source: precision and recall, Kynkäänniemi et al. 2019 (Eq. 2, closed balls, k = 3); density and
coverage, Naeem et al. 2020 (Eqs. 4 and 5, and the authors' open balls, k = 5).
"""

from collections.abc import Collection

import torch
from torch import Tensor

from ganc.errors import ComputationError
from ganc.perceptual.feature_rows import FeatureRows
from ganc.progress import Progress, silent

PRECISION, RECALL, DENSITY, COVERAGE = NAMES = ("precision", "recall", "density", "coverage")
NEIGHBOURS = {PRECISION: 3, RECALL: 3, DENSITY: 5, COVERAGE: 5}
"""Value → k of its paper."""

ROWS = 1024
COLUMNS = 8192


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
    wanted = [name for name in NAMES if name in names]
    centre = real.block(0, 1)[0].to(device)  # any near point; this one keeps whole numbers whole
    of_real = radii(real, {near[n] for n in wanted if n != RECALL}, centre, "real", progress)
    of_generated = radii(
        generated, {near[n] for n in wanted if n == RECALL}, centre, "generated", progress
    )
    tally = _Tally(
        {n: (of_generated if n == RECALL else of_real)[near[n]] for n in wanted},
        len(real), len(generated), centre.device,
    )  # fmt: skip
    for start, block in generated.blocks(ROWS):
        x = block.to(device) - centre
        for first, other in real.blocks(COLUMNS):
            distances = squared_distances(x, other.to(device) - centre)
            tally.add(slice(start, start + len(x)), slice(first, first + len(other)), distances)
        progress("distances between the sets", start + len(x), len(generated))
    return {name: tally.mean(name) / (near[name] if name == DENSITY else 1) for name in wanted}


class _Tally:
    """What a pass over all pairs finds.

    Args:
        radii: Value → squared radii of its balls: around generated vectors for recall, else real.
    """

    def __init__(
        self, radii: dict[str, Tensor], real: int, generated: int, device: torch.device
    ) -> None:
        self.radii = radii
        sizes = {PRECISION: generated, DENSITY: generated, RECALL: real, COVERAGE: real}
        # Per vector: whether it lies in a ball, in how many, or whether its own ball holds one.
        self.found = {name: torch.zeros(sizes[name], device=device) for name in radii}

    def add(self, rows: slice, columns: slice, distances: Tensor) -> None:
        """Take in squared distances [generated rows, real columns]."""
        for name, radii in self.radii.items():
            found = self.found[name]
            if name == PRECISION:
                found[rows].clamp_(min=(distances <= radii[columns]).any(dim=1))
            elif name == RECALL:
                found[columns].clamp_(min=(distances <= radii[rows, None]).any(dim=0))
            elif name == COVERAGE:
                found[columns].clamp_(min=(distances < radii[columns]).any(dim=0))
            else:
                found[rows] += (distances < radii[columns]).sum(dim=1)

    def mean(self, name: str) -> float:
        """Return the mean over the vectors that a value counts."""
        return float(self.found[name].mean(dtype=torch.float64))


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
    for start, block in rows.blocks(ROWS):
        x = block.to(centre.device) - centre
        nearest = x.new_full((len(x), most), torch.inf)
        for first, columns in rows.blocks(COLUMNS):
            distances = squared_distances(x, columns.to(centre.device) - centre)
            own = torch.arange(start, start + len(x)) - first  # a vector is not its own neighbour
            here = (own >= 0) & (own < len(columns))
            distances[here.nonzero().squeeze(1), own[here]] = torch.inf
            both = torch.cat([nearest, distances], dim=1)
            nearest = both.topk(most, dim=1, largest=False).values
        found.append(nearest)
        progress(f"distances within the {name} set", start + len(x), len(rows))
    nearest = torch.cat(found)
    return {rank: nearest[:, rank - 1].contiguous() for rank in ranks}


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return squared distances [N, M]; float32, so both are to be near the origin."""
    squares = y.square().sum(dim=1)
    return torch.addmm(squares, x, y.T, alpha=-2).add_(x.square().sum(dim=1)[:, None]).clamp_(min=0)
