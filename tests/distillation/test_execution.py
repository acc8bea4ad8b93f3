"""How a run is computed changes its speed and its memory, and its losses by rounding alone."""

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ganc.distillation.distill import DistillResult
from ganc.distillation.execution import Execution, PhaseTimes
from ganc.distillation.recipes import resolve_recipe
from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.perceptual.distance import PerceptualDistance
from tests.distillation.test_loop import metrics, tensors
from tests.distillation.test_trainer import make_trainer, real_images

Train = Callable[..., DistillResult]
CPU = torch.device("cpu")


def test_phases_count_for_themselves_alone() -> None:
    clock = iter([0.0, 1.0, 4.0, 10.0, 11.0, 12.0])
    times = PhaseTimes()
    with times.measure("outer", lambda: next(clock)), times.measure("inner", lambda: next(clock)):
        pass
    with times.measure("inner", lambda: next(clock)):
        pass
    assert times.seconds == {"outer": 7.0, "inner": 4.0}
    assert times.calls == {"outer": 1, "inner": 2}
    table = times.to_json(20.0)
    assert list(table) == ["other", "outer", "inner"]
    assert table["inner"] == {
        "calls": 2, "seconds": 4.0, "seconds_per_call": 2.0, "share": 0.2,
    }  # fmt: skip
    assert sum(row["share"] for row in table.values()) == pytest.approx(1)


def test_a_profile_tells_where_the_time_went(train: Train) -> None:
    began = time.perf_counter()
    result = train(steps=4, profile=True, save_every=2)
    assert result.profile is not None
    calls = {name: row["calls"] for name, row in result.profile.items()}
    assert (calls["data"], calls["d_main"], calls["g_main"], calls["teacher"]) == (4, 4, 4, 4)
    assert (calls["d_r1"], calls["g_pl"]) == (2, 2)
    assert (calls["ema"], calls["saving"], calls["sampling"]) == (4, 2, 2)
    claimed = sum(row["seconds"] for row in result.profile.values())
    assert claimed == pytest.approx(result.seconds, rel=0.01)
    assert claimed < time.perf_counter() - began
    assert train("plain", steps=1).profile is None


def test_precisions() -> None:
    assert not Execution(CPU).is_bf16
    assert Execution(CPU, "bf16").is_bf16
    assert Execution(torch.device("cuda")).is_bf16
    assert not Execution(torch.device("cuda"), "tf32").is_bf16
    with pytest.raises(UsageError, match="fp32, tf32, bf16"):
        Execution(CPU, "fp16")


@pytest.mark.parametrize(("precision", "wanted"), [("fp32", "ieee"), ("auto", "tf32")])
def test_cudas_switches_are_put_back(precision: str, wanted: str) -> None:
    cudnn: Any = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    with Execution(torch.device("cuda"), precision).arithmetic():
        assert cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == wanted
    after = cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    assert after == before


def test_bf16_is_close_to_fp32_and_keeps_weights_exact(train: Train, tmp_path: Path) -> None:
    overrides = {"perceptual": "effnet-lite0", "perceptual_resolution": 32, "l1_weight": 3.0}
    exact = train("fp32", steps=3, overrides=overrides).losses
    result = train("bf16", steps=3, overrides=overrides, precision="bf16")
    assert exact.keys() == result.losses.keys()
    for name, value in result.losses.items():
        # bfloat16 keeps 8 bits; gradients, sums over thousands of them, may be off by more.
        assert value == pytest.approx(exact[name], rel=0.25 if "norm" in name else 0.05), name
    first, lowered = (metrics(tmp_path / name)[0] for name in ("fp32", "bf16"))
    assert first["pixel_l1"] != lowered["pixel_l1"]


