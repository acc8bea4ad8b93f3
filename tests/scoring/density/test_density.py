"""Scores of density: what they say of which networks, and which settings they follow."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ganc.checkpoints.store import save
from ganc.models.model import Model
from ganc.models.network import Translator
from ganc.pruning.plan import make_plan, prune
from ganc.scores import Scores
from ganc.scoring.density.density import Density
from ganc.scoring.density.recipe import resolve_density
from ganc.scoring.request import ScoreRequest
from ganc.scoring.score import score
from ganc.scoring.sides import sides_of
from tests.conftest import Outcome, make_model
from tests.families import make_cyclegan, make_unet
from tests.scoring.density.cases import (
    DEFAULTS,
    FLAGS,
    QUICK,
    assert_equal,
    make_resnet_pair,
    make_sngan_pair,
    quick,
    write_pairs,
    write_pictures,
)

Ganc = Callable[..., Outcome]


def test_both_networks_are_scored_and_pruned(pairs: Path) -> None:
    model = make_unet()
    before, content = model.tensors(), model.content_hash()
    before = {name: tensor.clone() for name, tensor in before.items()}
    scores = quick(model, pairs)
    assert list(scores.values) == [group.name for group in model.groups if group.prunable]
    assert all(((values > 0) & (values < 1)).all() for values in scores.values.values())
    assert (scores.method, scores.content_hash) == ("density", content)
    # The caller's model is as it was, the discriminator too, which learned in a copy.
    assert model.content_hash() == content
    assert all(torch.equal(before[name], tensor) for name, tensor in model.tensors().items())
    assert all(p.requires_grad for _, n in model.networks() for p in n.parameters())
    small = prune(model, scores)
    facts = scores.settings
    assert small.macs() == facts["generator"]["macs"] <= model.macs() / 1.8
    assert facts["generator"]["of"] == model.macs()
    assert small.discriminator.macs() == facts["discriminator"]["macs"]
    assert small.discriminator.macs() <= 0.5 * model.discriminator.macs()
    assert facts["density"] == resolve_density(QUICK).to_json()
    assert facts["generator"]["neighbourhoods"]["neighbours"] == 3
    assert_equal(quick(model, pairs), scores)


def test_both_directions_are_independent(unpaired: Path) -> None:
    model = make_cyclegan()
    both = quick(model, unpaired)
    assert {g.name for g in model.groups if g.prunable} == set(both.values)
    for network, own in (("generator", "discriminator"), ("generator_b", "discriminator_b")):
        alone = quick(model, unpaired, network=network)
        parts = {name.partition(".")[0] for name in alone.values}
        assert own in parts
        for name, values in alone.values.items():
            assert torch.equal(both[name], values)
            assert both.thresholds[name] == alone.thresholds[name]
    assert (both.settings["samples"], both.settings["samples_b"]) == (6, 5)
    small = prune(model, both)
    assert small.generator_b.macs() == both.settings["generator_b"]["macs"]
    assert small.discriminator_b.macs() == both.settings["discriminator_b"]["macs"]


def test_other_seeds_find_other_gates(pairs: Path) -> None:
    first, other = (quick(make_unet(), pairs, seed=seed) for seed in (0, 1))
    assert not torch.equal(first["enc0"], other["enc0"])


# Gates that are closed at times, and a budget that is met at times.
BASE = {"steps": 3, "gate_bias": -0.5, "temperature": 1.0}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """What is found without a change."""
    return quick(make_unet(), write_pairs(tmp_path_factory.mktemp("plain"), 6), **BASE)


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": "soft"}, {"feedback": "concat"}, {"feedback": "none"}, {"condition": "batch"},
        {"share_draw": True}, {"metric": "euclidean"}, {"budget": "one-sided"},
        {"anchor_weight": 0.0}, {"discriminator_lr": 0.001}, {"centers": 2}, {"images": 3},
        {"adversarial": "hinge"}, {"statistics": "checkpoint"}, {"keep_groups": "enc0"},
        {"temperature": 0.7}, {"gate_bias": 0.5}, {"condition_lr": 0.1}, {"lr": 0.01},
        {"budget_weight": 0.1}, {"discriminator_budget_weight": 5.0}, {"weight_decay": 0.5},
        {"beta1": 0.5}, {"beta2": 0.5}, {"grad_clip": 1e-6}, {"neighbours": 2},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_does_something(
    plain: Scores, pairs: Path, changes: Mapping[str, Any]
) -> None:
    found = quick(make_unet(), pairs, **{**BASE, **changes})
    assert found.settings["density"] == {**plain.settings["density"], **changes}
    assert any(
        name not in found.values or not torch.equal(values, found[name])
        for name, values in plain.values.items()
    )


def test_kept_groups_have_no_scores(pairs: Path) -> None:
    kept = "enc0, conv1"  # of the generator, and of its discriminator
    scores = quick(make_unet(), pairs, keep_groups=kept, speedup=1.3, discriminator_macs=0.8)
    assert not {"enc0", "discriminator.conv1"} & set(scores.values)
    assert {"enc1", "discriminator.conv0"} <= set(scores.values)


def test_a_discriminator_that_stays_whole(pairs: Path) -> None:
    model = make_unet()
    scores = quick(model, pairs, discriminator_macs=1)
    assert {name.partition(".")[0] for name in scores.values} & {"discriminator"} == set()
    assert prune(model, scores).discriminator.macs() == model.discriminator.macs()


def test_batch_is_a_matter_of_memory(pairs: Path) -> None:
    model = make_unet()
    one, four = (quick(model, pairs, images=4, steps=6, batch=batch) for batch in (1, 4))
    for name, values in one.values.items():
        torch.testing.assert_close(four[name], values, rtol=0, atol=1e-5)
    assert make_plan(model, one).keep == make_plan(model, four).keep


@pytest.mark.parametrize("make", [make_model, make_sngan_pair])
def test_latents_are_inputs_as_well(make: Callable[[], Model]) -> None:
    # Counts and batches that StyleGAN2's minibatch deviation would refuse, or depend on.
    model, recipe = make(), {**QUICK, "images": 6, "speedup": 1.3, "discriminator_macs": 0.8}
    one, five = (
        score(model, "density", samples=7, density=recipe, batch=batch, device="cpu")
        for batch in (1, 5)
    )
    assert one.settings["samples"] == 7
    for name, values in one.values.items():
        torch.testing.assert_close(five[name], values, rtol=0, atol=1e-5)
    assert make_plan(model, one).keep == make_plan(model, five).keep
    assert prune(model, one).macs() <= model.macs() / 1.3


@pytest.mark.parametrize(
    ("make", "form"),
    [(make_unet, "bce"), (make_resnet_pair, "lsgan"), (make_sngan_pair, "hinge"),
     (make_model, "non-saturating")],
)  # fmt: skip
def test_the_game_is_the_one_the_teacher_was_trained_in(
    make: Callable[[], Model], form: str, pairs: Path, tmp_path: Path
) -> None:
    model, first = make(), make().generator
    data = pairs if make is make_unet else write_pictures(tmp_path / "photos", 6)
    given = data if isinstance(first, Translator) else None
    recipe = {**QUICK, "speedup": 1.2, "discriminator_macs": 0.8}
    for adversarial, expected in (("task", form), ("hinge", "hinge")):
        own = resolve_density({**recipe, "adversarial": adversarial})
        request = ScoreRequest(samples=6, data=given, density=own)
        (side,) = sides_of(model, request, with_discriminator=True)
        assert Density(copy.deepcopy(side), request).form == expected


@pytest.mark.parametrize("options", [(), ("keep_groups=enc0",), ("discriminator_macs=1",)], ids=str)
def test_scores_are_compared_before_and_after(
    options: tuple[str, ...], ganc: Ganc, pairs: Path, tmp_path: Path
) -> None:
    save(make_unet(), tmp_path / "m.safetensors")
    words = ("score", tmp_path / "m.safetensors", "--method", "density", "--data", pairs, *FLAGS,
             *(word for option in options for word in ("--set", option)),
             "--neighbourhoods", tmp_path / "n", "--json", "--quiet")  # fmt: skip
    first = ganc(*words, "-o", tmp_path / "a")
    assert first.code == 0, first.err
    other = ganc(*words, "-o", tmp_path / "b", "--seed", "1", "--compare", tmp_path / "a",
                 "--plot", tmp_path / "b.png")  # fmt: skip
    assert other.code == 0, other.err
    result, scores = json.loads(other.out), Scores.load(tmp_path / "b")
    assert [group["name"] for group in result["groups"]] == list(scores.values)
    assert [group["name"] for group in result["compare"]["groups"]] == list(scores.values)
    assert [group["kept"] for group in result["groups"]] == [
        len(channels) for channels in make_plan(make_unet(), scores).keep.values()
    ]
    assert result["prune_ratio"] is None  # it has a budget of its own
    foreign = ganc(*words, "-o", tmp_path / "c", "--compare", tmp_path / "a",
                   "--set", "keep_groups=enc1")  # fmt: skip
    assert foreign.code == 3
    assert not (tmp_path / "c.state").exists()  # said before anything was learned


def test_settings_are_shown_without_a_model(ganc: Ganc) -> None:
    done = ganc("score", "nowhere.safetensors", "--method", "density", "--set", "speedup=8",
                "--set", "feedback=concat", "--dry-run", "--json")  # fmt: skip
    assert done.code == 0, done.err
    shown = json.loads(done.out)
    recipe = resolve_density({"speedup": 8, "feedback": "concat"})
    assert (recipe.to_json().items() - DEFAULTS.items()) == {("speedup", 8), ("feedback", "concat")}
    assert recipe.to_json() in (shown.get("density"), shown.get("settings", {}).get("density"))
