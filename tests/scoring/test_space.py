"""The spaces that diversity directions live in, and scores of a generator without a W."""

import pytest
import torch

from ganc.errors import InputError, ShapeError, UsageError
from ganc.models import patchgan, resnet_translator, sngan
from ganc.models.model import Model
from ganc.scoring.request import ScoreRequest
from ganc.scoring.score import score
from ganc.scoring.space import InputSpace, StyleSpace, latent_space
from tests.conftest import make_model, randomise

WIDTHS = {"stem": 6, "block2.conv1": 5, "block2.conv2": 4}


def make_sngan() -> Model:
    generator = sngan.Generator(7, 8, 3, bottom_width=4, widths=WIDTHS)
    randomise(generator, 1)
    with torch.no_grad():
        for name, buffer in generator.named_buffers():
            if name.endswith("running_var"):
                buffer.abs_().add_(0.5)
    return Model(generator=generator.eval())


def test_the_space_is_w_where_there_is_one() -> None:
    request = ScoreRequest(samples=4, batch=2, alpha=5.0, gradient="both")
    assert isinstance(latent_space(make_model().generator, request), StyleSpace)
    assert isinstance(latent_space(make_sngan().generator, request), InputSpace)


def test_directions_in_z_are_the_principal_components_of_the_first_layer() -> None:
    # Witness: PCA of a million outputs of the first layer, traced back to z by least squares.
    generator = make_sngan().generator
    request = ScoreRequest(samples=4, batch=2, alpha=5.0, gradient="both")
    directions, share = InputSpace(generator, request).principal_directions()
    z = torch.randn(200_000, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    features = z @ generator.first_weight().detach().double().T
    variance, vectors = torch.linalg.eigh(torch.cov(features.T))
    top = vectors[:, -1]
    traced = torch.linalg.lstsq(z, (features @ top)[:, None]).solution[:, 0]
    traced = traced / traced.norm()
    assert abs(torch.dot(traced, directions[0].double())) > 0.999
    largest = variance.flip(0)[:7]
    torch.testing.assert_close(share, largest / largest.sum(), atol=0.01, rtol=0)
    identity = directions @ directions.T
    torch.testing.assert_close(identity, torch.eye(7), atol=1e-5, rtol=0)


def test_definition_on_a_generator_without_w() -> None:
    # One batch, two directions, the loss and its gradient written out: (s_1 - s_2)² / 2.
    model = make_sngan()
    generator = model.generator
    z = torch.randn(3, 7, generator=torch.Generator().manual_seed(3))
    directions = torch.eye(7)[None, :2]
    got = score(model, "diversity", samples=3, batch=3, latents=z, directions=directions, alpha=0.5)
    sensitivity = []
    for direction in directions[0]:
        generator.zero_grad()
        (generator(z + 0.5 * direction) - generator(z)).abs().sum().backward()
        weight = generator.block2.conv1.weight
        sensitivity.append(weight.grad.abs().double().mean(dim=(0, 2, 3)))
    expected = (sensitivity[0] - sensitivity[1]).square() / 2
    assert expected.min() > 1e-9
    torch.testing.assert_close(got["stem"], expected, rtol=1e-4, atol=0)
    assert got.settings["alpha"] == 0.5
    assert got.settings["gradient"] == "both"


def test_drawn_scores_do_not_depend_on_the_run() -> None:
    model = make_sngan()
    options = {"samples": 6, "batch": 3, "num_directions": 4}
    first, again = (score(model, "diversity", **options) for _ in range(2))
    assert dict(first).keys() == model.widths.keys()
    assert all(torch.equal(first[name], again[name]) for name in first.keys())  # noqa: SIM118
    other = score(model, "diversity", seed=1, **options)
    assert not torch.equal(first["stem"], other["stem"])


def test_what_has_no_latents_is_refused() -> None:
    translator = resnet_translator.Generator(3, 3, num_blocks=1, base_width=2, img_resolution=16)
    with pytest.raises(UsageError, match="a resnet_translator has none"):
        score(Model(generator=translator), "diversity")
    with pytest.raises(InputError, match="no generator to score"):
        score(Model(discriminator=patchgan.Discriminator(3, base_width=2)), "l1-out")
    with pytest.raises(ShapeError, match=r"latents must be z vectors \[4, 7\]"):
        score(make_sngan(), "diversity", latents=torch.zeros(4, 3))
    with pytest.raises(UsageError, match="no truncation"):
        score(make_sngan(), "diversity", samples=2, batch=2, truncation_psi=0.7)
