"""A generator in ONNX Runtime without a file that stays: for who wants to time it."""

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

from ganc.exporters.format import ExportSettings, Job
from ganc.exporters.graph import build_graph
from ganc.exporters.onnx import ONNX
from ganc.models.model import Model
from ganc.models.network import ImageGenerator


def prepare_onnx(generator: ImageGenerator) -> Callable[[range], Callable[[], Tensor]]:
    """Export a generator and load it in ONNX Runtime, on the CPU.

    Args:
        generator: Stays as it is.
    Returns:
        From indices of samples to what runs the file on their inputs.
    Raises:
        MissingDependencyError: A package of the extra ``export`` is missing.
        ComputationError: ONNX cannot express the generator.
    """
    settings = ExportSettings("onnx", None, "fp32", None)
    ONNX.check(settings)
    model = Model(generator=generator)
    graph = build_graph(model)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # as ``export`` does
        path = Path(folder) / "model.onnx"
        ONNX.write(Job(model, graph, settings), path)
        runtime = ONNX.open(path)
    return lambda indices: partial(runtime.run, graph.draw(indices))
