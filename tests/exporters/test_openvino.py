"""OpenVINO files give PyTorch's images in every precision, or say why there is none."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganc.errors import (
    ComputationError,
    InputError,
    MissingDependencyError,
    OutputError,
    UsageError,
)
from ganc.exporters.export import export
from ganc.models.model import Model
from ganc.runtimes import openvino as runtime
from ganc.runtimes.measure import prepare, time_module
from ganc.runtimes.openvino_core import silence_telemetry
from ganc.runtimes.program import fixed
from tests.conftest import Outcome, make_model
from tests.exporters.test_export import small_model
from tests.exporters.test_families import MODELS as OTHERS
from tests.exporters.test_families import fresh_inputs
from tests.families import make_resnet

# Every family once, whole or pruned: what all of them leave PyTorch as is tested with ONNX.
NAMES = ("stylegan3-r", "stylegan3-labels-pruned", "sngan-pruned", "resnet", "unet-pruned",
         "unet-own-statistics")  # fmt: skip
MODELS: dict[str, Callable[[], Model]] = {
    "stylegan2-labels": lambda: small_model(c_dim=3), **{name: OTHERS[name] for name in NAMES}
}  # fmt: skip


@pytest.fixture
def openvino() -> Any:
    """OpenVINO, which not every installation has; its telemetry would fork for every export."""
    silence_telemetry()
    return pytest.importorskip("openvino", reason="the extra `openvino` is not installed")


def opened(openvino: Any, path: Path, properties: dict[str, str]) -> Callable[..., Tensor]:
    """Load a file as its documentation says."""
    compiled = openvino.Core().compile_model(path, "CPU", properties)

    def run(**inputs: Tensor) -> Tensor:
        return torch.from_numpy(compiled({k: x.numpy() for k, x in inputs.items()})["image"].copy())

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_images_are_pytorchs(openvino: Any, tmp_path: Path, name: str) -> None:
    model = MODELS[name]()
    result = export(model, tmp_path / "m.xml", format="openvino")
    assert result.max_abs_error < 1e-4
    assert result.load_with == {"INFERENCE_PRECISION_HINT": "f32"}
    assert result.latency["file"].conditions.precision == "fp32"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    assert result.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    run = opened(openvino, tmp_path / "m.xml", result.load_with)
    psi = {"truncation_psi": 0.6} if name.startswith("stylegan") else {}
    for batch in (1, 7):
        inputs = fresh_inputs(model, batch)
        images = run(**inputs, **{k: torch.tensor(v) for k, v in psi.items()})
        expected = model.generator(**inputs, **psi)
        torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_ws_and_metadata(openvino: Any, tmp_path: Path) -> None:
    model = small_model()
    result = export(model, tmp_path / "m.xml", format="openvino", inputs="ws")
    generator = model.generator
    random = torch.Generator().manual_seed(1)
    ws = torch.randn(4, generator.num_ws, generator.w_dim, generator=random)
    images = opened(openvino, tmp_path / "m.xml", result.load_with)(ws=ws)
    torch.testing.assert_close(images, generator.synthesis(ws), atol=1e-4, rtol=0)
    read = openvino.Core().read_model(tmp_path / "m.xml")
    assert str(read.input("ws").get_partial_shape()) == f"[?,{generator.num_ws},{generator.w_dim}]"
    about = {key: read.get_rt_info(["ganc", key]).astype(str) for key in ("config", "provenance")}
    assert json.loads(about["config"])["widths"] == generator.config["widths"]
    assert json.loads(about["provenance"])[-1]["format"] == "openvino"
    assert str(Path(runtime.__file__).parents[1]) not in (tmp_path / "m.xml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "least", "most"), [
    ("fp16", 1e-5, 0.02), ("bf16", 1e-4, 0.2), ("int8", 1e-3, 0.5),
])  # fmt: skip
def test_lower_precision_is_measured_beside_fp32(
    openvino: Any, tmp_path: Path, dtype: str, least: float, most: float,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if dtype in ("bf16", "int8") and dtype.upper() not in runtime.capabilities():
        pytest.skip(f"this processor has no {dtype}")
    if dtype == "int8" and find_spec("nncf") is None:
        pytest.skip("nncf is not installed")
    model = make_resnet()
    result = export(model, tmp_path / "m.xml", format="openvino", dtype=dtype)
    assert capfd.readouterr() == ("", "")
    assert least < result.max_abs_error < most  # images span [-1, 1]
    assert set(result.latency) == {"file", "fp32", "pytorch"}
    assert result.latency["fp32"].conditions.precision == "fp32"
    assert result.latency["file"].conditions.precision.startswith(
        ("fp32, fp16 weights", "fp16") if dtype == "fp16" else dtype
    )
    assert result.perceptual is not None
    assert result.fp32_bytes not in (None, result.bytes)
    assert (result.quantised is not None) == (dtype == "int8")
    if result.quantised is not None:
        assert result.quantised.int8 > 0
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = model.generator(x)
    error = (opened(openvino, tmp_path / "m.xml", result.load_with)(x=x) - expected).abs().max()
    assert result.max_abs_error / 10 < error < result.max_abs_error * 10


@pytest.mark.slow
def test_both_files_are_replaced_or_none(openvino: Any, tmp_path: Path) -> None:
    path, weights = tmp_path / "m.xml", tmp_path / "m.bin"
    weights.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"m\.bin exists already"):
        export(make_resnet(), path, format="openvino")
    assert list(tmp_path.iterdir()) == [weights]
    export(make_resnet(), path, format="openvino", force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    assert weights.read_bytes() != b"mine"


@pytest.mark.slow
def test_an_operator_that_it_lacks_is_named(openvino: Any) -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(ComputationError, match=r"openvino refuses the model: .*bessel_j0"):
        prepare(fixed(Unknown(), {"x": torch.randn(3, 4)}), "openvino")


@pytest.mark.slow
def test_a_single_layer_is_computed_in_8_bits(openvino: Any) -> None:
    pytest.importorskip("nncf")
    layer = nn.Conv2d(8, 8, 3).requires_grad_(False)
    timing = time_module(layer, {"input": torch.randn(1, 8, 9, 9)}, runtime="openvino",
                         dtype="int8")  # fmt: skip
    assert timing.conditions.precision.startswith("int8, else ")


def test_the_command_names_what_a_name_has_to_be(
    ganc: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there(monkeypatch, "FP32")
    started = ("export", tmp_path / "missing", "--format", "openvino", "-o")
    outcome = ganc(*started, "-")
    assert outcome.code == 2
    assert "-o - is one file, an export to .xml is 2" in outcome.err
    outcome = ganc(*started, tmp_path / "m.onnx")
    assert outcome.code == 2
    assert f"pass -o {tmp_path / 'm.xml'}" in outcome.err


def there(monkeypatch: pytest.MonkeyPatch, *capabilities: str, version: str = "2026.1.0") -> None:
    """Let OpenVINO be there, on a processor of our choice."""
    fake = SimpleNamespace(__version__=version)
    monkeypatch.setattr("ganc.extras.import_module", lambda name: fake)
    monkeypatch.setattr(runtime, "capabilities", lambda: capabilities)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_precision_that_the_processor_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: str
) -> None:
    there(monkeypatch, "FP32", "FP16")
    with pytest.raises(InputError, match=r"OpenVINO computes FP32, FP16 only") as caught:
        export(make_model(), tmp_path / "m.xml", format="openvino", dtype=dtype)
    assert caught.value.exit_code == 3
    assert "--dtype fp32" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_half_precision_is_computed_in_float_where_the_processor_lacks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there(monkeypatch, "FP32")
    assert runtime.OpenVino().computes_in("fp16") == "fp32, fp16 weights"
    assert runtime.OpenVino().properties("fp16") == {"INFERENCE_PRECISION_HINT": "f32"}
    there(monkeypatch, "FP32", "FP16")
    assert runtime.OpenVino().computes_in("fp16") == "fp16"
    assert runtime.OpenVino().properties("fp16") == {"INFERENCE_PRECISION_HINT": "f16"}


def test_an_old_version_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there(monkeypatch, "FP32", version="2023.0.1")
    with pytest.raises(
        MissingDependencyError, match=r"openvino 2023\.0\.1 is older than"
    ) as caught:
        export(make_model(), tmp_path / "m.xml", format="openvino")
    assert caught.value.hint == "pip install 'ganc[openvino]'"


@pytest.mark.parametrize(("dtype", "package"), [("fp32", "openvino"), ("int8", "nncf")])
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: str, package: str
) -> None:
    there(monkeypatch, "FP32", "INT8")

    def absent(name: str) -> SimpleNamespace:
        if name == package:
            raise ModuleNotFoundError(f"No module named '{name}'")
        return SimpleNamespace(__version__="2026.1.0")

    monkeypatch.setattr("ganc.extras.import_module", absent)
    with pytest.raises(MissingDependencyError, match=f"^{package} is needed") as caught:
        export(make_model(), tmp_path / "m.xml", format="openvino", dtype=dtype)
    assert caught.value.hint == "pip install 'ganc[openvino]'"
    assert list(tmp_path.iterdir()) == []


def test_a_precision_of_another_format_is_shown_the_way(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--format onnx has no --dtype bf16, only") as caught:
        export(make_model(), tmp_path / "m.onnx", dtype="bf16")
    assert caught.value.hint == "pass --format openvino"


def test_telemetry_is_silenced() -> None:
    import sys

    before = sys.modules.pop("openvino_telemetry", None)
    try:
        from ganc.runtimes.openvino_core import silence_telemetry

        silence_telemetry()
        assert sys.modules["openvino_telemetry"] is None
    finally:
        sys.modules["openvino_telemetry"] = before  # type: ignore[assignment]


def test_arrays_are_not_shared_between_runs(openvino: Any) -> None:
    """A result is the caller's own: the next run does not write over it."""
    layer = nn.Conv2d(1, 1, 1).requires_grad_(False)
    executable = prepare(fixed(layer, {"input": torch.ones(1, 1, 2, 2)}), "openvino")
    first = executable.run({"input": torch.ones(1, 1, 2, 2)})
    kept = first.clone()
    executable.run({"input": torch.zeros(1, 1, 2, 2)})
    assert torch.equal(first, kept)
