"""The search: its log, how it stops and goes on, in one process and in several."""

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ganc.checkpoints.store import save
from ganc.errors import ComputationError, InputError, Interrupted
from ganc.pruning.plan import make_plan
from ganc.scores import Scores
from ganc.scoring.density import search as search_module
from ganc.scoring.density.game import Game
from ganc.scoring.density.recipe import resolve_density
from ganc.scoring.density.steplog import StepLog
from tests import forked
from tests.conftest import Outcome
from tests.families import make_cyclegan, make_unet
from tests.scoring.density.cases import (
    FLAGS,
    assert_equal,
    learn,
    make_resnet_pair,
    make_search,
    quick,
)

Ganc = Callable[..., Outcome]


# The log.


def test_a_line_per_step(unpaired: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    quick(make_cyclegan(), unpaired, steps=12, log=log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, 13)] * 2
    assert [line["network"] for line in lines] == ["generator"] * 12 + ["generator_b"] * 12
    names = {"d_loss", "d_real", "d_fake", "g_loss", "anchor", "generator_macs",
             "generator_grad_norm", "discriminator_macs", "discriminator_grad_norm"}  # fmt: skip
    assert set(lines[0]) == {"network", "step"} | names
    assert all(math.isfinite(line[name]) for line in lines[:12] for name in names)
    # Gates are open at first: nothing is saved yet, and the budget is twice as far off for G.
    assert lines[0]["generator_macs"] == pytest.approx(1.8, rel=0.35)


def test_a_log_is_cut_back_and_goes_on(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "log.jsonl")
    for network in ("generator", "generator_b"):
        for step in range(1, 4):
            log.add(network, step, {"loss": 0.5})
    log.cut_back("generator_b", 1)
    log.add("generator_b", 2, {"loss": 0.25})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["network"][9:], line["step"]) for line in lines] == [
        ("", 1), ("", 2), ("", 3), ("_b", 1), ("_b", 2)
    ]  # fmt: skip


def test_a_file_that_is_no_log_is_replaced(ganc: Ganc, tmp_path: Path, pairs: Path) -> None:
    save(make_unet(), tmp_path / "m.safetensors")
    (tmp_path / "log").write_text("notes of mine\n[1]\n{}\n")
    words = ("score", tmp_path / "m.safetensors", "--method", "density", "--data", pairs, *FLAGS,
             "-o", tmp_path / "s", "--neighbourhoods", tmp_path / "n",
             "--log", tmp_path / "log")  # fmt: skip
    refused = ganc(*words)
    assert (refused.code, refused.err.splitlines()[0]) == (
        3, f"error: {tmp_path / 'log'} exists already"
    )  # fmt: skip
    done = ganc(*words, "--force")
    assert done.code == 0, done.err
    assert len((tmp_path / "log").read_text().splitlines()) == 4


# Numbers that are not finite.


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_is_not_finite_stops_the_search(bad: float, tmp_path: Path) -> None:
    search = make_search(make_resnet_pair(), resolve_density({"steps": 30}), state=tmp_path / "s")
    search_module_step = search._step

    def poisoned(step: int) -> Any:
        if step == 13:
            search.game.judge.gated.network.conv0.conv.weight.data[0, 0, 0, 0] = bad
        return search_module_step(step)

    search._step = poisoned  # type: ignore[method-assign]
    with pytest.raises(ComputationError, match=r"step 14 of 30: .*d_loss (inf|nan).* not finite"):
        learn(search)
    assert not (tmp_path / "s").exists()  # no state with such numbers


