"""Losses against closed forms and torch's own definitions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganc import adversarial
from ganc.distillation.trainers import losses


def test_adversarial_losses_at_zero_logits_are_multiples_of_log_2() -> None:
    zeros, log2 = torch.zeros(4, 1), torch.log(torch.tensor(2.0))
    torch.testing.assert_close(adversarial.d_loss("non-saturating", zeros, zeros), 2 * log2)
    torch.testing.assert_close(adversarial.g_loss("non-saturating", zeros), log2)


def test_adversarial_losses_are_binary_cross_entropies() -> None:
    real, fake = torch.randn(2, 8, 1, generator=torch.Generator().manual_seed(0))
    bce = F.binary_cross_entropy_with_logits
    expected = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    torch.testing.assert_close(adversarial.d_loss("non-saturating", real, fake), expected)
    torch.testing.assert_close(
        adversarial.g_loss("non-saturating", fake), bce(fake, torch.ones_like(fake))
    )


def test_r1_of_a_linear_discriminator_is_its_squared_norm() -> None:
    linear = nn.Linear(3 * 4 * 4, 1, dtype=torch.float64)
    images = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = losses.r1_penalty(linear(images.flatten(1)), images)
    torch.testing.assert_close(penalty, linear.weight.square().sum())
    penalty.backward()  # its gradient is 2 w
    torch.testing.assert_close(linear.weight.grad, 2 * linear.weight.detach())


def test_path_length_of_a_linear_generator_is_known() -> None:
    # x = A w: the gradient of y·x is Aᵀy, so with y = e_0 / scale its length is that of row 0.
    matrix = torch.randn(16, 6, dtype=torch.float64, requires_grad=True)
    ws = torch.randn(2, 1, 6, dtype=torch.float64, requires_grad=True)
    images = (ws[:, 0] @ matrix.t()).reshape(2, 1, 4, 4)
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    pixels[:, 0, 0, 0] = 4.0  # scale is 1 / sqrt(4 · 4)
    lengths = losses.path_lengths(images, ws, pixels)
    torch.testing.assert_close(lengths, matrix[0].norm().expand(2))
    lengths.sum().backward()
    torch.testing.assert_close(matrix.grad[0], 2 * matrix[0].detach() / matrix[0].norm().detach())


def test_path_length_averages_over_layers() -> None:
    # The same w in L layers, each adding the same to the image: sqrt(mean over L of equal squares).
    ws = torch.randn(3, 5, 4, requires_grad=True)
    images = ws.sum(dim=1).reshape(3, 1, 2, 2)
    lengths = losses.path_lengths(images, ws, torch.ones(3, 1, 2, 2))
    torch.testing.assert_close(lengths, torch.full((3,), 1.0))  # sqrt(4 · (1/2)²)


def pairs(seed: int, channels: int) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(6, channels, r, r, generator=random),
         torch.randn(6, channels, r, r, generator=random))
        for r in (4, 8)
    ]  # fmt: skip


def test_similarity_is_the_cosine() -> None:
    a, b = pairs(0, 3)[0]
    expected = F.cosine_similarity(a.flatten(1)[:, None], b.flatten(1)[None], dim=2)
    torch.testing.assert_close(losses.similarity(a, b), expected)


def test_latent_direction_is_zero_for_equal_features_and_any_scale() -> None:
    teacher = pairs(0, 3)
    scaled = [(5 * a, 0.1 * b) for a, b in teacher]
    assert losses.latent_direction(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    assert losses.latent_direction(scaled, teacher).item() == pytest.approx(0, abs=1e-6)


def test_latent_direction_is_the_divergence_from_the_teacher() -> None:
    student, teacher = pairs(1, 2), pairs(0, 3)  # widths differ
    expected = torch.zeros([])
    for (a, b), (c, d) in zip(student, teacher, strict=True):
        own = torch.distributions.Categorical(logits=losses.similarity(a, b))
        target = torch.distributions.Categorical(logits=losses.similarity(c, d))
        expected = expected + torch.distributions.kl_divergence(target, own).mean()
    found = losses.latent_direction(student, teacher)
    torch.testing.assert_close(found, expected)
    assert found > 0


def test_groups_compare_among_themselves() -> None:
    student, teacher = pairs(1, 2), pairs(0, 3)
    assert torch.equal(
        losses.latent_direction(student, teacher, 6), losses.latent_direction(student, teacher)
    )
    halves = [
        losses.latent_direction(*([(a[part], b[part]) for a, b in side] for side in both))
        for both in [(student, teacher)]
        for part in (slice(0, 3), slice(3, 6))
    ]
    found = losses.latent_direction(student, teacher, 3)
    torch.testing.assert_close(found, torch.stack(halves).mean())
    assert losses.similarity(*student[0], 3).shape == (6, 3)


def test_shrink_averages_and_leaves_small_images_alone() -> None:
    images = torch.randn(2, 3, 16, 16)
    assert losses.shrink(images, 16) is images
    torch.testing.assert_close(losses.shrink(images, 8), F.avg_pool2d(images, 2))
    torch.testing.assert_close(losses.shrink(images, 4), F.avg_pool2d(images, 4))
    nearest = images[..., 1::4, 1::4] + images[..., 1::4, 2::4]
    nearest = nearest + images[..., 2::4, 1::4] + images[..., 2::4, 2::4]
    torch.testing.assert_close(losses.shrink(images, 4, "bilinear"), nearest / 4)
