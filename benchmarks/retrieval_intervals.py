"""How often the intervals of ``irs-kept`` hold the true quotient, on Gaussian features.

Sets of 500 and 2 000 references and samples in 2, 20 and 100 dimensions; the student draws like the
teacher, from nearly the same latents, or from one half of the space. The truth is the quotient of
the mean estimates of all runs. "Narrow" intervals are made of the source's bounds alone.

    python benchmarks/retrieval_intervals.py
"""

import statistics
from collections.abc import Iterator

import torch
from torch import Tensor

from ganc.perceptual.retrieval import Estimate, equally_likely, quotient, reachable

RUNS = 100


def counts(references: Tensor, samples: Tensor) -> Tensor:
    nearest = torch.cdist(samples, references).argmin(dim=1)
    return torch.bincount(nearest, minlength=len(references))


def narrow(found: Tensor) -> Estimate:
    return equally_likely(int((found > 0).sum()), int(found.sum()), len(found))


def runs(
    dim: int, references: int, samples: int, student: str, draws: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield how often the student's and the teacher's samples retrieve each reference."""
    fixed = torch.randn(references, dim, generator=draws)
    for _ in range(RUNS):
        theirs, ours = (torch.randn(samples, dim, generator=draws) for _ in range(2))
        if student == "near":
            ours = (3 * theirs + ours) / 10**0.5
        elif student == "half":
            ours[:, 0].abs_()
        yield counts(fixed, ours), counts(fixed, theirs)


def held(pairs: list[tuple[Estimate, Estimate]]) -> int:
    truth = statistics.fmean(a.value for a, _ in pairs) / statistics.fmean(
        b.value for _, b in pairs
    )
    intervals = [quotient(a, b) for a, b in pairs]
    return sum(low <= truth <= high for _, low, high in intervals)


def main() -> None:
    draws = torch.Generator().manual_seed(0)
    print("dim references samples student held narrow")
    for dim in (2, 20, 100):
        for references, samples in ((500, 500), (500, 2000), (2000, 500)):
            for student in ("alike", "near", "half"):
                found = list(runs(dim, references, samples, student, draws))
                ours = held([(reachable(a), reachable(b)) for a, b in found])
                source = held([(narrow(a), narrow(b)) for a, b in found])
                print(dim, references, samples, student, ours, source, flush=True)


if __name__ == "__main__":
    main()
