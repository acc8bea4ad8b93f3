"""The same model in every runtime: its images, and a time that says how it was run."""

from typing import Any

import pytest
import torch
from torch import nn

from ganc.errors import UsageError
from ganc.ops import layer_passes
from ganc.runtimes import measure as measuring
from ganc.runtimes.graph import graph_of
from ganc.runtimes.measure import RUNTIMES, prepare, time_generator, time_module
from ganc.runtimes.program import fixed
from tests.families import make_sngan


@pytest.fixture(autouse=True)
def _few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "ENOUGH_SEC", 0.0)


@pytest.fixture
def layer() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 5, 3).requires_grad_(False)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_a_generator_gives_its_images(runtime: str) -> None:
    graph = graph_of(make_sngan().generator)
    inputs = graph.draw(range(3))
    images = prepare(graph, runtime).run(inputs)
    torch.testing.assert_close(images, graph.reference(inputs), atol=1e-5, rtol=0)
    assert not images.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torch", "compile", "onnx"])
def test_a_layer_gives_its_features(
    runtime: str, layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime == "compile":  # without vector instructions, which it would compile tests for
        monkeypatch.setattr("torch._inductor.config.cpp.vec_isa_ok", False)
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    layer = nn.Sequential(layer, nn.LeakyReLU(0.2))  # what a compiler writes code for
    program = fixed(layer, {"input": x})
    found = prepare(program, runtime).run({"input": x})
    torch.testing.assert_close(found, layer(x), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_repeated_call_computes_in_its_own_memory(
    layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run, found = onnxruntime.InferenceSession.run_with_iobinding, []

    def watched(session: Any, binding: Any) -> None:
        run(session, binding)
        found.append(torch.from_numpy(binding.copy_outputs_to_cpu()[0]))

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", watched)
    x = torch.randn(1, 3, 64, 64)
    call = prepare(fixed(layer, {"input": x}), "onnx").repeated({"input": x})
    call()
    call()
    assert len(found) == 2
    for features in found:
        torch.testing.assert_close(features, layer(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("built", "said"), [(False, ""), (True, ", compiled passes")])
def test_a_time_says_whether_passes_are_compiled(
    built: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_passes, "are_there", lambda: built)
    assert RUNTIMES["torch"].conditions().runtime == f"PyTorch {torch.__version__}{said}"


def test_a_time_says_how_it_was_run(layer: nn.Module) -> None:
    timing = time_module(layer, {"input": torch.ones(1, 3, 8, 8)}, dtype="bf16")
    assert 0 < timing.median_ms <= timing.p90_ms
    assert timing.runs == 5
    assert timing.conditions.runtime == f"PyTorch {torch.__version__}"
    assert timing.conditions.precision == "bf16"
    assert timing.conditions.threads == torch.get_num_threads()
    assert timing.conditions.processor


def test_a_generator_stays_as_it_is() -> None:
    generator = make_sngan().generator.train()
    assert time_generator(generator, 2).median_ms > 0
    assert generator.training
    assert all(p.requires_grad for p in generator.parameters())


def test_bf16_is_computed_in_bf16(layer: nn.Module) -> None:
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    found = prepare(fixed(layer, {"input": x}), "torch", "bf16").run({"input": x})
    assert found.dtype == torch.float32
    assert 1e-4 < (found - layer(x)).abs().max() < 0.1  # 8 bits of mantissa


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onx"}, "unknown runtime `onx`; allowed: torch, compile, onnx"),
        ({"runtime": "torch", "dtype": "int8"}, "unknown --dtype `int8`; allowed: fp32, bf16"),
    ],
)
def test_unknown_names(layer: nn.Module, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        time_module(layer, {"input": torch.ones(1, 3, 8, 8)}, **options)


def test_every_runtime_begins_with_fp32() -> None:
    assert {runtime.precisions[0] for runtime in RUNTIMES.values()} == {"fp32"}
