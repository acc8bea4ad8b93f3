"""OpenVINO, on the CPU, and its IR files: an ``.xml`` with the graph, a ``.bin`` with the weights.

What the CPU computes in is no part of an IR file: by itself OpenVINO takes bfloat16 where the
processor has it, for float32 files too. ``properties`` says what has to be set when one is loaded.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ganc.devices import device_name
from ganc.errors import ComputationError, InputError
from ganc.extras import require
from ganc.runtimes.openvino_core import (
    HINT,
    TYPES,
    capabilities,
    compile_model,
    default_precision,
    openvino,
    precision_of,
    refusals,
    runner,
    silence_telemetry,
)
from ganc.runtimes.openvino_precision import keep_enlarging_filters, to_int8
from ganc.runtimes.precisions import PRECISIONS
from ganc.runtimes.program import OUTPUT, Program
from ganc.runtimes.quiet import quiet
from ganc.runtimes.runtime import CPU, Executable, FileRuntime, Quantised


class OpenVino(FileRuntime):
    """OpenVINO's CPU plugin."""

    precisions = PRECISIONS["openvino"]
    suffix = ".xml"

    def check(self, dtype: str = "fp32") -> None:
        super().check(dtype)
        silence_telemetry()
        with quiet():
            require("openvino", ["openvino", "nncf"] if dtype == "int8" else ["openvino"])
        there = capabilities()
        if dtype in ("bf16", "int8") and dtype.upper() not in there:
            raise InputError(
                f"--dtype {dtype}: on this processor ({device_name(CPU)}) OpenVINO computes"
                f" {', '.join(there)} only",
                "pass --dtype fp32, or export on the machine that will run the file",
            )

    def title(self) -> str:
        return f"OpenVINO {version('openvino')}, CPU"

    def computes_in(self, dtype: str) -> str:
        if dtype == "int8":
            return f"int8, else {default_precision()}"
        return dtype if self._arithmetic(dtype) == dtype else f"fp32, {dtype} weights"

    def properties(self, dtype: str) -> dict[str, str]:
        # Where a file of int8 layers computes in float the default is right on every processor.
        return {} if dtype == "int8" else {HINT: TYPES[self._arithmetic(dtype)]}

    def _arithmetic(self, dtype: str) -> str:
        """Return what floats are computed in: half precision where the processor has it."""
        return "fp32" if dtype == "fp16" and "FP16" not in capabilities() else dtype

    def write(self, program: Program, path: Path, metadata: Mapping[str, str]) -> None:
        model = _convert(program)
        for key, value in metadata.items():
            model.set_rt_info(value, ["ganc", key])
        openvino().save_model(model, path, compress_to_fp16=False)

    def reduce(self, program: Program, full: Path, path: Path, dtype: str) -> Quantised | None:
        quantised = None
        with refusals():
            model = openvino().Core().read_model(full)
            if dtype == "int8":
                model, quantised = to_int8(program, model)
            keep_enlarging_filters(model)
            openvino().save_model(model, path, compress_to_fp16=True)
        return quantised

    def open(self, path: Path, dtype: str = "fp32") -> Executable:
        with refusals():
            model = openvino().Core().read_model(path)
        compiled = compile_model(model, self.properties(dtype))
        found = precision_of(compiled.get_property(HINT))
        if dtype != "int8" and found != self._arithmetic(dtype):
            # It replaces what the processor lacks without a word.
            raise ComputationError(f"openvino computes in {found}, not in {dtype}")
        return Executable(runner(compiled), self.conditions(dtype))


def _convert(program: Program) -> Any:
    """Return an OpenVINO model with the program's names and sizes."""
    recorded = program.trace()
    with refusals(), quiet():  # it imports what of NNCF there is, which speaks of the installation
        model = openvino().convert_model(recorded)
    free = program.dynamic_shapes() or {}
    shapes = {}
    for described in model.inputs:
        name = described.get_any_name()
        sizes = program.traced[name].shape
        shapes[name] = [-1 if i in free.get(name, {}) else size for i, size in enumerate(sizes)]
    model.reshape(shapes)
    model.output(0).get_tensor().set_names({OUTPUT})
    return model
