"""Every term of a step on recorded tensors, against what the official code made of them."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganc import adversarial
from ganc.distillation.recipes import resolve_recipe
from ganc.distillation.trainers import losses
from ganc.distillation.trainers.style import Rendered, StyleTrainer
from ganc.models.model import Model
from ganc.pruning.plan import prune
from ganc.scoring.score import score
from tests.conftest import make_model
from tests.distillation.parts import make_parts

Recorded = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def recorded(golden: Callable[[str], Recorded]) -> Recorded:
    return golden("distillation-losses")


def squares(a: Tensor, b: Tensor) -> Tensor:
    """Stand in for LPIPS, as when the numbers were recorded."""
    return (a - b).square().flatten(1).mean(dim=1)


def make_trainer(recipe: str, **numbers: Any) -> StyleTrainer:
    teacher: Model = make_model()
    student = prune(teacher, score(teacher, "l1-out", device="cpu"), prune_ratio=0.3)
    resolved = resolve_recipe(recipe, numbers)
    return StyleTrainer(make_parts(student, teacher, resolved, perceptual=squares))


def rendered(recorded: Recorded, case: str, whose: str) -> Rendered:
    pairs = [recorded[f"{case}.{whose}features{i}"].chunk(2) for i in range(2)]
    return Rendered(recorded[f"{case}.{whose}images"], [(w, moved) for w, moved in pairs])


def test_terms_of_stylekd_and_dcp_gan(recorded: Recorded) -> None:
    trainer = make_trainer("dcp-published", batch=8, perceptual_max_resolution=16)
    assert trainer.recipe.similarity_group == 4
    own, target = (rendered(recorded, "stylekd", whose) for whose in ("", "teacher_"))
    trainer.discriminator = lambda images, c: images.flatten(1)[:, :1]
    terms = trainer._terms(own, target, 0, None)
    found = {name: loss.item() for name, (_, loss) in terms.items()}
    assert found["pixel_l1"] == pytest.approx(recorded["stylekd.kd_l1"].item(), rel=1e-6)
    assert found["perceptual"] == pytest.approx(recorded["stylekd.kd_lpips"].item(), rel=1e-6)
    assert found["latent_direction"] == pytest.approx(recorded["stylekd.kd_simi"].item(), rel=1e-4)
    assert [terms[n][0] for n in ("pixel_l1", "perceptual", "latent_direction")] == [3, 3, 30]


def test_terms_of_dcp_gan_for_stylegan3(recorded: Recorded) -> None:
    trainer = make_trainer("stylegan3-published", batch=4, similarity_group=4)
    own, target = (rendered(recorded, "stylegan3", whose) for whose in ("", "teacher_"))
    weight = recorded["stylegan3.discriminator"]
    trainer.discriminator = lambda images, c: images.flatten(1) @ weight
    terms = trainer._terms(own, target, 0, None)
    names = {
        "g_adversarial": "g_loss", "pixel_l1": "l1", "perceptual": "perceptual",
        "latent_direction": "direction",
    }  # fmt: skip
    for name, official in names.items():
        expected = recorded[f"stylegan3.{official}"].item()
        assert terms[name][1].item() == pytest.approx(expected, rel=1e-4), name
    total = sum(factor * loss for factor, loss in terms.values())
    torch.testing.assert_close(total, recorded["stylegan3.total"], rtol=1e-5, atol=0)


def test_adversarial_losses(recorded: Recorded) -> None:
    real, fake = recorded["adversarial.real_logits"], recorded["adversarial.fake_logits"]
    d_loss = adversarial.d_loss("non-saturating", real, fake)
    torch.testing.assert_close(d_loss, recorded["adversarial.d_loss"])
    g_loss = adversarial.g_loss("non-saturating", fake)
    torch.testing.assert_close(g_loss, recorded["adversarial.g_loss"])


def test_r1(recorded: Recorded) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(144, 1))
    names = {"0.weight": "conv.weight", "0.bias": "conv.bias", "3.weight": "linear.weight",
             "3.bias": "linear.bias"}  # fmt: skip
    network.load_state_dict({own: recorded[f"r1.{name}"] for own, name in names.items()})
    images = recorded["r1.images"].clone().requires_grad_()
    torch.testing.assert_close(losses.r1_penalty(network(images), images), recorded["r1.penalty"])


def test_path_length(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer("cagan", content="none", batch=8)
    ws = recorded["path.ws"].clone().requires_grad_()
    images = torch.einsum("pld,nld->np", recorded["path.matrix"], ws.tanh()).reshape(4, 3, 6, 6)
    lengths = losses.path_lengths(images, ws, recorded["path.pixels"])
    torch.testing.assert_close(lengths, recorded["path.lengths"])
    trainer.pl_mean.fill_(recorded["path.mean_before"])
    inputs = images, ws, recorded["path.pixels"]
    monkeypatch.setattr(trainer, "_path_inputs", lambda *_: inputs)
    monkeypatch.setattr(trainer.g, "descend", lambda loss: loss)
    found = trainer.g_pl(0, None)
    torch.testing.assert_close(found["path_length"], recorded["path.penalty"])
    torch.testing.assert_close(trainer.pl_mean, recorded["path.mean_after"])
