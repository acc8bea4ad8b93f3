"""Patch discriminators with spectral norm, against torch's own, in both of its spellings."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ganc.errors import CheckpointError, UsageError
from ganc.groups import check_groups, mask_consumers, slice_tensors
from ganc.models.model import Model, build_network
from ganc.models.patchgan import Discriminator
from tests.checkpoints.wrapped import inferred, loaded
from tests.models.translation import images
from tests.test_groups import keep_sets

SPELLINGS: dict[str, Callable[..., nn.Module]] = {
    "weight_orig": nn.utils.spectral_norm,
    "parametrizations": nn.utils.parametrizations.spectral_norm,
}


def public(spelling: str, *, plain: tuple[int, ...] = (), norm: Any = None) -> nn.Sequential:
    """Build a 70-pixel discriminator's shape as projects do, two layers of stride 2."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(((3, 5), (5, 4), (4, 6), (6, 1))):
        conv = nn.Conv2d(before, after, 4, stride=2 if i < 2 else 1, padding=1,
                         bias=norm is None or i in (0, 3))  # fmt: skip
        layers.append(conv if i in plain else SPELLINGS[spelling](conv))
        if norm is not None and 0 < i < 3:
            layers.append(norm(after))
        layers.append(nn.LeakyReLU(0.2))
    network = nn.Sequential(*layers[:-1])
    for _ in range(3):  # vectors that are near the singular ones, not at them
        network(torch.randn(2, 3, 32, 32))
    return network.eval()


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("plain", [(), (0, 3), (1,)])
@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d, nn.InstanceNorm2d])
@torch.no_grad()
def test_logits_are_torchs(spelling: str, plain: tuple[int, ...], norm: Any) -> None:
    network = public(spelling, plain=plain, norm=norm)
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    model = loaded({"netD": state})
    discriminator = model.discriminator
    x = images(2, 3, 32)
    torch.testing.assert_close(discriminator(x), network(x), atol=1e-6, rtol=1e-5)
    spectral = [f"conv{i}" if i < 3 else "out" for i in range(4) if i not in plain]
    assert discriminator.config["spectral_norm"] == spectral
    # A training pass improves the vectors first, as torch's does; the newer code begins with u.
    if spelling == "weight_orig":
        judged = discriminator.train()(x)
        torch.testing.assert_close(judged, network.train()(x), atol=1e-5, rtol=1e-4)
    shown = {
        None: "none (assumed)",
        nn.BatchNorm2d: "batch",
        nn.InstanceNorm2d: "instance (assumed)",
    }
    assert inferred(model)["norm"] == shown[norm]


def test_the_norm_is_assumed_and_the_users_to_change() -> None:
    network = public("weight_orig")
    state = network.state_dict()
    assert inferred(loaded(state))["norm"] == "none (assumed)"
    biased = public("weight_orig", norm=nn.InstanceNorm2d)
    assert inferred(loaded(biased.state_dict()))["norm"] == "instance (assumed)"


@pytest.mark.parametrize("missing", ["0.weight_u", "2.weight_v"])
def test_a_weight_without_its_vectors_is_refused(missing: str) -> None:
    state = {k: t for k, t in public("weight_orig").state_dict().items() if k != missing}
    with pytest.raises(CheckpointError, match="of a spectral norm, got"):
        loaded(state)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_both_spellings_of_an_sngan(spelling: str) -> None:
    import re

    from tests.conftest import GOLDEN

    path = GOLDEN / "files" / "mimicry" / "netD_100000_steps.pth"
    state = torch.load(path, weights_only=True)["model_state_dict"]
    new = {"weight_orig": "parametrizations.weight.original",
           "weight_u": "parametrizations.weight.0._u",
           "weight_v": "parametrizations.weight.0._v"}  # fmt: skip
    respelled = {
        re.sub(r"weight_(orig|u|v)$", lambda m: new[m[0]], name): tensor
        for name, tensor in state.items()
    }
    tree = respelled if spelling == "parametrizations" else state
    expected: Tensor = loaded(state).discriminator(images(2, 3, 32))
    assert torch.equal(loaded(tree).discriminator(images(2, 3, 32)), expected)


SPECTRAL = {"num_layers": 2, "widths": {"conv0": 5, "conv1": 4, "conv2": 6}, "norm": "none"}


@settings(max_examples=20, deadline=None)
@given(st.data())
@torch.no_grad()
def test_slicing_equals_zeroing_the_consumers(data: st.DataObject) -> None:
    torch.manual_seed(0)
    layers = data.draw(st.sets(st.sampled_from(["conv0", "conv1", "conv2", "out"]), min_size=1))
    network = Discriminator(3, **SPECTRAL, spectral_norm=sorted(layers), bias=True).eval()
    groups = network.groups()
    check_groups(groups, network.shapes())
    model = Model(discriminator=network)
    keep = {n.removeprefix("discriminator."): k for n, k in data.draw(keep_sets(model)).items()}
    masked = mask_consumers(network.state_dict(), groups, keep)
    sliced = slice_tensors(network.state_dict(), groups, keep)
    widths = {g.name: len(keep.get(g.name, range(g.width))) for g in groups}
    small = build_network("patchgan", "discriminator", network.config | {"widths": widths}, sliced)
    network.load_state_dict(masked)
    # The slice's own numbers are float32; a small sigma makes large images, whose sums are not.
    x = images(2, 3, 24).double()
    torch.testing.assert_close(small.double()(x), network.double()(x), atol=1e-5, rtol=1e-5)


def test_unknown_layers_are_named() -> None:
    with pytest.raises(UsageError, match="spectral_norm `conv9`"):
        Discriminator(3, spectral_norm=["conv9"])
    assert "spectral_norm" not in Discriminator(3, base_width=2).config
