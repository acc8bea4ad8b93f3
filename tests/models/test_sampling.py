"""Sample i of a seed is the same picture however it is asked for."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ganc.errors import UsageError
from ganc.models import stylegan2
from ganc.models.sampling import Latents, generate, iterate_samples, latent_inputs
from tests.evaluation.witnesses import Colours

# Float32 sums of a few hundred terms of order 1 in another order: a few 1e-6.
TOLERANCE = 1e-5


def build(c_dim: int = 0, width: int = 6) -> stylegan2.Generator:
    torch.manual_seed(7)
    generator = stylegan2.Generator(
        16, c_dim, 16, 16, 3, channel_max=width, mapping_kwargs={"num_layers": 2}
    )
    for layer in generator.modules():
        if isinstance(layer, stylegan2.SynthesisLayer):
            torch.nn.init.constant_(layer.noise_strength, 0.3)
    return generator.eval()


@pytest.mark.parametrize("c_dim", [0, 5])
def test_a_sample_does_not_depend_on_its_batch(c_dim: int) -> None:
    generator = build(c_dim)
    whole = torch.cat(list(iterate_samples(generator, Latents(3), 7, batch=7)))
    parts = torch.cat(list(iterate_samples(generator, Latents(3), 7, batch=2)))
    alone = generate(generator, latent_inputs(generator, [4], 3))
    torch.testing.assert_close(parts, whole, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(alone[0], whole[4], rtol=0, atol=TOLERANCE)
    assert (whole[0] - whole[1]).abs().max() > 0.1


def test_seeds_give_other_latents_labels_and_noise() -> None:
    generator = build(c_dim=5)
    first, second = (latent_inputs(generator, range(32), seed) for seed in (0, 1))
    assert not torch.equal(first.z, second.z)
    assert first.c is not None
    assert second.c is not None
    assert not torch.equal(first.c, second.c)
    assert first.noise is not None
    assert second.noise is not None
    assert not torch.equal(first.noise[0], second.noise[0])


def test_labels_are_one_hot_and_reach_every_class() -> None:
    c = latent_inputs(build(c_dim=5), range(200), 0).c
    assert c is not None
    assert c.shape == (200, 5)
    assert torch.equal(c.sum(dim=1), torch.ones(200))
    # 200 fair draws: 40 expected per class, standard deviation 5.7; five of them is 28.
    assert ((c.sum(dim=0) - 40).abs() < 28).all()


def test_labels_can_be_replaced() -> None:
    generator = build(c_dim=5)
    inputs = replace(latent_inputs(generator, range(2), 0), c=torch.eye(5)[[3, 4]])
    other = replace(inputs, c=torch.eye(5)[[4, 4]])
    images, changed = generate(generator, inputs), generate(generator, other)
    assert (images[0] - changed[0]).abs().max() > 1e-3
    torch.testing.assert_close(images[1], changed[1], rtol=0, atol=TOLERANCE)


def test_noise_modes() -> None:
    generator = build()
    modes = ("random", "const", "none")
    images = {
        mode: generate(generator, latent_inputs(generator, range(2), 0, noise_mode=mode))
        for mode in modes
    }
    inputs = latent_inputs(generator, range(2), 0)
    with torch.no_grad():
        default = generator(inputs.z)
    torch.testing.assert_close(images["const"], default, rtol=0, atol=0)
    for a, b in (("random", "const"), ("const", "none"), ("none", "random")):
        assert (images[a] - images[b]).abs().max() > 1e-3
    with pytest.raises(UsageError, match="noise_mode `randm`"):
        latent_inputs(generator, range(2), 0, noise_mode="randm")


def test_a_narrower_student_gets_the_same_inputs() -> None:
    teacher, student = (latent_inputs(build(width=width), range(3), 0) for width in (6, 3))
    assert torch.equal(teacher.z, student.z)
    assert teacher.noise is not None
    assert student.noise is not None
    assert all(map(torch.equal, teacher.noise, student.noise))


def test_truncation_reaches_the_generator_and_no_gradient_is_kept() -> None:
    generator = build()
    generator.w_avg = torch.linspace(-1, 1, 16)
    inputs = latent_inputs(generator, range(3), 0, noise_mode="const")
    images = generate(generator, inputs, truncation_psi=0.0)
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=TOLERANCE)
    assert not images.requires_grad


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="batch must be at least 1, got 0"):
        next(iterate_samples(build(), Latents(), 4, batch=0))


@pytest.mark.parametrize(("resolution", "made"), [(256, [4]), (512, [1])])
def test_large_images_are_not_made_in_vain(resolution: int, made: list[int]) -> None:
    batches: list[int] = []

    class Counting(Colours):
        def forward(self, z: Tensor, c: Tensor | None = None, **settings: Any) -> Tensor:
            batches.append(len(z))
            return super().forward(z, c, **settings)

    generator = Counting([0.0] * 3, 1.0, resolution=resolution)
    (images,) = iterate_samples(generator, Latents(), 1, batch=1)
    assert images.shape == (1, 3, resolution, resolution)
    assert batches == made
