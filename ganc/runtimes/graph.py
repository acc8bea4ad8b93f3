"""A generator as a program: a function from named tensors to images, and what they mean."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ganc import seeds
from ganc.errors import unknown_name
from ganc.models.model import Model
from ganc.models.network import ImageGenerator, LatentGenerator, Translator
from ganc.models.sampling import latent_inputs, noise_images, pick_generator
from ganc.models.style import StyleGenerator
from ganc.runtimes.program import NamedInputs, Program, Runner

_TRACED_BATCH = 2  # a dynamic axis cannot be traced at 1: that size is specialised
_TRACED = range(1_000_000, 1_000_000 + _TRACED_BATCH)  # never the samples that are compared
_SEED = 0


class Axis(NamedTuple):
    """An axis of a size that each call chooses.

    Attributes:
        name: Axes of one name have one size.
        multiple: What divides it.
        least: Its least value.
    """

    name: str
    multiple: int = 1
    least: int = 1

    def __str__(self) -> str:
        return self.name if self.multiple == 1 else f"{self.multiple}*{self.name}"

    def dimension(self) -> torch.export.Dim:
        """Return it as torch's exporters want it."""
        counted = torch.export.Dim(self.name, min=-(-self.least // self.multiple))
        return counted if self.multiple == 1 else self.multiple * counted


class Input(NamedTuple):
    """One float32 input of an exported file.

    Attributes:
        axes: A number for an axis of a fixed size; empty for a scalar.
        meaning: What it is and which range it has.
    """

    axes: tuple[Axis | int, ...]
    meaning: str


_BATCH = Axis("batch")


@dataclass(frozen=True)
class Graph(Program):
    """A generator as it leaves PyTorch: static weights, stored noise, named inputs.

    Its module returns images [N, C, H, W]; no size of what it is traced with is special.

    Attributes:
        generator: What the module is made of, in eval mode.
        inputs: What it takes, by name.
        reference: The generator's own forward pass on the same inputs.
        other_sizes: Inputs to compare with beside those of the usual size.
    """

    generator: ImageGenerator
    inputs: dict[str, Input]
    reference: Runner
    other_sizes: tuple[NamedInputs, ...] = ()

    def dynamic_shapes(self) -> dict[str, dict[int, torch.export.Dim]]:
        axes = {axis for described in self.inputs.values() for axis in described.axes}
        sizes = {axis: axis.dimension() for axis in axes if isinstance(axis, Axis)}
        return {
            name: {
                i: sizes[axis] for i, axis in enumerate(described.axes) if isinstance(axis, Axis)
            }
            for name, described in self.inputs.items()
        }

    def trace(self) -> torch.export.ExportedProgram:
        # By itself the tracer rules out that any size is 1, as the innermost of a U-Net may be.
        # (Where only the batch may vary it finds out that 1 is fine, but not in this mode.)
        config: Any = torch.fx.experimental._config  # gets its methods while it is imported
        with config.patch(backed_size_oblivious=bool(self.other_sizes)):
            return super().trace()


class _FromLatents(nn.Module):
    """z and label to image; truncation is a tensor, so that the file can take it as an input."""

    def __init__(self, generator: StyleGenerator) -> None:
        super().__init__()
        self.mapping, self.synthesis = generator.mapping, generator.synthesis

    def forward(self, z: Tensor, truncation_psi: Tensor, c: Tensor | None = None) -> Tensor:
        ws = self.mapping(z, c)
        w_avg = self.mapping.w_avg
        images: Tensor = self.synthesis(w_avg + (ws - w_avg) * truncation_psi, noise_mode="const")
        return images


class _FromWs(nn.Module):
    """ws to image."""

    def __init__(self, generator: StyleGenerator) -> None:
        super().__init__()
        self.synthesis = generator.synthesis

    def forward(self, ws: Tensor) -> Tensor:
        images: Tensor = self.synthesis(ws, noise_mode="const")
        return images


class _FromZ(nn.Module):
    """z, and nothing else, to image."""

    def __init__(self, generator: LatentGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.generator(z)
        return images


class _FromImage(nn.Module):
    """Image to image."""

    def __init__(self, generator: Translator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        images: Tensor = self.generator(x)
        return images


def _from_latents(generator: StyleGenerator) -> Graph:
    inputs = {"z": Input((_BATCH, generator.z_dim), "latent, standard normal")}
    if generator.c_dim:
        inputs["c"] = Input((_BATCH, generator.c_dim), "label: a class, one-hot, or a vector")
    inputs["truncation_psi"] = Input((), "1 changes nothing, 0 gives the mean w")

    def draw(indices: range) -> NamedInputs:
        drawn = latent_inputs(generator, indices, _SEED, noise_mode="const")
        tensors = {"z": drawn.z, "c": drawn.c, "truncation_psi": _draw_truncation(indices)}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def reference(inputs: NamedInputs) -> Tensor:
        psi = inputs["truncation_psi"].item()
        images: Tensor = generator(inputs["z"], inputs.get("c"), truncation_psi=psi)
        return images

    module = _FromLatents(generator)
    return Graph(module, draw, draw(_TRACED), generator, inputs, reference)


def _from_ws(generator: StyleGenerator) -> Graph:
    meaning = "what the mapping network returns, truncation applied"
    inputs = {"ws": Input((_BATCH, generator.num_ws, generator.w_dim), meaning)}

    def draw(indices: range) -> NamedInputs:
        drawn = latent_inputs(generator, indices, _SEED, noise_mode="const")
        psi = _draw_truncation(indices).item()
        return {"ws": generator.mapping(drawn.z, drawn.c, truncation_psi=psi)}

    def reference(inputs: NamedInputs) -> Tensor:
        images: Tensor = generator.synthesis(inputs["ws"])
        return images

    module = _FromWs(generator)
    return Graph(module, draw, draw(_TRACED), generator, inputs, reference)


def _draw_truncation(indices: range) -> Tensor:
    """Draw a truncation psi in [0.4, 1) for some samples: a scalar."""
    random = seeds.generator(_SEED, "truncation", indices.start).random()
    return torch.tensor(0.4 + 0.6 * random, dtype=torch.float32)


def _from_z(generator: LatentGenerator) -> Graph:
    inputs = {"z": Input((_BATCH, generator.z_dim), "latent, standard normal")}

    def draw(indices: range) -> NamedInputs:
        return {"z": latent_inputs(generator, indices, _SEED, noise_mode="const").z}

    def reference(inputs: NamedInputs) -> Tensor:
        images: Tensor = generator(inputs["z"])
        return images

    return Graph(_FromZ(generator), draw, draw(_TRACED), generator, inputs, reference)


def _from_image(generator: Translator) -> Graph:
    step, least = generator.size_multiple, generator.least_side
    sides = (Axis("height", step, least), Axis("width", step, least))
    meaning = "image, range [-1, 1]: x / 127.5 - 1 of 8 bits; channels first, RGB"
    inputs = {"x": Input((_BATCH, generator.in_channels, *sides), meaning)}

    def draw(indices: range) -> NamedInputs:
        return {"x": noise_images(generator, indices, _SEED)}

    def draw_sized(batch: int, height: int, width: int) -> NamedInputs:
        shape = (generator.in_channels, height, width)
        return {"x": seeds.normal(_SEED, "sizes", range(batch), shape).clamp(-1, 1)}

    def reference(inputs: NamedInputs) -> Tensor:
        images: Tensor = generator(inputs["x"])
        return images

    # No square, and nothing of it is a single pixel inside: such sizes would be taken for fixed.
    traced = draw_sized(_TRACED_BATCH, least + 2 * step, least + 3 * step)
    others = (draw_sized(1, least, least), draw_sized(2, least + 3 * step, least + step))
    module = _FromImage(generator)
    return Graph(module, draw, traced, generator, inputs, reference, others)


GRAPHS: dict[type, dict[str, Callable[[Any], Graph]]] = {
    StyleGenerator: {"z": _from_latents, "ws": _from_ws},
    LatentGenerator: {"z": _from_z},
    Translator: {"x": _from_image},
}
"""Kind of generator → what its exported file may take (``inputs``), the default first.

The first kind that a generator is one of counts: a new family of a known kind needs no row.
"""


def build_graph(model: Model, inputs: str | None = None, network: str = "generator") -> Graph:
    """Prepare one of a model's generators for export; raises as ``graph_of`` does.

    Args:
        network: Which generator: a name in ``models.sampling.GENERATORS``.
    Raises:
        InputError: The model holds no such generator.
        UsageError: ``network`` is not known.
    """
    return graph_of(pick_generator(model, network), inputs)


def graph_of(generator: ImageGenerator, inputs: str | None = None) -> Graph:
    """Prepare a generator for a runtime.

    Args:
        generator: Stays as it is; the graph works on a float32 copy on the CPU.
        inputs: A name in the generator's row of ``GRAPHS``; None takes the first.
    Raises:
        UsageError: ``inputs`` is not known.
    """
    choices = next(row for kind, row in GRAPHS.items() if isinstance(generator, kind))
    name = next(iter(choices)) if inputs is None else inputs
    if name not in choices:
        raise unknown_name("--inputs", name, choices)
    return choices[name](generator.copy_on("cpu").float().requires_grad_(False))
