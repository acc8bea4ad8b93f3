"""ONNX files in lower precision, made from the float32 file; inputs and output stay float32."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ganc.runtimes.program import Program

CALIBRATION = [range(start, start + 4) for start in range(2_000_000, 2_000_032, 4)]
"""Samples whose activations set the ranges of int8, by batch; never those that are compared."""

_IMAGE_CHANNELS = 4  # what makes an image has at most so many outputs


def to_half(program: Program, full: Path, path: Path) -> None:
    """Write float16: weights, activations and arithmetic, as far as the runtime has it."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(onnx.load(full), keep_io_types=True, disable_shape_infer=True)
    onnx.save(half, path)


def to_int8(program: Program, full: Path, path: Path) -> None:
    """Write int8 for the convolutions that pay, static ranges, one scale per output channel.

    The ranges are the least and the largest activation over ``CALIBRATION``. Float stay: layers
    that make an image (one of 8-bit inputs shows in every pixel), filters, and transposed
    convolutions, which ONNX Runtime has no int8 kernel for and would convert back in every call.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(full)
    with _silent():
        quantize_static(
            model, path, _Reader(program), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=["Conv"], nodes_to_exclude=_kept(model),
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip


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


def _kept(model: Any) -> list[str]:
    """Return the names of the convolutions that stay in float."""
    shapes = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            if groups > 1 or shapes[node.input[1]][0] <= _IMAGE_CHANNELS:
                kept.append(node.name)
    return kept


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what advises on other ways to quantise off stderr."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
