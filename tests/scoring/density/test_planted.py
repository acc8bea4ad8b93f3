"""Planted redundancy: gates that learn keep the channels that do something.

A trained translator is widened by dead channels, one to each of its own, so the least that keeps
all images is known, and a choice by chance keeps a dead channel for every live one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.checkpoints.store import load
from ganc.data.images import to_float
from ganc.data.pairs import open_pairs
from ganc.models.model import Model
from ganc.pruning.plan import prune
from ganc.scores import Scores
from ganc.scoring.score import score
from tests.conftest import GOLDEN
from tests.evaluation.witnesses import write_images
from tests.families import make_unet
from tests.scoring.density.cases import make_batch_norm_resnet, make_resnet_pair, outputs
from tests.scoring.density.planted import Planted, plant

TRAINED = GOLDEN / "trained"


def faces() -> Tensor:
    """Return faces of 32 px, [16, 3, 32, 32], that the translator was not trained on."""
    pairs = open_pairs(
        TRAINED / "edges2faces.zip", channels=(1, 3), resolution=64, resize=False
    )  # fmt: skip
    images = to_float(torch.stack([pairs.image(i)[1:] for i in range(len(pairs))]))
    return F.interpolate(images, scale_factor=0.5, mode="area")


def trained() -> Model:
    """One direction of a small CycleGAN: faces to sketches."""
    cyclegan = load(TRAINED / "cyclegan-faces2sketches-32.safetensors")
    return Model(cyclegan.generator, cyclegan.discriminator)


def learned(planted: Planted, before: Model, data: Path, **settings: Any) -> Scores:
    """Learn gates for the MACs of the model before."""
    targets = {
        "speedup": planted.model.macs() / before.macs(),
        "discriminator_macs": before.discriminator.macs() / planted.model.discriminator.macs(),
    }
    recipe = {"encoder": "discriminator", "centers": 2, "images": 1, **targets, **settings}
    return score(planted.model, "density", data=data, density=recipe, device="cpu")


@torch.no_grad()
def distance(student: Model, teacher: Model, images: Tensor) -> float:
    return (student.generator(images) - teacher.generator(images)).abs().mean().item()


@pytest.mark.parametrize("make", [trained, make_resnet_pair, make_batch_norm_resnet, make_unet])
@torch.no_grad()
def test_planted_channels_do_nothing(make: Callable[[], Model]) -> None:
    model = make()
    planted = plant(model)
    for network, before in model.networks():
        after = dict(planted.model.networks())[network]
        torch.testing.assert_close(outputs(after), outputs(before), atol=1e-4, rtol=0)
        assert after.macs() > 1.9 * before.macs()


def test_live_channels_are_told() -> None:
    model = make_unet()
    planted = plant(model)
    assert {name: len(live) for name, live in planted.live.items()} == model.widths
    values = {g.name: torch.zeros(g.width) for g in planted.model.groups}
    for name, live in planted.live.items():
        values[name][sorted(live)] = 1.0
    exact = Scores(values, "oracle", thresholds=dict.fromkeys(values, 0.5))
    assert planted.share_found(exact, "generator") == 1
    assert planted.share_found(exact, "discriminator") == 1
    small = prune(planted.model, exact)
    assert small.widths == model.widths
    torch.testing.assert_close(
        outputs(small.generator), outputs(model.generator), atol=1e-5, rtol=0
    )
    every = Scores(values, "all", thresholds=dict.fromkeys(values, 0.0))
    assert planted.share_found(every, "generator") == 0.5


@pytest.mark.slow
def test_gates_keep_what_is_alive(tmp_path: Path) -> None:
    # All of them, and so the very images of before.
    before, images = trained(), faces()
    data = write_images(images, tmp_path / "faces")
    planted = plant(before)
    scores = learned(
        planted, before, data, steps=120, lr=0.004, anchor_weight=10.0, budget_weight=1.0
    )
    assert planted.share_found(scores, "generator") >= 0.95
    assert planted.share_found(scores, "discriminator") > 0.65  # by chance a half; found: 0.81
    chance = score(planted.model, "random")
    by_chance, by_gates = (
        prune(planted.model, own, speedup=planted.model.macs() / before.macs())
        for own in (chance, scores)
    )
    far = distance(by_chance, before, images)
    assert distance(by_gates, before, images) < 0.1 * far
    assert by_gates.macs() <= before.macs()


@pytest.mark.slow
def test_the_game_alone_finds_most(tmp_path: Path) -> None:
    # 0.95; by chance a half.
    before = trained()
    data = write_images(faces(), tmp_path / "faces")
    planted = plant(before)
    scores = learned(
        planted, before, data, steps=150, lr=0.003, anchor_weight=0.0, adversarial_weight=1.0,
        discriminator_lr=0.0002, budget_weight=0.5,
    )  # fmt: skip
    assert planted.share_found(scores, "generator") > 0.75
