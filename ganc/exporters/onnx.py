"""``onnx``: an ONNX file that any runtime can take, run by ONNX Runtime to check it.

Activations are scaled, not weights (the "shared" formulation of ``ops.modulated_conv2d``), so all
convolution weights and filters are constants of the file and the batch may have any size.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganc.errors import ComputationError, InputError, UsageError
from ganc.exporters.format import ExportFormat, ExportSettings, Job, Runtime, Written, require
from ganc.exporters.graph import Graph, NamedInputs
from ganc.exporters.precision import to_half, to_int8

# Torch's exporter writes 18 and later sets are converted from it; ONNX Runtime 1.20 reads up to 23.
OPSETS = range(18, 24)

_PROVIDERS = ["CPUExecutionProvider"]
_MAX_BYTES = 2**31  # of a protocol buffer, and so of an .onnx file without external data
_UNLIMITED = 2**62


def _check(settings: ExportSettings) -> None:
    if settings.opset is not None and settings.opset not in OPSETS:
        raise UsageError(
            f"--opset {settings.opset} is outside {OPSETS[0]} to {OPSETS[-1]}",
            f"leave --opset out to get {OPSETS[0]}",
        )
    require(["onnx", "onnxscript", "onnxruntime"])


def _write(job: Job, path: Path) -> Written:
    program = _convert(job.graph, OPSETS[0] if job.settings.opset is None else job.settings.opset)
    _fold(program.model)
    program.model.metadata_props.update(job.metadata())
    program.save(path, external_data=False)
    return Written()


def _convert(graph: Graph, opset: int) -> torch.onnx.ONNXProgram:
    try:
        program = torch.onnx.export(
            graph.trace(),
            dynamic_shapes=graph.dynamic_shapes(),  # names the axes; they are traced already
            opset_version=opset,
            output_names=["image"],
            dynamo=True,
            verbose=False,  # its progress would go to stdout
        )
    except torch.onnx.OnnxExporterError as error:
        raise ComputationError(f"onnx cannot express the model: {_line(error)}") from error
    assert program is not None
    return program


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


def _open(path: Path) -> Runtime:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as PyTorch, which it is timed beside
    options.log_severity_level = 3  # errors only: its warnings are about its own optimisations
    with _refusals():
        session = onnxruntime.InferenceSession(path, options, providers=_PROVIDERS)
    if session.get_providers() != _PROVIDERS:  # it replaces what it lacks without a word
        raise ComputationError(f"onnx runtime runs on {session.get_providers()}, not on the CPU")

    def run(inputs: NamedInputs) -> Tensor:
        with _refusals():
            (images,) = session.run(["image"], {name: x.numpy() for name, x in inputs.items()})
        return torch.from_numpy(images)

    return Runtime(run, session.get_providers()[0])


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Translate what ONNX Runtime raises; its errors have no class in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        yield
    except (state.Fail, state.InvalidGraph, state.InvalidArgument, state.InvalidProtobuf,
            state.NotImplemented, state.RuntimeException) as error:  # fmt: skip
        raise ComputationError(f"onnx runtime refuses the exported file: {_line(error)}") from error


def _line(error: BaseException) -> str:
    """Return the first line of what lies at the root of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


ONNX = ExportFormat(
    check=_check, write=_write, open=_open, reductions={"fp16": to_half, "int8": to_int8}
)
