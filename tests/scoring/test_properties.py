"""What the definitions imply, for every method that looks at no content, on every family."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc.checkpoints.native import build_model
from ganc.models.model import Model
from ganc.models.network import Translator
from ganc.models.style import StyleGenerator
from ganc.scores import Scores
from ganc.scoring.score import METHODS, score
from tests.conftest import make_model
from tests.evaluation.witnesses import write_images
from tests.families import FAMILIES, make_sngan, make_stylegan3, make_unet

SAMPLED: dict[str, dict[str, Any]] = {
    "diversity": {"samples": 2, "batch": 2, "num_directions": 5},
    "activation": {"samples": 4, "batch": 2},
    "asv": {"samples": 4, "batch": 2},
    "style": {"samples": 4, "batch": 2},
    "l1-out effective": {"samples": 4, "batch": 2, "effective": True},
}
"""Methods that draw samples, and settings under which they are quick."""
LABELS = [*SAMPLED, "l1-in", "l1-out", "random"]


@cache
def source(family: str) -> Model:
    return FAMILIES[family]()


@cache
def photos() -> str:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return str(write_images(images, Path(tempfile.mkdtemp()) / "photos"))


def applies(label: str, model: Model) -> bool:
    if label in ("style", "l1-out effective"):
        return isinstance(model.generator, StyleGenerator)
    return label != "diversity" or not isinstance(model.generator, Translator)


def run(model: Model, label: str, **changed: Any) -> Scores:
    chosen = SAMPLED.get(label, {}) | changed
    if label in ("activation", "asv") and isinstance(model.generator, Translator):
        chosen["data"] = photos()
    return score(model, label.split()[0], device="cpu", **chosen)


PAIRS = [
    (family, label) for family in FAMILIES for label in LABELS if applies(label, source(family))
]
every_pair = pytest.mark.parametrize(("family", "label"), PAIRS)
before = cache(lambda family, label: run(source(family), label))


def test_no_method_is_left_out() -> None:
    assert {label.split()[0] for label in LABELS} == set(METHODS) - {"content"}


def changed(model: Model, tensors: Mapping[str, Tensor]) -> Model:
    return build_model(model.architecture, model.config, {**model.tensors(), **tensors}, [])


@st.composite
def permutations(draw: st.DrawFn, model: Model) -> tuple[str, list[int]]:
    """A group of the generator and its channels in another order."""
    group = draw(st.sampled_from(model.generator.groups()))
    return group.name, draw(st.permutations(range(group.width)))


def permuted(model: Model, name: str, order: list[int]) -> Model:
    """Return the model with one group's channels in another order: the same images."""
    (group,) = (g for g in model.groups if g.name == name)
    tensors = model.tensors()
    for part in group.slices:
        index = torch.arange(tensors[part.tensor].shape[part.dim])
        index[part.indices(range(group.width))] = torch.tensor(part.indices(order))
        tensors[part.tensor] = tensors[part.tensor].index_select(part.dim, index)
    return changed(model, tensors)


def precise(model: Model) -> Scores:
    """Return diversity scores in double precision, where no pixel's sign hangs by a rounding."""
    own = Model(generator=copy.deepcopy(model.generator).double())
    dim = own.generator.w_dim if isinstance(own.generator, StyleGenerator) else own.generator.z_dim
    points = torch.randn(2, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions = torch.eye(dim, dtype=torch.float64)[None, :3]
    return run(own, "diversity", latents=points, directions=directions)


@every_pair
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_permuting_channels_permutes_scores(family: str, label: str, data: st.DataObject) -> None:
    model = source(family)
    name, order = data.draw(permutations(model))
    other = permuted(model, name, order)
    if label == "diversity":
        old, new = precise(model), precise(other)
    else:
        old, new = before(family, label), run(other, label)
    for group, values in old.values.items():
        moves = group == name and label != "random"  # chance does not look at the channels
        expected = values[torch.tensor(order)] if moves else values
        # The order of additions changes; asv takes the root of a difference.
        floor = 1e-5 * float(expected.max())
        torch.testing.assert_close(new[group], expected, rtol=1e-4, atol=floor, msg=group)


@every_pair
def test_a_seed_fixes_the_scores(family: str, label: str) -> None:
    old, again = before(family, label), run(source(family), label)
    assert all(torch.equal(old[group], again[group]) for group in old.values)
    uses_seed = label == "random" or (
        label in SAMPLED and not isinstance(source(family).generator, Translator)
    )
    other = run(source(family), label, seed=1)
    is_same = all(torch.equal(old[group], other[group]) for group in old.values)
    assert is_same != uses_seed
    assert other.settings["seed"] == 1


@pytest.mark.parametrize(
    ("family", "label"), [pair for pair in PAIRS if pair[1] in SAMPLED and pair[1] != "diversity"]
)
@pytest.mark.parametrize("batch", [1, 3, 4])
def test_batches_that_are_no_setting_change_nothing(family: str, label: str, batch: int) -> None:
    # asv takes the root of a difference: what moves a feature by 1e-7 moves it by 1e-6.
    old, new = before(family, label), run(source(family), label, batch=batch)
    for group, values in old.values.items():
        torch.testing.assert_close(new[group], values, rtol=1e-5, atol=1e-6, msg=group)


@every_pair
def test_the_model_is_left_alone(family: str, label: str) -> None:
    model = copy.deepcopy(source(family))
    model.generator.train()
    first = next(model.generator.parameters())
    first.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.tensors().items()}
    run(model, label)
    assert all(torch.equal(state[name], t) for name, t in model.tensors().items())
    assert model.generator.training
    assert not first.requires_grad
    assert all(parameter.grad is None for parameter in model.generator.parameters())
    assert not any(module._forward_pre_hooks for module in model.generator.modules())