def test_weights_averages_and_moments_are_float32_in_bf16(student: Model, teacher: Model) -> None:
    recipe = resolve_recipe("stylekd", {"batch": 4, "perceptual": "none"})
    trainer = make_trainer(student, teacher, recipe, Execution(CPU, "bf16"))
    found = trainer.step(0, real_images())
    kept = [*trainer.student.tensors().values(), *trainer.ema.tensors().values(),
            *trainer.g.state().values(), *trainer.d.state().values(), *found.values()]  # fmt: skip
    assert {tensor.dtype for tensor in kept} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_softmax_and_cosines_run_in_float32(student: Model, teacher: Model, precision: str) -> None:
    """Similarities of 1 - 1e-3 are 1 in bfloat16: the loss would be 0 or noise."""
    recipe = resolve_recipe("stylekd", {"batch": 4, "perceptual": "none"})
    trainer = make_trainer(student, teacher, recipe, Execution(CPU, precision))
    seen: list[tuple[str, torch.dtype]] = []
    with _Recorder(seen), trainer.phase("g_main"):
        trainer.g_main(0, None)
    softmaxes = {dtype for name, dtype in seen if "softmax" in name}
    norms = {dtype for name, dtype in seen if "linalg_vector_norm" in name}
    assert softmaxes == {torch.float32}
    assert norms == {torch.float32}


def test_regularisers_run_in_float32(
    student: Model, teacher: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(student, teacher, execution=Execution(CPU, "bf16"))
    monkeypatch.setattr(trainer, "d_main", lambda *_: {})
    monkeypatch.setattr(trainer, "g_main", lambda *_: {})
    seen: list[tuple[str, torch.dtype]] = []
    with _Recorder(seen):
        assert {"r1", "path_length"} <= set(trainer.step(0, real_images()))
    assert {dtype for name, dtype in seen if "convolution" in name} == {torch.float32}


class _Recorder(TorchDispatchMode):
    def __init__(self, seen: list[tuple[str, torch.dtype]]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if args and isinstance(args[0], Tensor):
            self.seen.append((str(func), args[0].dtype))
        return func(*args, **kwargs or {})


class _NoReading(TorchDispatchMode):
    """Refuses what makes the host wait for a device: values, and shapes that depend on them."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal.default")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        assert not any(name in str(func) for name in self.WAITING), func
        return func(*args, **kwargs or {})


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*args: object) -> None:
        raise AssertionError("a step read a tensor on the host")

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(Tensor, name, refuse)
    with _NoReading():
        yield


@pytest.mark.parametrize("augment", ["none", "ada"])
def test_no_step_waits_for_the_device(
    student: Model, teacher: Model, request: pytest.FixtureRequest, augment: str
) -> None:
    recipe = resolve_recipe("stylekd", {"batch": 4, "perceptual": "none", "augment": augment})
    trainer, batch = make_trainer(student, teacher, recipe), real_images()
    trainer.step(0, batch)  # tables that are made once
    request.getfixturevalue("no_reading")
    found: dict[str, Tensor] = {}
    for step in range(16, 20):  # every phase is due, and a move of ada
        found |= trainer.step(step, batch)
    assert {"r1", "path_length", "latent_direction"} <= set(found)


def test_channels_last_gives_the_same_losses_and_resumes(train: Train, tmp_path: Path) -> None:
    plain = train("plain", steps=4).losses
    whole = train("whole", steps=4, channels_last=True).losses
    assert whole == pytest.approx(plain, rel=1e-3)
    train("parts", steps=2, channels_last=True)
    train("parts", steps=4, channels_last=True, resume="latest")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert tensors(tmp_path / "parts", 4) == tensors(tmp_path / "whole", 4)


class _Stages(torch.nn.Module):
    """Two stages of a feature network that compiles in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3, stride=2)

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.first(images).relu()
        return [first, self.second(first).relu()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo's own
def test_compiled_networks_give_the_same_losses(
    student: Model, teacher: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of graphs with their gradients, run as they are: the C++ of inductor would take a minute."""
    traced = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", traced)
    torch.manual_seed(0)
    distance = PerceptualDistance(
        "tiny", sha256="", stages=_Stages(), channel_weights=[torch.full((8,), 1 / 8)] * 2,
        resolution=None, smallest_side=8,
    )  # fmt: skip
    recipe = resolve_recipe("stylekd", {"batch": 4, "pl_weight": 0, "r1_gamma": 0})
    found = []
    for compiles in (False, True):
        execution = Execution(CPU, compiles=compiles)
        trainer = make_trainer(student, teacher, recipe, execution)
        trainer.perceptual = execution.compiled(distance)
        found.append([trainer.step(step, real_images()) for step in range(2)])
    plain, compiled = found
    for expected, losses in zip(plain, compiled, strict=True):
        for name, value in losses.items():
            assert value.item() == pytest.approx(expected[name].item(), rel=1e-4, abs=1e-4), name
