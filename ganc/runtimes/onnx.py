"""ONNX Runtime, on the CPU, and the ONNX files that any runtime can take.

Activations are scaled, not weights (the "shared" formulation of ``ops.modulated_conv2d``), so all
convolution weights and filters are constants of the file and the batch may have any size.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganc.errors import ComputationError, InputError
from ganc.extras import require
from ganc.runtimes.onnx_bundle import cut, together
from ganc.runtimes.onnx_precision import to_half, to_int8
from ganc.runtimes.precisions import PRECISIONS
from ganc.runtimes.program import OUTPUT, NamedInputs, Program, first_line
from ganc.runtimes.runtime import Executable, FileRuntime, Quantised

# Torch's exporter writes 18 and later sets are converted from it; ONNX Runtime 1.20 reads up to 23.
OPSETS = range(18, 24)

_PROVIDERS = ["CPUExecutionProvider"]
_MAX_BYTES = 2**31  # of a protocol buffer, and so of an .onnx file without external data
_UNLIMITED = 2**62


class OnnxRuntime(FileRuntime):
    """ONNX Runtime's CPU provider.

    Args:
        opset: The operator set of files that are written, one of ``OPSETS``.
    """

    precisions = PRECISIONS["onnx"]
    suffix = ".onnx"

    def __init__(self, opset: int = OPSETS[0]) -> None:
        self.opset = opset

    def check(self, dtype: str = "fp32") -> None:
        super().check(dtype)
        require("export")

    def title(self) -> str:
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__}, {_PROVIDERS[0]}"

    def write(self, program: Program, path: Path, metadata: Mapping[str, str]) -> None:
        converted = _convert(program, self.opset)
        _fold(converted.model)
        converted.model.metadata_props.update(metadata)
        converted.save(path, external_data=False)

    def write_each(self, programs: Sequence[Program], paths: Sequence[Path]) -> None:
        if len(programs) == 1:
            return super().write_each(programs, paths)
        # An export takes a second, whatever its size: all become one graph, which is then cut up.
        outputs = [f"{OUTPUT}{i}" for i in range(len(programs))]
        converted = _convert(together(programs), self.opset, outputs)
        _fold(converted.model)
        for path, model in zip(paths, cut(converted.model_proto, programs, outputs), strict=True):
            path.write_bytes(model.SerializeToString())
        return None

    def computes_in(self, dtype: str) -> str:
        return "int8, else fp32" if dtype == "int8" else dtype

    def reduce(self, program: Program, full: Path, path: Path, dtype: str) -> Quantised | None:
        if dtype == "int8":
            return to_int8(program, full, path)
        to_half(full, path)
        return None

    def open(self, path: Path, dtype: str = "fp32") -> Executable:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # as PyTorch, which it stands beside
        options.log_severity_level = 3  # errors only: its warnings are about its own optimisations
        with _refusals():
            session = onnxruntime.InferenceSession(path, options, providers=_PROVIDERS)
        providers = session.get_providers()
        if providers != _PROVIDERS:  # it replaces what it lacks without a word
            raise ComputationError(f"onnx runtime runs on {providers}, not on the CPU")

        (output,) = (found.name for found in session.get_outputs())

        def run(inputs: NamedInputs) -> Tensor:
            with _refusals():
                (images,) = session.run([output], {name: x.numpy() for name, x in inputs.items()})
            return torch.from_numpy(images)

        def bind(inputs: NamedInputs) -> Callable[[], object]:
            place, binding = onnxruntime.OrtValue.ortvalue_from_numpy, session.io_binding()
            binding.bind_ortvalue_output(output, place(run(inputs).numpy()))
            for name, x in inputs.items():
                binding.bind_ortvalue_input(name, place(x.numpy()))
            return partial(session.run_with_iobinding, binding)

        return Executable(run, self.conditions(dtype), bind=bind)


def _convert(
    program: Program, opset: int, outputs: Sequence[str] = (OUTPUT,)
) -> torch.onnx.ONNXProgram:
    try:
        converted = torch.onnx.export(
            program.trace(),
            dynamic_shapes=program.dynamic_shapes(),  # names the axes; they are traced already
            opset_version=opset,
            output_names=list(outputs),
            dynamo=True,
            optimize=False,  # _fold does more than its limits allow
            verbose=False,  # its progress would go to stdout
        )
    except torch.onnx.OnnxExporterError as error:
        raise ComputationError(f"onnx cannot express the model: {first_line(error)}") from error
    assert converted is not None
    return converted


def _fold(graph: Any) -> None:
    """Compute all that depends on weights alone, and drop what only the exporter needs."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript import optimizer

    # By default large tensors are left alone: transposed kernels would not be constants, and the
    # demodulation would sum all squared weights in every call.
    optimizer.optimize(graph, input_size_limit=_UNLIMITED, output_size_limit=_UNLIMITED)
    # Each node carries the Python stack that it was traced at, paths of this machine included.
    ClearMetadataAndDocStringPass()(graph)
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values())
    if size >= _MAX_BYTES:
        raise InputError(
            f"the weights take {size / 2**30:.1f} GiB, an .onnx file holds less than 2",
            "prune the model, or pass --format torch",
        )


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Translate what ONNX Runtime raises; its errors have no class in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        yield
    except (state.Fail, state.InvalidGraph, state.InvalidArgument, state.InvalidProtobuf,
            state.NotImplemented, state.RuntimeException) as error:  # fmt: skip
        refusal = f"onnx runtime refuses the exported file: {first_line(error)}"
        raise ComputationError(refusal) from error
