"""Small translators that were trained on pictures: they translate, and survive pruning."""

from pathlib import Path

import pytest
import torch

from ganc.checkpoints.store import load
from ganc.data.images import to_float
from ganc.data.pairs import open_pairs
from ganc.distillation.loop import distill
from ganc.distillation.networks import new_generator
from ganc.models.model import Model
from ganc.pruning import prune
from ganc.scoring.score import score
from tests.conftest import GOLDEN

TRAINED = GOLDEN / "trained"
PAIRS = TRAINED / "edges2faces.zip"


@pytest.fixture
def pix2pix() -> Model:
    return load(TRAINED / "pix2pix64_edges2faces.safetensors")


def held_out_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Return line drawings and faces that the training did not see."""
    pairs = open_pairs(PAIRS, channels=(1, 3), resolution=64, resize=False)
    images = to_float(torch.stack([pairs.image(i) for i in range(len(pairs))]))
    return images[:, :1], images[:, 1:]


@torch.no_grad()
def distance(model: Model, inputs: torch.Tensor, goal: torch.Tensor) -> float:
    return (model.generator(inputs) - goal).abs().mean().item()


def test_a_trained_pix2pix_makes_faces_of_new_drawings(pix2pix: Model) -> None:
    edges, faces = held_out_pairs()
    untrained = Model(new_generator("unet_translator", pix2pix.generator.config, None, 0).eval())
    assert distance(pix2pix, edges, faces) < distance(untrained, edges, faces) - 0.1
    # The drawing decides what it makes: a neighbour's face is farther away.
    assert distance(pix2pix, edges, faces) < distance(pix2pix, edges, faces.roll(1, 0)) - 0.05


@pytest.mark.slow
def test_distillation_brings_a_pruned_translator_back(pix2pix: Model, tmp_path: Path) -> None:
    edges, _ = held_out_pairs()
    with torch.no_grad():
        goal = pix2pix.generator(edges)
    pruned = prune(pix2pix, score(pix2pix, "l1-out"), speedup=2.0)
    numbers = {"batch": 8, "lr": 0.002, "l1_weight": 100.0, "ema_rampup": 0.0}
    distill(pruned, pix2pix, tmp_path / "run", data=PAIRS, overrides=numbers, steps=30,
            device="cpu")  # fmt: skip
    student = load(tmp_path / "run" / "student.safetensors")
    assert distance(student, edges, goal) < 0.8 * distance(pruned, edges, goal)
