"""What autocast must not round: whatever follows from w, and where StyleGAN3's waves lie."""

import pytest
import torch

from ganc.models.model import Model
from ganc.models.style import StyleGenerator
from tests.conftest import make_model
from tests.families import make_stylegan3


@pytest.mark.parametrize("model", [make_model(c_dim=3), make_stylegan3(c_dim=2)])
def test_w_is_exact_under_autocast(model: Model) -> None:
    generator = model.generator
    assert isinstance(generator, StyleGenerator)
    z, c = torch.randn(2, generator.z_dim), torch.eye(generator.c_dim)[:2]
    exact = generator.mapping(z, c)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(generator.mapping(z, c), exact, rtol=0, atol=0)
        # What follows is rounded: autocast itself was on.
        assert (z @ z.t()).dtype == torch.bfloat16


def test_fourier_features_are_exact_under_autocast() -> None:
    generator = make_stylegan3().generator
    waves = generator.synthesis.input
    w = torch.randn(2, generator.w_dim)
    exact = waves(w)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(waves(w), exact, rtol=0, atol=0)
