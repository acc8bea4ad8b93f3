"""Files in lower precision: smaller numbers inside, float32 outside, an error that is the truth."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ganc.exporters.export import export
from tests.families import make_resnet

TYPES = {"fp16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "channels"), [*((dtype, 3) for dtype in TYPES), ("fp16", 1)])
@torch.no_grad()
def test_lower_precision_is_measured_beside_fp32(
    tmp_path: Path, dtype: str, channels: int, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make_resnet(img_channels=channels)
    path = tmp_path / "m.onnx"
    result = export(model, path, dtype=dtype)
    assert capfd.readouterr() == ("", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]

    graph = onnx.load(path).graph
    kernels = [x for x in graph.initializer if x.data_type == TYPES[dtype] and len(x.dims) == 4]
    assert kernels
    if dtype == "int8":
        assert result.quantised is not None
        assert result.quantised.int8 == len(kernels)
    else:
        floats = [x.name for x in graph.initializer if x.data_type == onnx.TensorProto.FLOAT]
        assert floats == []

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert {x.type for x in [*session.get_inputs(), *session.get_outputs()]} == {"tensor(float)"}
    assert "provenance" in session.get_modelmeta().custom_metadata_map
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (images,) = session.run(["image"], {"x": x.numpy()})
    error = np.abs(images - model.generator(x).numpy()).max()
    # Other inputs than those compared, so not the same number; but one of its size.
    assert result.max_abs_error / 10 < error < result.max_abs_error * 10
    assert 1e-5 < result.max_abs_error < (0.05 if dtype == "fp16" else 0.5)  # images span [-1, 1]

    assert result.fp32_bytes not in (None, result.bytes)
    computed = "int8, else fp32" if dtype == "int8" else dtype
    precisions = {name: timing.conditions.precision for name, timing in result.latency.items()}
    assert precisions == {"file": computed, "fp32": "fp32", "pytorch": "fp32"}
    assert min(timing.median_ms for timing in result.latency.values()) > 0
    assert result.perceptual is not None
    assert result.perceptual["network"] == "effnet-lite0"
    assert 0 < result.perceptual["distance"] < 0.5  # two unlike images are at 1
    assert result.latency["file"].conditions.runtime.endswith(", CPUExecutionProvider")
