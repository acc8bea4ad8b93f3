"""Small translators that were trained on pictures: they translate, and survive pruning."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from ganc.checkpoints.store import load
from ganc.data.grid import save_image
from ganc.data.images import to_float
from ganc.data.pairs import open_pairs
from ganc.distillation.distill import distill
from ganc.distillation.networks import new_generator
from ganc.models.model import Model
from ganc.pruning.plan import prune
from ganc.scoring.score import score
from tests.conftest import GOLDEN

TRAINED = GOLDEN / "trained"
PAIRS = TRAINED / "edges2faces.zip"


@pytest.fixture
def pix2pix() -> Model:
    return load(TRAINED / "pix2pix-edges2faces-64.safetensors")


@pytest.fixture
def cyclegan() -> Model:
    return load(TRAINED / "cyclegan-faces2sketches-32.safetensors")


def held_out_faces() -> torch.Tensor:
    """Return faces of 32 px, [16, 3, 32, 32]; the CycleGAN saw none of them."""
    return F.interpolate(held_out_pairs()[1], scale_factor=0.5, mode="area")


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


@torch.no_grad()
def test_a_trained_cyclegan_sketches_a_face_and_finds_back(cyclegan: Model) -> None:
    faces = held_out_faces()
    sketches = cyclegan.generator(faces)
    back = cyclegan.generator_b(sketches)
    # Dark strokes on white paper, of dark photographs in colour.
    assert faces.mean() < 0
    assert sketches.mean() > 0.5
    assert colour(sketches) < 0.4 * colour(faces)
    # A sketch says whose it is: the way back ends at that face, not at a neighbour's.
    assert (back - faces).abs().mean() < 0.6 * (back - faces.roll(1, 0)).abs().mean()


def colour(images: torch.Tensor) -> torch.Tensor:
    """Return how far the channels lie from grey, in mean."""
    return (images - images.mean(dim=1, keepdim=True)).abs().mean()


@pytest.mark.slow
@torch.no_grad()
def test_distillation_brings_both_directions_back(cyclegan: Model, tmp_path: Path) -> None:
    faces = held_out_faces()
    sketches = cyclegan.generator(faces)
    for side, images in (("trainA", faces[:8]), ("trainB", sketches[8:])):
        (tmp_path / "data" / side).mkdir(parents=True)
        for number, image in enumerate(images):
            save_image(image, tmp_path / "data" / side / f"{number}.png")
    pruned = prune(cyclegan, score(cyclegan, "l1-out"), speedup=2.0)
    numbers = {"batch": 4, "lr": 0.002, "l1_weight": 100.0, "ema_rampup": 0.0}
    with torch.enable_grad():
        distill(pruned, cyclegan, tmp_path / "run", data=tmp_path / "data", overrides=numbers,
                steps=25, device="cpu")  # fmt: skip
    student = load(tmp_path / "run" / "student.safetensors")
    for name, inputs in (("generator", faces[8:]), ("generator_b", sketches[:8])):
        goal, before, after = (getattr(m, name)(inputs) for m in (cyclegan, pruned, student))
        assert (after - goal).abs().mean() < 0.8 * (before - goal).abs().mean(), name
