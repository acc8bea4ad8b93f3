"""OpenVINO itself: what it says about the processor, and its models compiled and run."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ganc.errors import ComputationError
from ganc.runtimes.program import NamedInputs, first_line

HINT = "INFERENCE_PRECISION_HINT"
TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Precision → what OpenVINO calls it."""


def silence_telemetry() -> None:
    """Keep OpenVINO and NNCF from reporting their use over the network: without this package they
    do not."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def openvino() -> Any:
    """Import OpenVINO."""
    silence_telemetry()
    import openvino

    return openvino


def capabilities() -> tuple[str, ...]:
    """Return what OpenVINO says that the processor computes: "FP32", "BF16", "INT8", …"""
    found = openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name in found if name in ("FP32", "FP16", "BF16", "INT8"))


def default_precision() -> str:
    """Return the precision that OpenVINO takes where nothing is set."""
    return precision_of(openvino().Core().get_property("CPU", HINT))


def precision_of(hint: Any) -> str:
    """Return a value of ``HINT`` by our name."""
    return next(name for name, known in TYPES.items() if known == hint.get_type_name())


def compile_model(model: Any, properties: Mapping[str, str]) -> Any:
    """Compile a model for one call at a time, with as many threads as PyTorch has."""
    threads = torch.get_num_threads()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, **properties}
    with refusals():
        return openvino().Core().compile_model(model, "CPU", settings)


def runner(compiled: Any) -> Callable[[NamedInputs], Tensor]:
    """Return what runs a compiled model."""
    request = compiled.create_infer_request()

    def run(inputs: NamedInputs) -> Tensor:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        with refusals():
            results = request.infer(arrays, share_inputs=True)
        return torch.from_numpy(results[0])

    return run


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Translate what OpenVINO raises."""
    try:
        yield
    except (RuntimeError, openvino().frontend.OpConversionFailure) as error:
        raise ComputationError(f"openvino refuses the model: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return the line of an error of OpenVINO's that says what is wrong, not where in its code."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line.startswith("-- ")]
    return telling[0] if telling else first_line(error)
