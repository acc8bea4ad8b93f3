"""Recorded phases: the same numbers as those that run as they are.

What launches a graph stands in here: it runs the recorded function again, on what was kept. That
the kernels themselves do so is tested on a GPU (``tests/test_on_gpu.py``).
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ganc.distillation import kinds, recording
from ganc.distillation.draws import Draws
from ganc.distillation.execution import Execution
from ganc.distillation.recipes import resolve_recipe
from ganc.distillation.recording import Recorder, TapedDraws
from ganc.errors import UsageError
from ganc.pruning.plan import prune
from ganc.scoring.score import score
from tests.conftest import make_model
from tests.distillation.parts import make_parts
from tests.distillation.test_one_device import RUNS, batch_for

CPU = torch.device("cpu")
RECORDED = {name: run for name, run in RUNS.items() if run[1] != "i2i"} | {
    "published": (make_model, "dcp-published", {"l1_weight": 2.0}),
    "paced": (make_model, "stylekd", {"lr_warmup": 2, "lr_decay": 0.5, "d_lr": 0.001}),
    "both halves": (make_model, "stylekd", {"compared": "both", "augment": "ada"}),
}


@pytest.fixture
def rerun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a recording be the function itself, and the CPU pass for a device with graphs."""
    monkeypatch.setattr(recording, "record", lambda run, recorder: run)


def make_trainer(run: str, *, cuda_graphs: bool) -> tuple[Any, Any]:
    build, name, numbers = (RUNS | RECORDED)[run]
    teacher = build()
    student = prune(teacher, score(teacher, "l1-out", device="cpu"), prune_ratio=0.3)
    chance = {"augment_p": 0.5, "ada_interval": 2} if "augment" in numbers else {}
    numbers = {"batch": 4, "perceptual": "none"} | numbers | chance
    if name != "sngan":
        numbers |= {"r1_interval": 2, "pl_interval": 2} if name != "i2i" else {}
    execution = Execution(CPU)
    object.__setattr__(execution, "cuda_graphs", cuda_graphs)
    recipe = resolve_recipe(name, numbers)
    trainer = kinds.ROWS[recipe.kind].trainer(make_parts(student, teacher, recipe, execution))
    return trainer, batch_for(teacher, trainer)


@pytest.mark.parametrize("run", RECORDED)
def test_recorded_steps_have_the_losses_of_others(rerun: None, run: str) -> None:
    series: list[list[dict[str, Tensor]]] = []
    for cuda_graphs in (False, True):
        trainer, batch = make_trainer(run, cuda_graphs=cuda_graphs)
        trainer.prepare(batch)
        series.append([])
        for step in range(5):  # each phase runs, is recorded and is replayed
            trainer.pace(step, 5)
            series[-1].append(trainer.step(step, batch))
    assert trainer.recorder is not None
    assert all(phase.replay is not None for phase in trainer.recorder.phases.values())
    for plain, recorded in zip(*series, strict=True):
        assert plain.keys() == recorded.keys()
        for name, value in plain.items():
            assert torch.equal(recorded[name], value.float()), name


def test_losses_stay_when_the_next_step_is_run(rerun: None) -> None:
    trainer, batch = make_trainer("stylegan2", cuda_graphs=True)
    kept = [trainer.step(step, batch)["d_loss"] for step in range(4)]
    assert len({value.item() for value in kept}) == 4


def test_a_batch_of_another_size_runs_as_it_is(rerun: None) -> None:
    found: list[int] = []

    def phase(index: int, x: Tensor) -> dict[str, Tensor]:
        found.append(len(x))
        return {"sum": x.sum() + index}

    recorder = Recorder(TapedDraws.of(Draws(0, 4, CPU)))
    run: Callable[..., Any] = lambda i, x: recorder.run("phase", phase, i, (x,))["sum"].item()  # noqa: E731
    assert [run(i, torch.ones(4)) for i in range(2)] == [4, 5]
    assert run(5, torch.ones(3)) == 8
    assert found == [4, 4, 3]


def test_draws_in_another_order_are_refused(rerun: None) -> None:
    draws = TapedDraws.of(Draws(0, 4, CPU))
    streams = iter(["one", "other"])

    def phase(index: int) -> dict[str, Tensor]:
        return {"sum": draws.normal(next(streams), index, 2).sum()}

    recorder = Recorder(draws)
    recorder.run("phase", phase, 0, ())
    with pytest.raises(AssertionError, match="other is drawn where one was drawn before"):
        recorder.run("phase", phase, 1, ())


def test_taped_draws_are_those_of_their_index() -> None:
    plain, draws = Draws(3, 4, CPU), TapedDraws.of(Draws(3, 4, CPU))
    tape = recording.Tape()
    draws.put(tape)
    kept = draws.uniform("a", 0, 5), draws.normal("b", 0, 2)
    draws.put(None)
    tape.draw(draws, 7)
    assert torch.equal(kept[0], plain.uniform("a", 7, 5))
    assert torch.equal(kept[1], plain.normal("b", 7, 2))


def test_what_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a CUDA device, not cpu"):
        Execution(CPU, cuda_graphs=True)
    with pytest.raises(UsageError, match="translators are not recorded"):
        make_trainer("pix2pix", cuda_graphs=True)
