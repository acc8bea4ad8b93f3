"""Latency in several runtimes, and what is said where pruning made nothing faster."""

from functools import partial
from typing import Any

import onnxruntime
import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from ganc.devices import device_name
from ganc.errors import InputError
from ganc.evaluation import latency
from ganc.evaluation.evaluate import evaluate
from ganc.models.model import Model
from ganc.models.network import ImageGenerator
from ganc.ops import layer_passes
from ganc.pruning.slicing import PrunePlan, apply_plan
from ganc.runtimes.measure import Timing, measure
from ganc.runtimes.runtime import Conditions
from tests.conftest import make_model
from tests.families import make_resnet


def halved(model: Model) -> Model:
    """Keep three channels of every group: odd, and far fewer than there are."""
    return apply_plan(model, PrunePlan({g.name: range(3) for g in model.generator.groups()}))


def wide_model() -> Model:
    """A teacher whose widths leave room for --round-to 8."""
    torch.manual_seed(0)
    model = make_model()
    config = model.generator.config
    widths = dict.fromkeys(config["widths"], 12)
    return Model(generator=type(model.generator)(**{**config, "widths": widths}).eval())


def set_clock(monkeypatch: pytest.MonkeyPatch, times: dict[int, float]) -> None:
    """Let the model take 10 ms, and others what their first width stands for."""

    def timing(milliseconds: float) -> Timing:
        return Timing(milliseconds, milliseconds, 1, Conditions("fake", "fp32", 1, "fake"))

    def time_generator(generator: ImageGenerator) -> Timing:
        return timing(times[next(iter(generator.config["widths"].values()))])

    monkeypatch.setattr(latency, "time_generator", time_generator)
    monkeypatch.setattr(latency, "measure", lambda *args: timing(10.0))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({12: 10.1, 8: 4.0}, "ganc prune --round-to 8 would help (--round-to 8 takes 4 ms"),
        ({12: 9.0, 8: 9.9}, "--round-to does not help here (--round-to 8 takes 9.9 ms"),
        ({12: 30.0, 8: 1.0}, None),
    ],
)
def test_pruning_that_made_nothing_faster_is_named(
    monkeypatch: pytest.MonkeyPatch, times: dict[int, float], expected: str | None
) -> None:
    set_clock(monkeypatch, times)
    teacher, said = wide_model(), []
    evaluate(halved(teacher), ["latency"], teacher=teacher, warn=said.append)
    if expected is None:
        assert said == []
    else:
        (line,) = said
        assert line.startswith(f"no speed-up on this device: 10 ms, the teacher {times[12]:.3g} ms")
        assert expected in line


def test_a_teacher_of_the_same_size_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, {})
    said: list[str] = []
    evaluate(make_model(), ["latency"], teacher=make_model(seed=5), warn=said.append)
    assert said == []


def test_speedup_is_the_teachers_time_over_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, {12: 30.0, 3: 10.0})
    teacher = wide_model()
    result = evaluate(halved(teacher), teacher=teacher, require=["speedup>=2.5"])
    assert result["metrics"] == {"speedup": 3.0}
    assert result["requirements"][0]["met"]


def test_widths_are_rounded_up_but_not_beyond_the_teacher() -> None:
    teacher = wide_model()
    most = teacher.generator.config["widths"]
    eight = latency.with_rounded_widths(halved(teacher).generator, 8, most)
    sixteen = latency.with_rounded_widths(halved(teacher).generator, 16, most)
    assert eight is not None
    assert sixteen is not None
    assert set(eight.config["widths"].values()) == {8}
    assert set(sixteen.config["widths"].values()) == {12}
    assert latency.with_rounded_widths(teacher.generator, 8, most) is None


def test_other_runtimes_have_values_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "measure", partial(measure, enough_sec=0.0))
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    monkeypatch.setattr(layer_passes, "are_there", lambda: False)
    names = ["latency", "latency-compile", "latency-onnx"]
    result = evaluate(make_resnet(), names)
    assert set(result["metrics"]) == {v for name in names for v in (name, *latency.extras(name))}
    assert min(result["metrics"].values()) > 0
    protocols = result["settings"]["protocols"]
    assert {name: protocols[name]["runtime"] for name in names} == {
        "latency": f"PyTorch {torch.__version__}",
        "latency-compile": f"torch.compile, PyTorch {torch.__version__}",
        "latency-onnx": f"ONNX Runtime {onnxruntime.__version__}, CPUExecutionProvider",
    }
    for name in names:
        assert protocols[name]["precision"] == "fp32"
        assert protocols[name]["threads"] == torch.get_num_threads()
        assert protocols[name]["processor"] == device_name(torch.device("cpu"))


def test_a_machine_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: Any, **options: Any) -> Any:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise TorchDynamoException("no C++ compiler\nand a long story")

        monkeypatch.setattr(module, "forward", fail)
        return module

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(InputError, match=r"does not work on this machine: no C\+\+ compiler$"):
        evaluate(make_resnet(), ["latency-compile"])
