"""ONNX files in lower precision, made from the float32 file; inputs and output stay float32."""

import shutil
import tempfile
from collections.abc import Collection
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganc.runtimes.graph import Graph
from ganc.runtimes.program import OUTPUT, NamedInputs, Program
from ganc.runtimes.quiet import quiet
from ganc.runtimes.runtime import Quantised
from ganc.runtimes.sensitivity import CALIBRATION, JUDGED, layers_in_float


def to_half(full: Path, path: Path) -> None:
    """Write float16: weights, activations and arithmetic, as far as the runtime has it."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(onnx.load(full), keep_io_types=True, disable_shape_infer=True)
    onnx.save(half, path)


def to_int8(program: Program, full: Path, path: Path) -> Quantised:
    """Write int8: static ranges, one scale per output channel, the least fit layers in float.

    The ranges are the least and the largest activation over ``CALIBRATION``. A part of a network,
    which has no images to be judged by, is quantised whole. Transposed convolutions stay in float:
    ONNX Runtime has no int8 kernel for them and would convert back in every call.
    """
    with quiet(), tempfile.TemporaryDirectory() as folder:
        layers = _layers(program, full)
        if not layers:  # a norm by itself, say
            shutil.copyfile(full, path)
            return Quantised(0, 0)
        ranges = _ranges(program, full, Path(folder))
        others = _convolutions(full) - set(layers)
        kept: list[str] = []
        if isinstance(program, Graph):
            inputs = program.draw(JUDGED)
            trial = Path(folder) / "trial.onnx"

            def images(kept: Collection[str]) -> Tensor:
                _quantise(full, trial, ranges, others | set(kept))
                return _run(trial, inputs, [OUTPUT])[0]

            kept = layers_in_float(layers, images, _run(full, inputs, [OUTPUT])[0])
        _quantise(full, path, ranges, others | set(kept))
    return Quantised(len(layers) - len(kept), len(kept))


def _layers(program: Program, full: Path) -> dict[str, int]:
    """Return convolution → multiply-accumulates per image, of those that int8 can pay for."""
    import onnx

    model = onnx.load(full)
    weights = {tensor.name: prod(tensor.dims) for tensor in model.graph.initializer}
    dense = [node for node in model.graph.node if node.op_type == "Conv" and _groups(node) == 1]
    if not dense:
        return {}
    # Features have the sizes that the inputs give them: they are looked at.
    outputs = [node.output[0] for node in dense]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    features = _run(model.SerializeToString(), program.draw(range(1)), outputs)
    return {
        node.name: weights[node.input[1]] * prod(made.shape[2:])
        for node, made in zip(dense, features, strict=True)
    }


def _groups(node: Any) -> int:
    return next((a.i for a in node.attribute if a.name == "group"), 1)


def _convolutions(full: Path) -> set[str]:
    import onnx

    return {node.name for node in onnx.load(full).graph.node if node.op_type == "Conv"}


def _run(model: Path | bytes, inputs: NamedInputs, outputs: list[str]) -> list[Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    arrays = session.run(outputs, {name: tensor.numpy() for name, tensor in inputs.items()})
    return [torch.from_numpy(array) for array in arrays]


def _ranges(program: Program, full: Path, folder: Path) -> Any:
    """Return the least and the largest value of every tensor next to a convolution."""
    from onnxruntime.quantization.calibrate import create_calibrator

    augmented = str(folder / "augmented.onnx")
    calibrator = create_calibrator(full, ["Conv"], augmented_model_path=augmented)
    calibrator.collect_data(_Reader(program))
    return calibrator.compute_data()


class _Reader:
    """What ONNX Runtime asks for the next inputs, until it gets None."""

    def __init__(self, program: Program) -> None:
        self.batches = iter(CALIBRATION)
        self.draw = program.draw

    def get_next(self) -> dict[str, Any] | None:
        indices = next(self.batches, None)
        if indices is None:
            return None
        return {name: tensor.numpy() for name, tensor in self.draw(indices).items()}


def _quantise(full: Path, path: Path, ranges: Any, excluded: Collection[str]) -> None:
    """Write a file whose convolutions, the excluded ones apart, are computed in int8."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    quantizer = QDQQuantizer(
        onnx.load(full), per_channel=True, reduce_range=False,
        weight_qType=QuantType.QInt8, activation_qType=QuantType.QUInt8, tensors_range=ranges,
        nodes_to_quantize=[], nodes_to_exclude=sorted(excluded), op_types_to_quantize=["Conv"],
        extra_options={},
    )  # fmt: skip
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(path)