def scaled(model: Model, factor: float, names: list[str], channel: int | None = None) -> Model:
    """Return the model with tensors of the generator scaled, whole or in one row."""
    tensors = {f"generator.{n}": model.tensors()[f"generator.{n}"].clone() for n in names}
    for tensor in tensors.values():
        part = tensor if channel is None else tensor[channel]
        part.mul_(factor)
    return changed(model, tensors)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["l1-in", "l1-out"])
@given(factor=st.floats(0.01, 100))
@settings(max_examples=5, deadline=None)
def test_norms_are_linear_in_the_weights(family: str, method: str, factor: float) -> None:
    model = source(family)
    weights = [n for n, p in model.generator.named_parameters() if p.ndim > 1]
    new, old = score(scaled(model, factor, weights), method), score(model, method)
    for group, values in old.values.items():
        torch.testing.assert_close(new[group], factor * values, rtol=1e-5, atol=0)


@given(factor=st.floats(-10, 10).filter(lambda x: abs(x) > 0.1), channel=st.integers(0, 6))
@settings(max_examples=5, deadline=None)
def test_norms_of_a_producer_are_its_channels_own(factor: float, channel: int) -> None:
    model = source("stylegan2")
    new = score(scaled(model, factor, ["synthesis.b4.conv1.weight"], channel), "l1-in")
    old = score(model, "l1-in")
    factors = torch.ones(7, dtype=torch.float64)
    factors[channel] = abs(factor)
    torch.testing.assert_close(new["b4.conv1"], factors * old["b4.conv1"], rtol=1e-5, atol=0)
    assert all(torch.equal(new[g], old[g]) for g in old.values if g != "b4.conv1")


MAKERS: dict[str, tuple[Callable[[], Model], str, list[str]]] = {
    # What reaches the consumer is linear in these: a constant, Fourier features mixed by a matrix,
    # and a batch norm in front of a ReLU.
    "stylegan2": (make_model, "b4.const", ["synthesis.b4.const"]),
    "stylegan3": (make_stylegan3, "input", ["synthesis.input.weight"]),
    "sngan": (make_sngan, "block4.conv2", ["norm.weight", "norm.bias"]),
    "unet": (make_unet, "dec1", ["dec1.norm.weight", "dec1.norm.bias"]),
}


@pytest.mark.parametrize("name", MAKERS)
@given(factor=st.floats(0.1, 10), channel=st.integers(0, 2))
@settings(max_examples=4, deadline=None)
def test_features_are_linear_in_what_makes_them(name: str, factor: float, channel: int) -> None:
    make, group, tensors = MAKERS[name]
    model = make()
    louder = scaled(model, factor, tensors, channel)
    for method in ("activation", "asv"):
        old, new = run(model, method)[group], run(louder, method)[group]
        factors = torch.ones_like(old)
        factors[channel] = factor
        # Pixels that hardly vary know their deviation to the last bits of the feature only.
        torch.testing.assert_close(new, factors * old, rtol=1e-3, atol=1e-6)


@given(factor=st.floats(-10, 10).filter(lambda x: abs(x) > 0.1), channel=st.integers(0, 4))
@settings(max_examples=5, deadline=None)
def test_styles_are_linear_in_the_affine_layer(factor: float, channel: int) -> None:
    model = source("stylegan2")
    rows = [f"synthesis.b16.conv0.affine.{part}" for part in ("weight", "bias")]
    new, old = run(scaled(model, factor, rows, channel), "style"), run(model, "style")
    factors = torch.ones(5, dtype=torch.float64)
    factors[channel] = abs(factor)
    torch.testing.assert_close(new["b8.conv1"], factors * old["b8.conv1"], rtol=1e-5, atol=0)
    assert torch.equal(new["b16.conv0"], old["b16.conv0"])


@pytest.mark.parametrize("factor", [0.25, 2.0, 8.0])
def test_diversity_is_quadratic_in_the_contrast(factor: float) -> None:
    # Louder images mean louder gradients, and the score squares them. Powers of two are exact. The
    # last group is read at torgb's own weight, whose gradient does not contain that weight.
    model = source("stylegan2")
    to_image = [n for n, _ in model.generator.named_parameters() if "torgb" in n]
    louder = scaled(model, factor, [n for n in to_image if "affine" not in n])
    old, new = run(model, "diversity"), run(louder, "diversity")
    for group, values in old.values.items():
        gain = 1 if group == "b16.conv1" else factor**2
        torch.testing.assert_close(new[group], gain * values, rtol=1e-6, atol=0, msg=group)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_chance_is_uniform_and_knows_only_seed_and_group(seed: int) -> None:
    narrow, wide = source("sngan"), make_model()
    values = score(wide, "random", seed=seed).values
    assert all(((v >= 0) & (v < 1)).all() for v in values.values())
    renamed = scaled(wide, 3.0, ["synthesis.b4.const"])
    assert all(torch.equal(score(renamed, "random", seed=seed)[g], v) for g, v in values.items())
    assert not torch.equal(score(narrow, "random", seed=seed)["stem"], values["b8.conv1"])
