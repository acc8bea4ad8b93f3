"""What of a model is exported: a function from named tensors to images, and what they mean."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganc.errors import InputError, unknown_name
from ganc.models.model import Model
from ganc.models.sampling import latent_inputs
from ganc.models.stylegan2 import Generator

Inputs = dict[str, Tensor]
Run = Callable[[Inputs], Tensor]
"""From inputs to images [N, C, H, W]: a generator, or an exported file in its runtime."""

_TRACED_BATCH = 2  # a dynamic axis cannot be traced at 1: that size is specialised
_TRACED = range(1_000_000, 1_000_000 + _TRACED_BATCH)  # never the samples that are compared
_SEED = 0


class Input(NamedTuple):
    """One float32 input of an exported file.

    Attributes:
        axes: A name for an axis of any size, a number for a fixed one; empty for a scalar.
        meaning: What it is and which range it has.
    """

    axes: tuple[str | int, ...]
    meaning: str


@dataclass(frozen=True)
class Graph:
    """A generator as it leaves PyTorch: static weights, stored noise, named inputs.

    Attributes:
        module: Takes the inputs by keyword and returns images [N, C, H, W].
        inputs: What it takes, by name.
        draw: ``draw(indices, truncation_psi)`` → the inputs of these samples.
        reference: The generator's own forward pass on the same inputs.
    """

    module: nn.Module
    inputs: dict[str, Input]
    draw: Callable[[range, float], Inputs]
    reference: Run

    def dynamic_shapes(self) -> dict[str, dict[int, torch.export.Dim]]:
        """Return which axes may have any size, as torch's exporters want it."""
        axes = {axis for described in self.inputs.values() for axis in described.axes}
        sizes = {axis: torch.export.Dim(axis) for axis in axes if isinstance(axis, str)}
        return {
            name: {i: sizes[axis] for i, axis in enumerate(described.axes) if isinstance(axis, str)}
            for name, described in self.inputs.items()
        }

    def trace(self) -> torch.export.ExportedProgram:
        """Record the module."""
        return torch.export.export(
            self.module.eval(),
            (),
            self.draw(_TRACED, 0.7),
            dynamic_shapes=self.dynamic_shapes(),
            strict=False,
        )


class _FromLatents(nn.Module):
    """z and label to image; truncation is a tensor, so that the file can take it as an input."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.mapping, self.synthesis = generator.mapping, generator.synthesis

    def forward(self, z: Tensor, truncation_psi: Tensor, c: Tensor | None = None) -> Tensor:
        ws = self.mapping(z, c)
        w_avg = self.mapping.w_avg
        return self.synthesis(w_avg + (ws - w_avg) * truncation_psi, noise_mode="const")


class _FromWs(nn.Module):
    """ws to image."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.synthesis = generator.synthesis

    def forward(self, ws: Tensor) -> Tensor:
        return self.synthesis(ws, noise_mode="const")


def _from_latents(generator: Generator) -> Graph:
    inputs = {"z": Input(("batch", generator.z_dim), "latent, standard normal")}
    if generator.c_dim:
        inputs["c"] = Input(("batch", generator.c_dim), "label, one-hot")
    inputs["truncation_psi"] = Input((), "1 changes nothing, 0 gives the mean w")

    def draw(indices: range, truncation_psi: float) -> Inputs:
        drawn = latent_inputs(generator, indices, _SEED, noise_mode="const")
        tensors = {"z": drawn.z, "c": drawn.c, "truncation_psi": torch.tensor(truncation_psi)}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def reference(inputs: Inputs) -> Tensor:
        psi = inputs["truncation_psi"].item()
        return generator(inputs["z"], inputs.get("c"), truncation_psi=psi)

    return Graph(_FromLatents(generator), inputs, draw, reference)


def _from_ws(generator: Generator) -> Graph:
    meaning = "what the mapping network returns, truncation applied"
    inputs = {"ws": Input(("batch", generator.num_ws, generator.w_dim), meaning)}

    def draw(indices: range, truncation_psi: float) -> Inputs:
        drawn = latent_inputs(generator, indices, _SEED, noise_mode="const")
        return {"ws": generator.mapping(drawn.z, drawn.c, truncation_psi=truncation_psi)}

    return Graph(_FromWs(generator), inputs, draw, lambda inputs: generator.synthesis(inputs["ws"]))


GRAPHS: dict[str, dict[str, Callable[[Generator], Graph]]] = {
    "stylegan2": {"z": _from_latents, "ws": _from_ws},
}
"""Architecture → what its exported file may take (``inputs``), the default first."""


def build_graph(model: Model, inputs: str | None = None) -> Graph:
    """Prepare a model's generator for export.

    Args:
        model: Stays as it is; the graph works on a float32 copy on the CPU.
        inputs: A name in the architecture's row of ``GRAPHS``; None takes the first.
    Raises:
        InputError: The model holds no generator.
        UsageError: ``inputs`` is not known.
    """
    if model.generator is None:
        raise InputError(
            "the model holds no generator to export", "import it with the generator's file"
        )
    choices = GRAPHS[model.architecture]
    name = next(iter(choices)) if inputs is None else inputs
    if name not in choices:
        raise unknown_name("--inputs", name, choices)
    generator = copy.deepcopy(model.generator).to("cpu", torch.float32)
    return choices[name](generator.eval().requires_grad_(False))
