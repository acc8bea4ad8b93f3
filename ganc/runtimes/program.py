"""What a runtime takes: a module, and inputs to trace it with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NamedInputs = dict[str, Tensor]
Runner = Callable[[NamedInputs], Tensor]
"""From inputs by name to a tensor; of a generator [N, C, H, W]."""

OUTPUT = "image"
"""What files call what they return."""


@dataclass(frozen=True)
class Program:
    """A module whose inputs have the sizes that it is traced at.

    Attributes:
        module: In eval mode; takes the inputs by keyword and returns one tensor.
        draw: From indices of samples to inputs.
        traced: Inputs to trace the module with.
    """

    module: nn.Module
    draw: Callable[[range], NamedInputs]
    traced: NamedInputs

    @property
    def device(self) -> torch.device:
        """Where the module runs."""
        return next(iter(self.traced.values())).device

    def dynamic_shapes(self) -> dict[str, dict[int, Any]] | None:
        """Return which axes may have any size, as torch's exporters want it; None where none."""
        return None

    def trace(self) -> torch.export.ExportedProgram:
        """Record the module."""
        return torch.export.export(
            self.module.eval(),
            (),
            self.traced,
            dynamic_shapes=self.dynamic_shapes(),
            strict=False,
        )


def fixed(module: nn.Module, inputs: NamedInputs) -> Program:
    """Return a program of a module that only ever gets inputs of these sizes.

    Args:
        module: Takes them by keyword and returns one tensor; no gradient is wanted of it.
        inputs: On the module's device.
    """
    return Program(module, lambda indices: inputs, inputs)


def first_line(error: BaseException) -> str:
    """Return the first line of what lies at the root of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
