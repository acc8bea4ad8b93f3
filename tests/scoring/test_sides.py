"""Both directions of a CycleGAN: scored together, pruned together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ganc.checkpoints.store import load, save
from ganc.errors import InputError, UsageError
from ganc.models.model import Model
from ganc.pruning.plan import prune
from ganc.scores import Scores
from ganc.scoring.score import score
from tests.conftest import Outcome, make_model
from tests.evaluation.witnesses import write_images
from tests.families import make_cyclegan, make_resnet

Ganc = Callable[..., Outcome]
GROUPS = ("stem", "down1", "trunk", "block0.inner", "up1", "up0")
BOTH = [*GROUPS, *(f"generator_b.{name}" for name in GROUPS)]


@pytest.fixture
def horses(tmp_path: Path) -> Path:
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return write_images(images, tmp_path / "horses")


@pytest.fixture
def zebras(tmp_path: Path) -> Path:
    images = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return write_images(images, tmp_path / "zebras")


def assert_parts(scores: Scores, prefix: str, alone: Scores) -> None:
    """Check that what is under a prefix is what its network alone gets."""
    assert alone.values
    for name, values in alone.values.items():
        assert torch.equal(scores[prefix + name], values), prefix + name


@pytest.mark.parametrize("method", ["l1-in", "l1-out"])
def test_weights_of_both_directions_are_scored(method: str) -> None:
    model = make_cyclegan()
    scores = score(model, method, device="cpu")
    assert list(scores.values) == BOTH
    assert_parts(scores, "", score(Model(model.generator), method, device="cpu"))
    assert_parts(scores, "generator_b.", score(Model(model.generator_b), method, device="cpu"))
    everything = score(model, method, discriminator=True, device="cpu")
    assert list(everything.values) == [group.name for group in model.groups]
    other = score(Model(model.generator_b, model.discriminator_b), method, discriminator=True)
    assert torch.equal(everything["discriminator_b.conv0"], other["discriminator.conv0"])


def test_the_baselines_of_both_directions_are_independent() -> None:
    scores = score(make_cyclegan(), "random", device="cpu")
    assert all(not torch.equal(scores[name], scores[f"generator_b.{name}"]) for name in GROUPS)


@pytest.mark.parametrize("method", ["activation", "asv", "rebuild"])
def test_each_direction_looks_at_its_own_images(method: str, horses: Path, zebras: Path) -> None:
    model = make_cyclegan()
    given: dict[str, Any] = {"batch": 2, "device": "cpu"}
    scores = score(model, method, data=horses, data_b=zebras, **given)
    assert list(scores.values) == BOTH
    assert_parts(scores, "", score(Model(model.generator), method, data=horses, **given))
    there = score(Model(model.generator_b), method, data=zebras, **given)
    assert_parts(scores, "generator_b.", there)
    assert (scores.settings["samples"], scores.settings["samples_b"]) == (5, 3)
    assert scores.settings["data_b"] == str(zebras)
    assert scores.content_hash == model.content_hash()


def test_one_direction_alone(horses: Path, zebras: Path) -> None:
    model = make_cyclegan()
    whole = score(model, "asv", data=horses, data_b=zebras)
    there = score(model, "asv", data=horses, network="generator")
    back = score(model, "asv", data_b=zebras, network="generator_b")
    assert [*there.values, *back.values] == BOTH
    for part in (there, back):
        assert all(torch.equal(whole[name], values) for name, values in part.values.items())
    assert back.settings["samples"] == 3
    discriminated = score(model, "l1-in", network="generator_b", discriminator=True)
    assert {name.partition(".")[0] for name in discriminated.values} == {
        "generator_b", "discriminator_b",
    }  # fmt: skip


def test_what_is_missing_is_said_before_anything_runs(horses: Path, zebras: Path) -> None:
    model, seen = make_cyclegan(), []
    with pytest.raises(UsageError, match="--data-b is missing") as caught:
        score(model, "asv", data=horses, progress=lambda *state: seen.append(state))
    assert "--network generator" in str(caught.value.hint)
    assert not seen
    with pytest.raises(UsageError, match="--data is missing"):
        score(model, "asv", data_b=zebras)


def test_images_of_a_side_that_is_not_scored_are_refused(horses: Path, zebras: Path) -> None:
    model = make_cyclegan()
    with pytest.raises(UsageError, match="--data-b goes with generator_b, which is not scored"):
        score(model, "asv", data=horses, data_b=zebras, network="generator")
    with pytest.raises(UsageError, match="--data-b goes with generator_b"):
        score(make_resnet(), "asv", data=horses, data_b=zebras)
    with pytest.raises(UsageError, match="takes no --data-b"):
        score(model, "l1-in", data_b=zebras)


def test_networks_that_are_not_there_are_named() -> None:
    model = make_cyclegan()
    with pytest.raises(UsageError, match="unknown --network `generator_c`"):
        score(model, "l1-in", network="generator_c")
    with pytest.raises(InputError, match="holds no generator_b"):
        score(make_model(), "l1-in", network="generator_b")
    half = Model(model.generator, None, model.generator_b, model.discriminator_b)
    assert "discriminator_b.conv0" in score(half, "l1-in", discriminator=True).values
    with pytest.raises(InputError, match="holds no discriminator"):
        score(half, "l1-in", discriminator=True, network="generator")


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_pruning_slices_every_scored_network(allocation: str) -> None:
    model = make_cyclegan()
    scores = score(model, "l1-out", discriminator=True)
    small = prune(model, scores, macs=0.6 * model.macs(), allocation=allocation)
    assert small.macs() <= 0.6 * model.macs()  # of the first generator, which budgets count
    for name in ("generator", "discriminator", "generator_b", "discriminator_b"):
        before, after = getattr(model, name), getattr(small, name)
        assert after.params() < before.params(), name
        x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
        assert after(x).shape == before(x).shape
        assert torch.isfinite(after(x)).all()
    if allocation == "uniform":
        assert all(small.widths[g] == small.widths[f"generator_b.{g}"] for g in GROUPS)


def test_a_budget_needs_scores_of_what_it_counts() -> None:
    model = make_cyclegan()
    back = score(model, "l1-out", network="generator_b")
    with pytest.raises(UsageError, match="counts the generator, of which the scores hold nothing"):
        prune(model, back, speedup=2.0)
    small = prune(model, back, prune_ratio=0.5)
    assert small.macs() == model.macs()
    assert small.generator_b.macs() < model.generator_b.macs()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, horses: Path) -> tuple[object, ...]:
    """Words that score a CycleGAN in the working folder by one side's images."""
    monkeypatch.chdir(tmp_path)
    save(make_cyclegan(), Path("cycle.safetensors"))
    return ("score", "cycle.safetensors", "--method", "asv", "--data", horses)


