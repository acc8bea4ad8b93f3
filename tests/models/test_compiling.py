"""Every generator is one graph to torch.compile, with autocast and without."""

from collections.abc import Callable

import pytest
import torch

from ganc.models.model import Model
from ganc.models.network import LatentGenerator
from tests.conftest import make_model
from tests.families import make_resnet, make_sngan, make_stylegan3, make_unet

MAKERS: dict[str, Callable[[], Model]] = {
    "stylegan2": make_model,
    "conditional stylegan2": lambda: make_model(c_dim=3),
    "stylegan3-t": make_stylegan3,
    "stylegan3-r": lambda: make_stylegan3(is_rotation_equivariant=True),
    "sngan": make_sngan,
    "unet": make_unet,
    "resnet": make_resnet,
}


@pytest.mark.parametrize("lowered", [False, True])
@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_generator_is_one_graph(name: str, lowered: bool) -> None:
    generator = MAKERS[name]().generator
    if isinstance(generator, LatentGenerator):
        c = torch.eye(generator.c_dim)[:2] if generator.c_dim else None
        inputs = (torch.randn(2, generator.z_dim), c)
    else:
        inputs = (torch.randn(2, generator.in_channels, 16, 16),)
    with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
        expected = generator(*inputs)
        torch.compiler.reset()
        # "eager" runs what was traced as it is; fullgraph raises at whatever cannot be traced.
        made = torch.compile(generator, backend="eager", fullgraph=True)(*inputs)
    torch.compiler.reset()
    torch.testing.assert_close(made, expected)
