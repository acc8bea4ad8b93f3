"""What holds for every family: a row in ``tests.families.FAMILIES`` is all that a new one adds."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc.checkpoints.header import read_header
from ganc.checkpoints.native import build_model
from ganc.checkpoints.store import load, save
from ganc.groups import check_groups, mask_consumers
from ganc.models.model import ARCHITECTURES, Model
from ganc.models.network import LatentGenerator
from ganc.pruning.plan import prune
from ganc.pruning.slicing import PrunePlan, apply_plan
from ganc.scoring.score import score
from tests.families import FAMILIES
from tests.test_groups import keep_sets

every_family = pytest.mark.parametrize("name", list(FAMILIES))


@cache
def source(name: str) -> Model:
    return FAMILIES[name]()


@torch.no_grad()
def image(model: Model) -> Tensor:
    generator = model.generator
    random = torch.Generator().manual_seed(4)
    if isinstance(generator, LatentGenerator):
        return generator(torch.randn(2, generator.z_dim, generator=random))
    side = generator.img_resolution
    return generator(torch.randn(2, generator.in_channels, side, side, generator=random))


def test_no_family_is_left_out() -> None:
    generators = {name for name, family in ARCHITECTURES.items() if family.generator is not None}
    assert set(FAMILIES) == generators
    assert all(source(name).architecture == name for name in FAMILIES)


@every_family
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_slicing_equals_zeroing_the_consumers(name: str, data: st.DataObject) -> None:
    model = source(name)
    keep = data.draw(keep_sets(model))
    masked = mask_consumers(model.tensors(), model.groups, keep)
    full = build_model(name, model.config, masked, [])
    sliced = apply_plan(model, PrunePlan(keep))
    torch.testing.assert_close(image(sliced), image(full), atol=1e-4, rtol=0)


@every_family
def test_declaration_covers_every_tensor(name: str) -> None:
    # A channel less everywhere: the tensors fit a network built at those widths only if every
    # dimension that depends on a width is some group's.
    model = source(name)
    check_groups(model.groups, {key: tuple(t.shape) for key, t in model.tensors().items()})
    widths = {g.name: g.width - 1 for g in model.groups if g.prunable and g.width > 1}
    sliced = apply_plan(model, PrunePlan({group: range(n) for group, n in widths.items()}))
    assert sliced.widths == model.widths | widths


@every_family
def test_file_is_read_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, path = source(name), tmp_path / "model.safetensors"
    save(model, path)
    again, header = load(path), read_header(path)
    assert torch.equal(image(again), image(model))
    assert again.content_hash() == model.content_hash()
    assert json.loads(json.dumps(model.config)) == again.config
    assert (header.architecture, header.widths) == (name, model.widths)
    assert (header.params, header.macs) == (model.params(), model.macs())


@every_family
@pytest.mark.parametrize("method", ["l1-out", "random"])
def test_budget_is_met(name: str, method: str) -> None:
    model = source(name)
    scores = score(model, method, device="cpu")
    pruned = prune(model, scores, macs=0.6 * model.macs())
    assert pruned.macs() <= 0.6 * model.macs()
    assert image(pruned).shape == image(model).shape
    for group in model.generator.groups():
        assert scores.values[group.name].shape == (group.width,)
