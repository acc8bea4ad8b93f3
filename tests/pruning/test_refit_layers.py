"""What a family says of its layers: columns times a matrix are what the layer gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.models.fitting import FitLayer
from ganc.models.model import Model
from ganc.models.network import ImageGenerator
from ganc.models.sampling import stand_ins
from ganc.models.stylegan3 import SynthesisLayer as Layer3
from ganc.ops.conv2d_resample import conv2d_up
from ganc.pruning.refit.rows import SharedInputs, catch, layer_output, look
from tests.conftest import make_model
from tests.families import FAMILIES, make_stylegan3

CASES: dict[str, Callable[[], Model]] = {
    **FAMILIES,
    "stylegan3": lambda: make_stylegan3(num_layers=2),
    "stylegan2-resnet": lambda: make_model(architecture=("resnet", "resnet")),
    "stylegan2-orig": lambda: make_model(architecture=("orig", "orig")),
    "stylegan2-labels": lambda: make_model(c_dim=3),
    "stylegan3-r": lambda: make_stylegan3(is_rotation_equivariant=True, num_layers=2),
}


def witness(generator: ImageGenerator, layer: FitLayer, caught: dict[str, Any]) -> Tensor:
    """Return what a layer gives [N, C, H, W] as its module computes it, by no column."""
    made = []
    for conv in layer.convs:
        module: Any = generator.get_submodule(conv.module)
        x = caught[conv.module][0]
        if conv.affine is None:
            plain = module(x)
            made.append(plain if module.bias is None else plain - module.bias[:, None, None])
            continue
        weights = module.effective_weight(caught[conv.module][1])
        kernels = weights.shape[-1]
        border = kernels - 1 if isinstance(module, Layer3) else kernels // 2
        for one, weight in zip(x.split(1), weights, strict=True):
            is_up = getattr(module, "up", 1) == 2 and not isinstance(module, Layer3)
            own = conv2d_up(one, weight, module.resample_filter) if is_up else F.conv2d(
                one, weight, padding=border
            )  # fmt: skip
            made.append(own)
    total = torch.cat(made) if layer.convs[0].affine is not None else sum(made)
    assert isinstance(total, Tensor)
    if layer.bias is not None and not layer.demodulates:
        total = total + layer.bias[:, None, None]
    return total


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_columns_and_matrix_give_the_layer(name: str) -> None:
    generator = CASES[name]().generator
    samples = SharedInputs(stand_ins(generator, 0), 3, 3, 0)
    layers = generator.fit_layers()
    assert layers
    caught = catch(generator, samples, range(3), layers)
    for layer in layers:
        seen = look(layer, caught, samples, range(3))
        expected = witness(generator, layer, caught).flatten(2).transpose(1, 2)
        torch.testing.assert_close(layer_output(layer, seen), expected, atol=2e-5, rtol=1e-5)
        assert seen.total.shape[2] in (0, expected.shape[2])


@pytest.mark.parametrize("name", CASES)
def test_every_group_that_is_read_by_a_layer_is_made_by_one(name: str) -> None:
    generator = CASES[name]().generator
    made = {layer.group for layer in generator.fit_layers()} - {None}
    groups = {group.name for group in generator.groups()}
    assert made <= groups
    # What reads no pruned channel needs no fit: constants, Fourier features, the image's first.
    assert groups - made <= {"b4.const", "input", "stem", "enc0"}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_matrix_is_read_as_it_was_written(name: str) -> None:
    for layer in CASES[name]().generator.fit_layers():
        for conv in layer.convs:
            new = torch.randn_like(conv.matrix())
            conv.set_matrix(new)
            torch.testing.assert_close(conv.matrix(), new)