def test_a_command_that_diverges_exits_4(
    ganc: Ganc, tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_unet()
    model.discriminator.out.conv.weight.data.fill_(1e38)
    save(model, tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    done = ganc("score", "m.safetensors", "--method", "density", "--data", pairs, *FLAGS,
                "-o", "s", "--quiet")  # fmt: skip
    assert done.code == 4, done.err
    line, hint = done.err.splitlines()
    assert line.startswith("error: step 1 of 4: ")
    assert line.endswith(" is not finite")  # and names no state: there is none
    assert hint.startswith("hint: lower --set lr")
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "s.state").exists()


# Stopping, and going on.


@pytest.mark.parametrize("done", [3, 4, 6, 11])  # by a signal; the states in between are at 3, 6 …
def test_a_resumed_search_is_bit_identical(
    done: int, unpaired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "SAVE_EVERY", 3)
    model, count = make_cyclegan(), 0
    whole = quick(model, unpaired, steps=7, log=tmp_path / "whole.jsonl")

    def stop(phase: str, step: int, of: int) -> None:
        nonlocal count
        if phase.startswith("learning gates") and step:
            count += 1
            if count == done:
                signal.raise_signal(signal.SIGTERM)

    own = {"steps": 7, "state": tmp_path / "state", "log": tmp_path / "own.jsonl"}
    with pytest.raises(Interrupted) as caught:
        quick(model, unpaired, progress=stop, **own)
    assert caught.value.exit_code == 143
    assert "the state was saved in" in str(caught.value)
    again = quick(model, unpaired, resume=True, **own)
    assert_equal(again, whole)
    assert (tmp_path / "own.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_a_killed_search_goes_on_from_the_last_state(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "SAVE_EVERY", 3)
    model, own = make_unet(), {"steps": 7, "state": tmp_path / "state"}
    whole = quick(model, pairs, steps=7, log=tmp_path / "whole.jsonl")

    class Killed(Exception):
        pass

    def kill(phase: str, step: int, of: int) -> None:
        if phase == "learning gates" and step == 5:
            raise Killed

    with pytest.raises(Killed):
        quick(model, pairs, progress=kill, log=tmp_path / "own.jsonl", **own)
    again = quick(model, pairs, resume=True, log=tmp_path / "own.jsonl", **own)
    assert_equal(again, whole)
    assert (tmp_path / "own.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def stopped(pairs: Path, tmp_path: Path) -> Path:
    """Return the state of a search of a U-Net that was stopped at step 2."""

    def stop(phase: str, step: int, of: int) -> None:
        if phase == "learning gates" and step == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        quick(make_unet(), pairs, progress=stop, state=tmp_path / "state")
    assert caught.value.exit_code == 130
    return tmp_path / "state"


@pytest.mark.parametrize(
    ("seed", "changes", "finding"),
    [
        (0, {"seed": 1}, "another seed"),
        (0, {"steps": 9, "lr": 0.1}, "another recipe"),
        (1, {}, "another discriminator, neighbourhoods, teacher"),
    ],
)
def test_states_of_another_search_are_refused(
    seed: int, changes: dict[str, Any], finding: str, pairs: Path, tmp_path: Path
) -> None:
    state = stopped(pairs, tmp_path)
    with pytest.raises(InputError, match=finding) as caught:
        quick(make_unet(seed), pairs, state=state, resume=True, **changes)
    assert "--force" in str(caught.value.hint)


def test_states_that_are_none_are_refused(pairs: Path, tmp_path: Path) -> None:
    state, model = tmp_path / "state", make_unet()
    with pytest.raises(InputError, match="there is no"):
        quick(model, pairs, state=state, resume=True)
    for content in (b"", b"text\n"):
        state.write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            quick(model, pairs, state=state, resume=True)
    quick(model, pairs).save(state, force=True)
    with pytest.raises(InputError, match="is not the state of a search"):
        quick(model, pairs, state=state, resume=True)
    content = stopped(pairs, tmp_path).read_bytes()
    state.write_bytes(content[:-9])
    with pytest.raises(InputError, match="is damaged"):
        quick(model, pairs, state=state, resume=True)


def signalled(folder: Path, said: Path, words: list[str]) -> None:
    """Be ``ganc WORDS``, which gets a signal at step 2, in the middle of what a step does."""
    draw = Game.draw

    def drawn(self: Game, step: int) -> Any:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, step)

    Game.draw = drawn  # type: ignore[method-assign]
    forked.be_ganc(folder, said, words)


@pytest.mark.slow
def test_sigterm_saves_and_resume_ends_with_the_same_file(
    ganc: Ganc, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("score", "m.safetensors", "--method", "density", "--data", str(pairs), *FLAGS,
             "-o", "s", "--device", "cpu", "--quiet")  # fmt: skip
    folders = {name: tmp_path / name for name in ("whole", "own")}
    for folder in folders.values():
        folder.mkdir()
        save(make_unet(), folder / "m.safetensors")
    monkeypatch.chdir(folders["whole"])
    done = ganc(*words)
    assert done.code == 0, done.err
    monkeypatch.chdir(folders["own"])
    process = forked.start(signalled, folders["own"], tmp_path, words)
    assert forked.exit_code(process) == 143
    assert (tmp_path / "out").read_text() == ""
    assert (tmp_path / "err").read_text().splitlines() == [
        "error: interrupted: generator at step 3 of 4; the state was saved in s.state",
        "hint: run the same command with --resume",
    ]
    assert not Path("s").exists()
    refused = ganc(*words)
    assert (refused.code, refused.err.splitlines()) == (3, [
        "error: s.state holds an unfinished search",
        "hint: pass --resume to continue it, or --force to start again",
    ])  # fmt: skip
    done = ganc(*words, "--resume")
    assert done.code == 0, done.err
    assert Path("s").read_bytes() == (folders["whole"] / "s").read_bytes()
    names = ["m.neighbourhoods.safetensors", "m.safetensors", "s"]
    for folder in folders.values():
        assert sorted(path.name for path in folder.iterdir()) == names
    again = ganc(*words, "--force")
    assert again.code == 0, again.err
    assert Path("s").read_bytes() == (folders["whole"] / "s").read_bytes()


# Several processes.


@pytest.mark.slow
def test_two_processes_find_what_one_finds(unpaired: Path, tmp_path: Path) -> None:
    save(make_cyclegan(), tmp_path / "m.safetensors")
    words = ("score", "m.safetensors", "--method", "density", "--data", unpaired, *FLAGS,
             "--device", "cpu", "--quiet", "--json")  # fmt: skip
    for world, name in ((1, "one"), (2, "two")):
        options = ("-o", name, "--neighbourhoods", f"{name}.n", "--log", f"{name}.jsonl")
        for outcome in forked.ganc_group(world, tmp_path, *words, *options).wait():
            assert outcome.code == 0, outcome.err
    one, two = (Scores.load(tmp_path / name) for name in ("one", "two"))
    for group, values in one.values.items():
        torch.testing.assert_close(two[group], values, rtol=0, atol=1e-6)
    assert make_plan(make_cyclegan(), one).keep == make_plan(make_cyclegan(), two).keep
    for lines in zip(*(_lines(tmp_path / f"{n}.jsonl") for n in ("one", "two")), strict=True):
        first, second = lines
        assert first == pytest.approx(second, rel=1e-4, abs=1e-6)


def _lines(path: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "network"} for line in lines]
