"""StyleGAN2: recorded images and logits, and the properties that a generator promises."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from ganc.checkpoints.store import load
from ganc.errors import ShapeError, UsageError
from ganc.models.model import Model
from ganc.models.stylegan2 import Generator
from ganc.models.stylegan2_discriminator import Discriminator, minibatch_std
from tests.conftest import GOLDEN, make_model

Golden = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def teacher() -> Model:
    return load(GOLDEN / "files" / "rosinality" / "networks.pt")


@pytest.fixture(scope="module")
def io(golden: Callable[[str], Golden]) -> Golden:
    return golden("rosinality-stylegan2-32")


def noise_of(io: Golden) -> list[Tensor]:
    return [io[f"noise_{i}"] for i in range(7)]


# Float noise between equivalent formulations of the reference itself is up to 1.5e-6.
TOLERANCE = {"atol": 1e-5, "rtol": 0}


@torch.no_grad()
def test_recorded_images(teacher: Model, io: Golden) -> None:
    generator = teacher.generator
    got = generator(io["z"], noise=noise_of(io))
    torch.testing.assert_close(got, io["img"], **TOLERANCE)
    torch.testing.assert_close(generator(io["z"]), io["img_noise_buffers"], **TOLERANCE)
    torch.testing.assert_close(generator.mapping(io["z"])[:, 0], io["w"], **TOLERANCE)
    wplus = generator.synthesis(io["wplus"], noise=noise_of(io))
    torch.testing.assert_close(wplus, io["img_wplus"], **TOLERANCE)
    silent = generator(io["z"], noise_mode="none")
    torch.testing.assert_close(silent, io["img_zero_noise"], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("cut", [1, 3, 7])
def test_recorded_style_mixing(teacher: Model, io: Golden, cut: int) -> None:
    ws, other = (teacher.generator.mapping(io[name]) for name in ("z", "z2"))
    mixed = torch.cat([ws[:, :cut], other[:, cut:]], dim=1)
    got = teacher.generator.synthesis(mixed, noise=noise_of(io))
    torch.testing.assert_close(got, io[f"img_mix_inject{cut}"], **TOLERANCE)


@torch.no_grad()
def test_recorded_truncation(io: Golden) -> None:
    generator = load(GOLDEN / "files" / "rosinality" / "networks.pt").generator
    generator.w_avg = io["truncation_latent"][0]
    got = generator(io["z"], noise=noise_of(io), truncation_psi=0.7)
    torch.testing.assert_close(got, io["img_trunc07"], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_recorded_logits(teacher: Model, io: Golden, batch: int) -> None:
    key = {1: "d_logits_b1_first", 2: "d_logits_b2_first2", 4: "d_logits_b4"}[batch]
    got = teacher.discriminator(io["img"][:batch])
    torch.testing.assert_close(got, io[key], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_recorded_logits_in_two_interleaved_groups(teacher: Model, io: Golden) -> None:
    got = teacher.discriminator(torch.cat([io["img"], io["real"]]))
    torch.testing.assert_close(got, io["d_logits_b8_img_then_real"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_truncation_goes_from_w_avg_to_w(model: Model) -> None:
    z = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    mapping = model.generator.mapping
    plain = mapping(z)
    assert torch.equal(mapping(z, truncation_psi=1.0), plain)
    average = mapping(z, truncation_psi=0.0)
    torch.testing.assert_close(average, model.generator.w_avg.expand_as(average))
    half = mapping(z, truncation_psi=0.5, truncation_cutoff=2)
    torch.testing.assert_close(half[:, :2], (plain[:, :2] + average[:, :2]) / 2)
    assert torch.equal(half[:, 2:], plain[:, 2:])
    beyond = mapping(z, truncation_psi=1.5)
    torch.testing.assert_close(beyond, average + 1.5 * (plain - average))


@torch.no_grad()
@pytest.mark.parametrize("c_dim", [0, 3])
def test_a_sample_does_not_depend_on_its_batch(c_dim: int) -> None:
    generator = make_model(c_dim=c_dim).generator
    z = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    c = torch.eye(3)[[0, 1, 2, 0, 1]] if c_dim else None
    together = generator(z, c)
    alone = [generator(z[i : i + 1], None if c is None else c[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(torch.cat(alone), together, **TOLERANCE)


@torch.no_grad()
def test_labels_matter() -> None:
    model = make_model(c_dim=3)
    z, img = torch.randn(2, 6), torch.randn(2, 3, 16, 16)
    a, b = torch.eye(3)[[0, 0]], torch.eye(3)[[1, 1]]
    assert not torch.allclose(model.generator(z, a), model.generator(z, b))
    assert not torch.allclose(model.discriminator(img, a), model.discriminator(img, b))


@torch.no_grad()
def test_noise_modes(model: Model) -> None:
    generator, z = model.generator, torch.zeros(2, 6)
    maps = [torch.zeros(2, *shape) for shape in generator.noise_shapes()]
    torch.testing.assert_close(generator(z, noise=maps), generator(z, noise_mode="none"))
    assert torch.equal(generator(z), generator(z, noise_mode="const"))
    first, second = generator(z, noise_mode="random")
    assert not torch.allclose(first, second)


def test_second_derivatives_exist(model: Model) -> None:
    # R1 and path length regularisation differentiate a gradient.
    img = torch.randn(4, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.discriminator(img).sum(), img, create_graph=True)
    gradient.square().sum().backward()
    for name, parameter in model.discriminator.named_parameters():
        assert parameter.grad is not None or name.endswith("b4.out.bias"), name
    ws = model.generator.mapping(torch.randn(2, 6))
    image = model.generator.synthesis(ws)
    (gradient,) = torch.autograd.grad(
        (image * torch.randn_like(image)).sum(), ws, create_graph=True
    )
    gradient.square().sum().backward()
    weight = model.generator.synthesis.b8.conv0.weight
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("resolution", [4, 8, 16, 32, 64, 128, 256, 512, 1024])
def test_every_resolution_builds(resolution: int) -> None:
    with torch.device("meta"):
        generator = Generator(512, 0, 512, resolution, 3)
        ws = torch.empty(2, generator.num_ws, 512)
        assert generator.synthesis(ws).shape == (2, 3, resolution, resolution)
        if resolution >= 8:
            discriminator = Discriminator(0, resolution, 3)
            img = torch.empty(4, 3, resolution, resolution)
            assert discriminator(img).shape == (4, 1)
            assert discriminator.macs() > 0


def test_minibatch_std_is_its_definition() -> None:
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = minibatch_std(x, 4)
    for group in range(2):  # sample i belongs to group i % 2
        own = x[group::2]
        expected = (own.var(dim=0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[group::2, 3], expected.expand(4, 4, 4))


@pytest.mark.parametrize(
    ("call", "error", "finding"),
    [
        (lambda m: m.generator(torch.zeros(1, 5)), ShapeError, "z must be"),
        (lambda m: m.generator.synthesis(torch.zeros(1, 2, 8)), ShapeError, "ws must be"),
        (lambda m: m.generator(torch.zeros(1, 6), noise_mode="rand"), UsageError, "noise_mode"),
        (lambda m: m.generator(torch.zeros(1, 6), noise=[]), ShapeError, "5 maps"),
        (lambda m: m.generator(torch.zeros(1, 6), noise=[torch.zeros(1)] * 5), ShapeError, "nois"),
        (lambda m: m.discriminator(torch.zeros(1, 3, 8, 8)), ShapeError, "img must be"),
        (lambda m: m.discriminator(torch.zeros(6, 3, 16, 16)), ShapeError, "multiple of 4"),
        (lambda m: setattr(m.generator, "w_avg", torch.zeros(3)), ShapeError, "w_avg"),
        (lambda m: Generator(8, 0, 8, 24, 3), UsageError, "power of two"),
        (lambda m: Discriminator(0, 4, 3), UsageError, "power of two"),
        (lambda m: Generator(8, 0, 8, 4, 3, widths={"b4.const": 1}), UsageError, "misses b4.conv1"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(
    model: Model, call: Callable[[Model], object], error: type[Exception], finding: str
) -> None:
    with pytest.raises(error, match=finding):
        call(model)
