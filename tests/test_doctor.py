"""``ganc doctor``: what it reports, and that a wrong device is found."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

import ganc.diagnosis as module
from ganc.errors import ComputationError
from tests.conftest import Outcome


def test_report(ganc: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANC_CACHE", "/nowhere/cache")
    report = json.loads(ganc("doctor", "--device", "cpu", "--json").out)
    assert report["torch"] == torch.__version__
    assert report["device_error"] == 0
    assert report["packages"]["export"]["onnx"]
    assert report["cache"] == "/nowhere/cache"
    assert not any(report["weights"].values())
    assert "device_error" in ganc("doctor", "--device", "cpu").out


def test_missing_device_is_named(ganc: Callable[..., Outcome]) -> None:
    outcome = ganc("doctor", "--device", "cuda:99")
    assert outcome.code == 3
    assert "cuda:99" in outcome.err
    assert ganc("doctor", "--device", "tpu").code == 2


@pytest.mark.parametrize("wrong", [0.1, float("nan")])
def test_device_that_computes_something_else_is_found(
    monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    honest, calls = module.sample, []

    def sample(*arguments: object, **settings: object) -> torch.Tensor:
        calls.append(settings["device"])
        images = honest(*arguments, **settings)  # type: ignore[arg-type]
        return images if len(calls) == 1 else images + wrong

    monkeypatch.setattr(module, "sample", sample)
    with pytest.raises(ComputationError, match="other images than the CPU"):
        module.check_device(torch.device("cpu"))


def test_the_devices_images_are_computed_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 alone is off by more than what is allowed: a healthy GPU would be sent away."""
    cudnn: Any = torch.backends.cudnn
    honest, found = module.sample, []

    def sample(*arguments: object, **settings: object) -> torch.Tensor:
        found.append((torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision))
        return honest(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "sample", sample)
    assert module.check_device(torch.device("cpu")) == 0
    assert found[1] == ("ieee", "ieee")


@pytest.mark.parametrize(
    ("obstacle", "kernels"),
    [(None, "compiled operators"), ("there is no nvcc", "plain torch; there is no nvcc")],
)
def test_report_of_a_gpu(
    ganc: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    obstacle: str | None,
    kernels: str,
) -> None:
    """With a faked card: its name, what computes on it, and that it was compared with the CPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    monkeypatch.setattr(module.extension, "build_obstacle", lambda device_type: obstacle)
    monkeypatch.setattr(module.resampling, "build_obstacle", lambda: obstacle)
    compared: list[torch.device] = []
    monkeypatch.setattr(module, "check_device", lambda device: compared.append(device) or 1e-6)
    report = json.loads(ganc("doctor", "--json").out)
    assert (report["device"], report["cuda"]) == ("cuda", ["card 0"])
    assert (report["device_error"], report["kernels"]) == (1e-6, kernels)
    assert report["resampling"] == kernels.replace("compiled operators", "Triton kernels")
    assert compared == [torch.device("cuda")]
    assert "card 0" in ganc("doctor").out