def test_the_command_asks_for_the_other_side(
    ganc: Ganc, command: tuple[object, ...], zebras: Path
) -> None:
    missing = ganc(*command)
    assert missing.code == 2
    assert "--data-b is missing" in missing.err
    assert "hint: pass --data-b with a folder or zip of images" in missing.err
    assert ganc(*command, "--network", "generator", "-o", "one.safetensors").code == 0
    dry = ganc(*command, "--data-b", zebras, "--dry-run", "--json")
    assert json.loads(dry.out)["settings"]["data_b"] == str(zebras)


def test_scores_of_both_directions_are_compared(
    ganc: Ganc, command: tuple[object, ...], zebras: Path
) -> None:
    norms = ganc("score", "cycle.safetensors", "--method", "l1-out", "--json")
    assert [group["name"] for group in json.loads(norms.out)["groups"]] == BOTH
    compared = ("--compare", "cycle.l1-out.scores.safetensors")
    scored = ganc(*command, "--data-b", zebras, "--plot", "scores.png", *compared)
    assert scored.code == 0, scored.err
    assert "5 + 3" in scored.out
    assert scored.out.count("generator_b.block0.inner") == 2  # kept widths, and agreement
    assert scored.err.splitlines() == ["scoring …", "scoring generator_b …"]
    assert Path("scores.png").stat().st_size
    other = ganc(*command, "--network", "generator", "-o", "two", *compared)
    assert (other.code, "in group generator_b.stem" in other.err) == (3, True)


def test_the_command_prunes_both_directions(
    ganc: Ganc, command: tuple[object, ...], zebras: Path
) -> None:
    assert ganc(*command, "--data-b", zebras).code == 0
    pruned = ganc("prune", "cycle.safetensors", "--scores", "cycle.asv.scores.safetensors",
                  "--speedup", 2, "-o", "small.safetensors", "--plot", "cut.png")  # fmt: skip
    assert pruned.code == 0, pruned.err
    assert "generator_b.up0" in pruned.out
    small = load(Path("small.safetensors"))
    assert small.generator_b.params() < make_cyclegan().generator_b.params()
    assert Path("cut.png").stat().st_size
