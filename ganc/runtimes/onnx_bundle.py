"""Several programs as one ONNX graph, and the graph cut into its programs again."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ganc.runtimes.program import NamedInputs, Program


class _Together(nn.Module):
    """Programs side by side: inputs named ``p<number>.<name>``, an output each."""

    def __init__(self, programs: Sequence[Program]) -> None:
        super().__init__()
        self.modules_ = nn.ModuleList(program.module for program in programs)
        self.names = [list(program.traced) for program in programs]

    def forward(self, **tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            module(**{name: tensors[_input(i, name)] for name in names})
            for i, (module, names) in enumerate(zip(self.modules_, self.names, strict=True))
        )


def together(programs: Sequence[Program]) -> Program:
    """Return programs of fixed sizes as one."""
    inputs: NamedInputs = {
        _input(i, name): tensor
        for i, program in enumerate(programs)
        for name, tensor in program.traced.items()
    }
    return Program(_Together(programs), lambda indices: inputs, inputs)


def cut(model: Any, programs: Sequence[Program], outputs: Sequence[str]) -> Iterator[Any]:
    """Yield each program's part of a graph, with its own names of inputs."""
    from onnx.utils import Extractor

    extractor = Extractor(model)
    there = {value.name for value in model.graph.input}
    for i, (program, output) in enumerate(zip(programs, outputs, strict=True)):
        names = {_input(i, name): name for name in program.traced}
        part = extractor.extract_model([name for name in names if name in there], [output])
        for value in part.graph.input:
            value.name = names[value.name]
        for node in part.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
        yield part


def _input(program: int, name: str) -> str:
    return f"p{program}_{name}"
