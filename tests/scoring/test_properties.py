"""What the definitions imply, for every method and a mix, on every family."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc.checkpoints.native import build_model
from ganc.models.model import Model
from ganc.models.network import LatentGenerator, Translator
from ganc.models.style import StyleGenerator
from ganc.scores import Scores
from ganc.scoring.methods import METHODS
from ganc.scoring.score import score
from tests.conftest import make_model
from tests.evaluation.witnesses import write_images
from tests.families import FAMILIES, make_sngan, make_stylegan3, make_unet

SAMPLED: dict[str, dict[str, Any]] = {
    "diversity": {"samples": 2, "batch": 2, "num_directions": 5},
    "content": {"samples": 4, "batch": 2, "noise_prob": 0.3},
    "activation": {"samples": 4, "batch": 2},
    "asv": {"samples": 4, "batch": 2},
    "style": {"samples": 4, "batch": 2},
    "rebuild": {"samples": 4, "batch": 2},
    "l1-out effective": {"samples": 4, "batch": 2, "effective": True},
    "activation:0.7,l1-out:0.3": {"samples": 4, "batch": 2},
}
"""Methods that draw samples, and settings under which they are quick."""
LABELS = [*SAMPLED, "l1-in", "l1-out", "random"]
GRADIENTS = ("diversity", "content")
"""Methods that need latents, and whose definition contains the batch."""


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
    return label not in GRADIENTS or not isinstance(model.generator, Translator)


def run(model: Model, label: str, **changed: Any) -> Scores:
    chosen = SAMPLED.get(label, {}) | changed
    reads_images = label.startswith(("activation", "asv", "rebuild"))
    if reads_images and isinstance(model.generator, Translator):
        chosen["data"] = photos()
    return score(model, label.split()[0], device="cpu", **chosen)


PAIRS = [
    (family, label) for family in FAMILIES for label in LABELS if applies(label, source(family))
]
every_pair = pytest.mark.parametrize(("family", "label"), PAIRS)
before = cache(lambda family, label: run(source(family), label))
exact_before = cache(lambda family, label: exact(source(family), label))


def test_no_method_is_left_out() -> None:
    # But for gates that are learned by their place, not measured: tests/scoring/density.
    measured = {name for name, row in METHODS.items() if not row.is_two_sided}
    assert {label.split()[0] for label in LABELS if ":" not in label} == measured


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


def precise(model: Model, label: str) -> Scores:
    """Return a gradient method's scores in double precision, of latents and noise that are given.

    In single precision a pixel's sign may hang by a rounding, and a feature at leaky ReLU's kink.
    """
    own = Model(generator=copy.deepcopy(model.generator).double())
    random = torch.Generator().manual_seed(0)
    if label == "diversity":
        is_style = isinstance(own.generator, StyleGenerator)
        dim = own.generator.w_dim if is_style else own.generator.z_dim
        points = torch.randn(2, dim, dtype=torch.float64, generator=random)
        directions = torch.eye(dim, dtype=torch.float64)[None, :3]
        return run(own, label, latents=points, directions=directions)
    side, sizes = own.generator.img_resolution, own.generator.noise_shapes()
    z, *noise = (
        torch.randn(4, *shape, dtype=torch.float64, generator=random)
        for shape in [(own.generator.z_dim,), *sizes]
    )
    masks = torch.rand(4, side, side, generator=random) < 0.5
    salt = torch.randint(-1, 2, (4, side, side), generator=random)
    halves = [[maps[at : at + 2] for maps in noise] for at in (0, 2)]
    return run(own, label, latents=z, masks=masks, salt=salt, noise=halves)


def exact(model: Model, label: str) -> Scores:
    """Return scores that two ways of writing the same network share up to rounding."""
    return precise(model, label) if label in GRADIENTS else run(model, label)


@every_pair
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_permuting_channels_permutes_scores(family: str, label: str, data: st.DataObject) -> None:
    model = source(family)
    name, order = data.draw(permutations(model))
    other = permuted(model, name, order)
    old, new = exact_before(family, label), exact(other, label)
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
    if label == "rebuild" and family != "unet_translator":
        uses_seed = True  # it draws pixels; the U-Net is so small that all are looked at
    other = run(source(family), label, seed=1)
    is_same = all(torch.equal(old[group], other[group]) for group in old.values)
    if ":" not in label:  # a mix of so few channels may well rank them alike
        assert is_same != uses_seed
    recorded = other.settings.get("mix", {label: other.settings})
    assert all(own["seed"] == 1 for own in recorded.values())


@pytest.mark.parametrize(
    ("family", "label"),
    [(family, label) for family, label in PAIRS if label in SAMPLED and label not in GRADIENTS],
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
    model.generator.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.tensors().items()}
    run(model, label)
    assert all(torch.equal(state[name], t) for name, t in model.tensors().items())
    assert model.generator.training
    assert not any(p.requires_grad or p.grad is not None for p in model.generator.parameters())
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


@pytest.mark.parametrize(("label", "power"), [("diversity", 2), ("content", 1)])
@pytest.mark.parametrize("factor", [0.25, 2.0, 8.0])
@torch.no_grad()
def test_gradients_follow_the_contrast(label: str, power: int, factor: float) -> None:
    # Louder images mean louder gradients; diversity squares them. Powers of two are exact. The last
    # group is read at torgb's own weight, whose gradient does not contain that weight. Images stay
    # within the noise's -1 and 1: beyond them the sign of x_noisy - x would no longer be its own.
    to_image = [
        name for name, _ in source("stylegan2").generator.named_parameters()
        if "torgb" in name and "affine" not in name
    ]  # fmt: skip
    quiet = scaled(source("stylegan2"), 1 / 64, to_image)
    louder = scaled(quiet, factor, to_image)
    assert louder.generator(torch.randn(50, 6), noise_mode="random").abs().max() < 1
    old, new = run(quiet, label), run(louder, label)
    for group, values in old.values.items():
        gain = 1 if group == "b16.conv1" else factor**power
        torch.testing.assert_close(new[group], gain * values, rtol=1e-6, atol=0, msg=group)


class Rewriting(NamedTuple):
    """Another way to write the same network: one channel's makers times s, its readers over s.

    Attributes:
        group: Whose channel it is.
        makers: Tensors whose row is multiplied.
        is_divided: Whether the weights that consume the channel are divided; something else, a
            norm or demodulation, undoes the factor where they are not.
        powers: Label → the power of s that its score of the channel gets; else it stays.
    """

    family: str
    group: str
    makers: tuple[str, ...]
    is_divided: bool
    powers: Mapping[str, int]


# A style is a factor of the weights that it modulates. So is a batch norm's affine part, seen
# through the ReLU behind it. Gradients of weights that became smaller become larger; diversity
# squares them. Nothing in a ResNet translator is such a factor: its norms have no affine part.
STYLE_POWERS = {"style": 1, "content": 1, "diversity": 2, "l1-out": -1}
NORM_POWERS = {"activation": 1, "asv": 1, "content": 1, "diversity": 2, "l1-out": -1}
REWRITINGS = {
    "style": Rewriting(
        "stylegan2", "b8.conv0",
        ("synthesis.b8.conv1.affine.weight", "synthesis.b8.conv1.affine.bias"), True, STYLE_POWERS,
    ),
    "style of stylegan3": Rewriting(
        "stylegan3", "L1",
        ("synthesis.L2.affine.weight", "synthesis.L2.affine.bias"), True, STYLE_POWERS,
    ),
    "norm": Rewriting(
        "sngan", "block4.conv1", ("block4.norm2.weight", "block4.norm2.bias"), True, NORM_POWERS
    ),
    "norm of a decoder": Rewriting(
        "unet_translator", "dec1", ("dec1.norm.weight", "dec1.norm.bias"), True, NORM_POWERS
    ),
    # What demodulation and instance norm divide by the norm of a filter forgets its size.
    "demodulated": Rewriting(
        "stylegan2", "b8.conv0", ("synthesis.b8.conv0.weight",), False, {"l1-in": 1}
    ),
    "demodulated in stylegan3": Rewriting(
        "stylegan3", "L1", ("synthesis.L1.weight",), False, {"l1-in": 1}
    ),
    "normalised": Rewriting(
        "resnet_translator", "block0.inner", ("block0.conv0.conv.weight",), False, {"l1-in": 1}
    ),
}  # fmt: skip


def rewritten(way: Rewriting, channel: int, factor: float) -> tuple[Model, set[str]]:
    """Return the same network written otherwise, and the groups that own what was changed."""
    model = source(way.family)
    (group,) = (g for g in model.generator.groups() if g.name == way.group)
    tensors = {f"generator.{name}": model.generator.get_parameter(name).detach().clone()
               for name in (*way.makers, *(part.tensor for part in group.scored_by))}  # fmt: skip
    for name in way.makers:
        tensors[f"generator.{name}"][channel] *= factor
    for part in group.scored_by if way.is_divided else ():
        index = torch.tensor(part.indices([channel]))
        weight = tensors[f"generator.{part.tensor}"]
        rest = weight.index_select(part.dim, index) / factor
        weight.index_copy_(part.dim, index, rest)
    touched = {
        g.name for g in model.generator.groups()
        if any(f"generator.{part.tensor}" in tensors for part in g.slices)
    }  # fmt: skip
    return changed(model, tensors), touched


WAYS = [
    (name, label) for name, way in REWRITINGS.items() for label in LABELS
    if applies(label, source(way.family)) and ":" not in label  # ranks follow what they rank
]  # fmt: skip


@pytest.mark.parametrize(("name", "label"), WAYS)
@settings(max_examples=3, deadline=None)
@given(exponent=st.integers(1, 3), channel=st.integers(0, 2))
def test_scores_follow_a_factor_that_images_do_not_show(
    name: str, label: str, exponent: int, channel: int
) -> None:
    # Powers of two are exact; below 1 they would say the same of the other model.
    way, factor = REWRITINGS[name], 2.0**exponent
    other, touched = rewritten(way, channel, factor)
    old, new = exact_before(way.family, label), exact(other, label)
    expected = old[way.group].clone()
    expected[channel] *= factor ** way.powers.get(label, 0)
    # The small constant that an instance norm adds to the variance does not scale with it.
    torch.testing.assert_close(new[way.group], expected, rtol=1e-3, atol=1e-7)
    for group in set(old.values) - touched:
        torch.testing.assert_close(new[group], old[group], rtol=1e-3, atol=1e-7, msg=group)


@pytest.mark.parametrize("name", REWRITINGS)
@torch.no_grad()
def test_such_a_factor_is_not_seen_in_images(name: str) -> None:
    way = REWRITINGS[name]
    model, (other, _) = source(way.family), rewritten(way, 1, 8.0)
    generator = model.generator
    size = (generator.z_dim,) if isinstance(generator, LatentGenerator) else (
        generator.in_channels, 16, 16
    )  # fmt: skip
    inputs = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(other.generator(inputs), generator(inputs), rtol=0, atol=1e-3)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_chance_is_uniform_and_knows_only_seed_and_group(seed: int) -> None:
    narrow, wide = source("sngan"), make_model()
    values = score(wide, "random", seed=seed).values
    assert all(((v >= 0) & (v < 1)).all() for v in values.values())
    renamed = scaled(wide, 3.0, ["synthesis.b4.const"])
    assert all(torch.equal(score(renamed, "random", seed=seed)[g], v) for g, v in values.items())
    assert not torch.equal(score(narrow, "random", seed=seed)["stem"], values["b8.conv1"])
