"""What of an OpenVINO file is computed in which precision."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ganc.ops.upfirdn2d import setup_filter, upsample2d
from ganc.runtimes import openvino as runtime
from ganc.runtimes.program import fixed


class Enlarge(torch.nn.Module):
    """StyleGAN's enlarging filter, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 8, 3)
        self.register_buffer("kernel", setup_filter([1, 3, 3, 1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.after(upsample2d(self.before(x), self.kernel))
        return made


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Precision that the processor has → kind of layer → the kernel that OpenVINO took for it."""
    openvino = pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    program = fixed(Enlarge().requires_grad_(False), {"x": torch.randn(1, 8, 32, 32)})
    found, target = {}, runtime.OpenVino()
    for dtype in {"fp16", "bf16"} & {name.lower() for name in runtime.capabilities()}:
        path = target.make(program, tmp_path_factory.mktemp(dtype), dtype)
        found[dtype] = kernels(openvino, path, target.properties(dtype))
    return found


def kernels(openvino: Any, path: Path, properties: dict[str, str]) -> dict[str, str]:
    settings = {"PERF_COUNT": True, **properties}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    request.infer({"x": torch.randn(1, 8, 32, 32).numpy()})
    return {layer.node_type: layer.exec_type for layer in request.profiling_info}


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_enlarging_filters_stay_in_float32(profiles: dict[str, dict[str, str]], dtype: str) -> None:
    """Their kernels in half precision are not made for filters, and many times as slow."""
    if dtype not in profiles:
        pytest.skip(f"this processor has no {dtype}")
    kernel = profiles[dtype]
    assert kernel["GroupConvolutionBackpropData"].endswith("f32")
    assert kernel["Convolution"].endswith(dtype.replace("fp", "f"))
