"""The Vendi score: how many different things a set of feature vectors amounts to."""

import torch
from torch import Tensor

from ganc.errors import ComputationError


class Similarities:
    """The cosine kernel of a stream of vectors, as the D x D matrix that has its eigenvalues.

    With the vectors of length 1 as the rows of X, the kernel of all pairs is X Xᵀ, N x N; Xᵀ X has
    the same eigenvalues, zeros aside, and its size does not grow with N.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.sums = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    def update(self, features: Tensor) -> None:
        """Take in vectors [N, D] of any floating type and device.

        Raises:
            ComputationError: One of them has no direction: it is zero, or not finite.
        """
        exact = features.detach().to(self.sums.device, torch.float64)
        lengths = exact.norm(dim=1, keepdim=True)
        bad = ~(lengths.isfinite() & (lengths > 0))
        if bad.any():
            index = self.count + int(bad.flatten().nonzero()[0])
            raise ComputationError(
                f"features of sample {index} have length {float(lengths[bad][0]):g}: there is no"
                " angle to others",
                "look at the images that the model makes: `ganc sample`",
            )
        units = exact / lengths
        self.sums.addmm_(units.T, units)
        self.count += len(units)

    def score(self) -> float:
        """Return exp of the entropy of the eigenvalues of the kernel divided by N: 1 … N.

        Source: Friedman and Dieng 2022. Vectors in m directions at right angles, each as often,
        give m.

        Raises:
            ComputationError: There is no vector.
        """
        if not self.count:
            raise ComputationError("a Vendi score needs 1 sample, got 0")
        shares = torch.linalg.eigvalsh(self.sums / self.count).clamp(
            min=0
        )  # rounding leaves -1e-17
        return float(torch.special.entr(shares).sum().exp())
