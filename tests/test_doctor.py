"""``ganc doctor``: what it reports, and that a wrong device is found."""

import json
from collections.abc import Callable

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
