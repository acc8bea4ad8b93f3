"""OpenVINO models in 8 bits, made by NNCF from float32; inputs and output stay float32."""

from collections.abc import Callable, Collection
from math import prod
from typing import Any

from torch import Tensor

from ganc.runtimes.graph import Graph
from ganc.runtimes.openvino_core import HINT, compile_model, openvino, runner
from ganc.runtimes.program import Program
from ganc.runtimes.quiet import quiet
from ganc.runtimes.runtime import Quantised
from ganc.runtimes.sensitivity import CALIBRATION, JUDGED, layers_in_float

_NO_DEPTHWISE_KERNEL = "GroupConvolutionBackpropData"
_STAYS_FLOAT32 = "precise_0"
"""Marks a layer of a file that OpenVINO computes in float32, whatever it computes others in."""

_QUANTISED = ("Convolution", "ConvolutionBackpropData")
"""What is computed in 8 bits; filters and the mapping's small products cost too little."""


def keep_enlarging_filters(model: Any) -> None:
    """Have filters that enlarge computed in float32, in place.

    They are depthwise transposed convolutions, for which OpenVINO has kernels in float32 alone: the
    general one that it takes in half precision is 30 times as slow, and made a StyleGAN3 take seven
    times as long as in float32.
    """
    for node in model.get_ops():
        if node.get_type_name() == _NO_DEPTHWISE_KERNEL:
            node.get_rt_info()[_STAYS_FLOAT32] = ""


def to_int8(program: Program, model: Any) -> tuple[Any, Quantised]:
    """Return the model in int8, its least fit layers in float, and how many those are.

    The ranges are the least and the largest activation over ``CALIBRATION``. A part of a network,
    which has no images to be judged by, is quantised whole.
    """
    layers = _layers(program, model)
    kept: list[str] = []
    if isinstance(program, Graph):
        kept = layers_in_float(layers, *_trials(program, model))
    return _quantise(program, model, kept), Quantised(len(layers) - len(kept), len(kept))


def _layers(program: Program, model: Any) -> dict[str, int]:
    """Return layer → multiply-accumulates per image."""
    sized = model.clone()
    sized.reshape({name: list(x.shape) for name, x in program.draw(range(1)).items()})
    macs = {}
    for node in sized.get_ops():
        if (kind := node.get_type_name()) in _QUANTISED:
            # A transposed convolution applies each weight once per position of its input.
            positions = node.output(0) if kind == "Convolution" else node.input_value(0)
            sides = list(positions.get_shape())[2:]
            macs[node.get_friendly_name()] = prod(sides) * prod(node.input_value(1).get_shape())
    return macs


def _trials(graph: Graph, model: Any) -> tuple[Callable[[Collection[str]], Tensor], Tensor]:
    """Return from layers in float to images, and the images of the float model."""
    quantised = _quantise(graph, model, ())
    inputs = graph.draw(JUDGED)

    def run(candidate: Any) -> Tensor:
        return runner(compile_model(candidate, {HINT: "f32"}))(inputs)

    return lambda kept: run(_with_float(quantised, model, kept)), run(model)


def _with_float(quantised: Any, full: Any, kept: Collection[str]) -> Any:
    """Return a copy of a quantised model with the float inputs of some layers."""
    weights = {
        node.get_friendly_name(): node.input_value(1).get_node()
        for node in full.get_ops()
        if node.get_type_name() in _QUANTISED
    }
    copy = quantised.clone()
    for node in copy.get_ops():
        if (name := node.get_friendly_name()) in kept and node.get_type_name() in _QUANTISED:
            rounding = node.input_value(0).get_node()
            if rounding.get_type_name() == "FakeQuantize":
                node.input(0).replace_source_output(rounding.input_value(0))
            weight = openvino().op.Constant(weights[name].data)
            node.input(1).replace_source_output(weight.output(0))
    return copy


def _quantise(program: Program, model: Any, kept: Collection[str]) -> Any:
    """Let NNCF quantise the layers that are not kept in float.

    Its defaults would clip: ranges averaged over batches. On a trained SN-GAN they move unseen
    images by 0.11 of their deviation, and corrected biases judged layers' images by 0.05, not 0.03.
    """
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    batches = [
        {name: tensor.numpy() for name, tensor in program.draw(indices).items()}
        for indices in CALIBRATION
    ]
    others = {node.get_type_name() for node in model.get_ops()} - {*_QUANTISED, "Constant"}
    with quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(batches),
            preset=nncf.QuantizationPreset.MIXED,  # activations of leaky ReLUs have no symmetry
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(types=sorted(others), names=sorted(kept)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=True,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )
