"""The invariant that ties every family's groups to its forward pass, and the slicing itself."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganc.checkpoints.native import build_model
from ganc.errors import ShapeError, UsageError
from ganc.groups import (
    ChannelGroup,
    Slice,
    check_groups,
    gate_consumers,
    mask_consumers,
    slice_tensors,
    sliced_shapes,
)
from ganc.models.model import Model
from ganc.pruning.slicing import PrunePlan, apply_plan
from tests.conftest import make_model

SOURCES = {
    "plain": lambda: make_model(),
    "conditional": lambda: make_model(c_dim=3),
    "grey": lambda: make_model(img_channels=1),
    "orig": lambda: make_model(architecture=("orig", "orig"), conv_clamp=0.5),
    "skip": lambda: make_model(
        architecture=("skip", "skip"), c_dim=3, conv_clamp=0.5, mbstd_num_channels=0
    ),
    "resnet": lambda: make_model(architecture=("resnet", "resnet"), c_dim=3, conv_clamp=0.5),
}


@cache
def source(name: str) -> Model:
    return SOURCES[name]()


@st.composite
def keep_sets(draw: st.DrawFn, model: Model) -> dict[str, list[int]]:
    """Random kept channels for a random selection of groups, single channels included."""
    keep = {}
    for group in model.groups:
        if group.prunable and draw(st.booleans()):
            channels = st.sets(st.integers(0, group.width - 1), min_size=1)
            keep[group.name] = sorted(draw(channels))
    return keep


def images(model: Model, c_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(7)
    z = torch.randn(4, 6, generator=random)
    img = torch.randn(4, model.generator.img_channels, 16, 16, generator=random)
    c = torch.eye(c_dim)[[0, 1, 2, 0]] if c_dim else None
    with torch.no_grad():
        return model.generator(z, c), model.discriminator(img, c)


@pytest.mark.parametrize("name", list(SOURCES))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_slicing_equals_zeroing_the_consumers(name: str, data: st.DataObject) -> None:
    model = source(name)
    keep = data.draw(keep_sets(model))
    masked = mask_consumers(model.tensors(), model.groups, keep)
    full = build_model(model.architecture, model.config, masked, [])
    sliced = apply_plan(model, PrunePlan(keep))
    c_dim = model.generator.c_dim
    for got, expected in zip(images(sliced, c_dim), images(full, c_dim), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", list(SOURCES))
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_counts_need_no_tensors(name: str, data: st.DataObject) -> None:
    model = source(name)
    keep = data.draw(keep_sets(model))
    shapes = {name: tuple(t.shape) for name, t in model.tensors().items()}
    widths = {name: len(channels) for name, channels in keep.items()}
    sliced = apply_plan(model, PrunePlan(keep))
    expected = {name: tuple(t.shape) for name, t in sliced.tensors().items()}
    assert sliced_shapes(shapes, model.groups, widths) == expected
    assert sliced.widths == {**model.widths, **widths}


def test_identity_plan_is_bit_identical() -> None:
    model = source("plain")
    keep = {group.name: range(group.width) for group in model.groups}
    sliced = slice_tensors(model.tensors(), model.groups, keep)
    for name, tensor in model.tensors().items():
        assert torch.equal(sliced[name], tensor), name


def test_source_is_untouched() -> None:
    model = make_model()
    model.generator.train()
    model.generator.mapping.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.tensors().items()}
    apply_plan(model, PrunePlan({"b8.conv0": [0, 2]}))
    assert all(torch.equal(before[name], t) for name, t in model.tensors().items())
    assert model.generator.training
    assert not any(p.requires_grad for p in model.generator.mapping.parameters())
    assert all(p.requires_grad for p in model.generator.synthesis.parameters())


def test_torgb_gain_is_compensated() -> None:
    # torgb divides by sqrt(fan-in) at run time: 3 channels → 1 makes it sqrt(3) louder.
    model = source("plain")
    sliced = apply_plan(model, PrunePlan({"b16.conv1": [1]}))
    full = model.generator.synthesis.b16.torgb.weight[:, 1]
    torch.testing.assert_close(
        sliced.generator.synthesis.b16.torgb.weight[:, 0], full / 3**0.5, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("keep", "finding"),
    [
        ({"b8.conv9": [0]}, "names group b8.conv9"),
        ({"b8.conv0": []}, "at least one channel"),
        ({"b8.conv0": [2, 1]}, "sorted"),
        ({"b8.conv0": [0, 6]}, "below 6"),
        ({"b8.conv0": [-1]}, "below 6"),
        ({"discriminator.b8.conv1": [0]}, "cannot be pruned"),
    ],
)
def test_invalid_plans_are_refused(keep: dict[str, list[int]], finding: str) -> None:
    with pytest.raises(UsageError, match=finding):
        apply_plan(source("plain"), PrunePlan(keep))


@pytest.mark.parametrize("name", list(SOURCES))
def test_declaration_covers_every_tensor_it_should(name: str) -> None:
    # Every channel dimension that differs between two widths must be owned by a group: build the
    # model at other widths from the config and compare with the shapes the declaration predicts.
    model = source(name)
    check_groups(model.groups, {n: tuple(t.shape) for n, t in model.tensors().items()})
    widths = {g.name: g.width - 1 for g in model.groups if g.prunable}
    plan = PrunePlan({name: range(width) for name, width in widths.items()})
    assert apply_plan(model, plan).widths == {**model.widths, **widths}


def test_slices_know_offset_and_repeat() -> None:
    # A concatenation [a | b | b]: group "b" owns two neighbouring columns per channel from 3 on.
    weight = torch.arange(2 * 7.0).reshape(2, 7)
    a = ChannelGroup("a", 3, (Slice("w", 1, "in"),))
    b = ChannelGroup("b", 2, (Slice("w", 1, "in", offset=3, repeat=2),))
    sliced = slice_tensors({"w": weight}, [a, b], {"a": [0, 2], "b": [1]})
    assert sliced["w"][0].tolist() == [0, 2, 5, 6]
    masked = mask_consumers({"w": weight + 1}, [a, b], {"a": [0, 2], "b": [1]})
    assert (masked["w"][0] == 0).nonzero().flatten().tolist() == [1, 3, 4]


@pytest.mark.parametrize("part", [Slice("w", 1, "in", offset=5), Slice("v", 0, "out")])
def test_declarations_are_checked(part: Slice) -> None:
    with pytest.raises(ShapeError, match="group a"):
        check_groups([ChannelGroup("a", 3, (part,))], {"w": (2, 7)})


def test_gates_multiply_the_consumers_alone() -> None:
    # A concatenation [a | b | b] that one tensor reads, and what makes a and goes along with it.
    tensors = {"w": torch.ones(2, 8), "made": torch.ones(3, 4), "style": torch.ones(3)}
    a = ChannelGroup(
        "a", 3, (Slice("made", 0, "out"), Slice("w", 1, "in"), Slice("style", 0, "style"))
    )
    b = ChannelGroup("b", 2, (Slice("w", 1, "in", offset=3, repeat=2),))
    gates = {"a": torch.tensor([0.5, 0, 2]), "b": torch.tensor([3.0, 0.25])}
    gated = gate_consumers(tensors, [a, b], gates)
    assert list(gated) == ["w"]
    assert gated["w"].tolist() == [[0.5, 0, 2, 3, 3, 0.25, 0.25, 1]] * 2
    assert gate_consumers(tensors, [a, b], {"b": gates["b"]})["w"][0, :3].tolist() == [1, 1, 1]
    assert gate_consumers(tensors, [a, b], {}) == {}


def test_gates_of_several_dimensions_of_one_tensor_multiply() -> None:
    weight = torch.ones(2, 3)
    rows = ChannelGroup("rows", 2, (Slice("w", 0, "in"),))
    columns = ChannelGroup("columns", 3, (Slice("w", 1, "in"),))
    gates = {"rows": torch.tensor([2.0, 3]), "columns": torch.tensor([1.0, 5, 7])}
    gated = gate_consumers({"w": weight}, [rows, columns], gates)
    assert gated["w"].tolist() == [[2, 10, 14], [3, 15, 21]]


def test_gates_keep_their_gradient_and_the_weights_their_type() -> None:
    group = ChannelGroup("a", 3, (Slice("w", 1, "in"),))
    weight = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    gates = torch.tensor([1.0, 0, 0.5], requires_grad=True)
    gated = gate_consumers({"w": weight}, [group], {"a": gates})["w"]
    assert gated.dtype == torch.float64
    gated.sum().backward()
    assert gates.grad.tolist() == [2, 2, 2]  # of a closed gate too
    assert weight.grad.tolist() == [[1, 0, 0.5]] * 2


def test_a_spectral_norm_keeps_its_sigma_or_says_so() -> None:
    part = Slice("w", 1, "in", spectral_norm=True)
    group = ChannelGroup("a", 3, (part,))
    random = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=random)
        for name, shape in (("w", (4, 3)), ("w_u", (4,)), ("w_v", (3,)))
    }
    sigma = tensors["w_u"] @ tensors["w"] @ tensors["w_v"]
    gated = gate_consumers(tensors, [group], {"a": torch.tensor([0.0, 0.5, 1])})
    assert list(gated) == ["w", "w_u"]
    torch.testing.assert_close(gated["w_u"] @ gated["w"] @ tensors["w_v"], sigma)
    with pytest.raises(UsageError, match="leaves nothing of its spectral norm"):
        gate_consumers(tensors, [group], {"a": torch.zeros(3)})
