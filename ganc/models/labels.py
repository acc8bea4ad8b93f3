"""Labels of samples: each one is a row of a table, drawn by the seed or taken in turn.

The table of a data set holds the label of every image, so that samples have its labels as often as
it does. The table of every class gives uniform ones.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganc import seeds
from ganc.errors import UsageError


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Labels to choose from.

    Attributes:
        values: Class numbers [M], int64, or vectors [M, D_c], float32; M is 1 or more, on the CPU.
        in_turn: Sample i takes row i mod M. Otherwise (seed, i) draws its row, all equally likely.
    """

    values: Tensor
    in_turn: bool = False

    @classmethod
    def every_class(cls, c_dim: int) -> "LabelTable":
        """Return the table that gives uniform classes."""
        return cls(torch.arange(c_dim))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the labels in their order."""
        digest = hashlib.sha256(f"{self.values.dtype} {list(self.values.shape)}\n".encode())
        digest.update(self.values.numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _highest(self) -> int:
        return int(self.values.max())

    def misfit(self, c_dim: int) -> str | None:
        """Return what keeps a model from taking these labels; None where it can take them.

        Class numbers fit wherever they are below ``c_dim``, whichever of them occur.

        Args:
            c_dim: Size of the label that the model takes.
        """
        if not c_dim:
            return "the model takes no labels"
        if self.values.ndim == 2:
            length = self.values.shape[1]
            takes = f"the model takes vectors of length {c_dim}"
            return None if length == c_dim else f"vectors of length {length}, {takes}"
        takes = f"the model takes classes 0 to {c_dim - 1}"
        return None if self._highest < c_dim else f"class {self._highest}, {takes}"

    def rows(self, indices: Sequence[int] | range, seed: int, c_dim: int) -> Tensor:
        """Return the labels of some samples: [N, c_dim], float32, one-hot for class numbers.

        Raises:
            UsageError: The labels do not fit.
        """
        problem = self.misfit(c_dim)
        if problem:
            raise UsageError(f"labels: {problem}")
        count = len(self.values)
        if self.in_turn:
            chosen = [i % count for i in indices]
        else:
            chosen = [int(seeds.generator(seed, "labels", i).integers(count)) for i in indices]
        labels = self.values[chosen]
        return F.one_hot(labels, c_dim).float() if labels.ndim == 1 else labels


def as_table(labels: Any) -> LabelTable:
    """Return labels that somebody wrote down, to be taken in turn.

    Args:
        labels: Class numbers [N], whole, or vectors [N, D_c]: a tensor, an array or sequences.
    Raises:
        UsageError: They are something else, or not finite.
    """
    allowed = "allowed are class numbers [N] or vectors [N, D_c]"
    try:
        values = torch.as_tensor(labels).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"labels have no common form; {allowed}") from error
    is_number = values.dtype != torch.bool and not values.is_complex()
    if not (is_number and values.numel() and values.ndim in (1, 2)):
        found = f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"
        raise UsageError(f"labels are {found}; {allowed}")
    if values.ndim == 2:
        vectors = values.to(torch.float32)
        if not vectors.isfinite().all():
            raise UsageError("labels hold a number that is not finite in float32")
        return LabelTable(vectors, in_turn=True)
    classes = values.to(torch.int64)
    is_class = (classes == values) & (classes >= 0)
    if not is_class.all():
        wrong = values[~is_class][0].item()
        raise UsageError(f"labels hold {wrong:g}, which is not a class number; {allowed}")
    return LabelTable(classes, in_turn=True)
