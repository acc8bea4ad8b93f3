"""What the image-to-image networks share: the slicing invariant, norms, counts, refusals."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ganc.checkpoints.native import build_model
from ganc.errors import ShapeError, UsageError
from ganc.groups import check_groups, mask_consumers
from ganc.models import patchgan as patchgans
from ganc.models import resnet_translator, unet_translator
from ganc.models.model import Model
from ganc.models.network import Network
from ganc.pruning.slicing import PrunePlan, apply_plan
from tests.models import translation
from tests.models.translation import NORMS, images

NETWORKS: dict[str, tuple[Callable[..., Network], Tensor]] = {
    "resnet": (translation.resnet, images(2, 3, 16, 12)),
    "unet": (translation.unet, images(2, 2, 32, 16)),
    "patchgan": (translation.patchgan, images(2, 5, 20, 17)),
}


@st.composite
def keep_sets(draw: st.DrawFn, model: Model) -> dict[str, list[int]]:
    """Random kept channels for a random selection of groups, single channels included."""
    keep = {}
    for group in model.groups:
        if draw(st.booleans()):
            channels = st.sets(st.integers(0, group.width - 1), min_size=1)
            keep[group.name] = sorted(draw(channels))
    return keep


def as_model(network: Network) -> Model:
    role = "discriminator" if network.architecture == "patchgan" else "generator"
    return Model(**{role: network})


@pytest.mark.parametrize("is_training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("name", list(NETWORKS))
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_slicing_equals_zeroing_the_consumers(
    name: str, norm: str, is_training: bool, data: st.DataObject
) -> None:
    build, x = NETWORKS[name]
    model = as_model(build(**NORMS[norm]))
    keep = data.draw(keep_sets(model))
    masked = mask_consumers(model.tensors(), model.groups, keep)
    full = build_model(model.architecture, model.config, masked, []).primary
    sliced = apply_plan(model, PrunePlan(keep)).primary
    with torch.no_grad():
        got, expected = sliced.train(is_training)(x), full.train(is_training)(x)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_group_matters(name: str) -> None:
    # The invariant above would hold for a declaration of nothing: removal must change the output.
    build, x = NETWORKS[name]
    model = as_model(build(norm="instance"))
    check_groups(model.groups, {n: tuple(t.shape) for n, t in model.tensors().items()})
    with torch.no_grad():
        whole = model.primary(x)
        for group in model.groups:
            sliced = apply_plan(model, PrunePlan({group.name: [0]}))
            assert (sliced.primary(x) - whole).abs().max() > 1e-3, group.name


@pytest.mark.parametrize("name", list(NETWORKS))
def test_groups_own_all_widths(name: str) -> None:
    build, _ = NETWORKS[name]
    model = as_model(build(**NORMS["biased_batch"]))
    widths = {group.name: group.width - 1 for group in model.groups}
    plan = PrunePlan({group: range(width) for group, width in widths.items()})
    # Loading is strict: a dimension that no group owns would not fit the config.
    assert apply_plan(model, plan).widths == widths


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("name", list(NETWORKS))
def test_config_rebuilds_the_network(name: str, norm: str) -> None:
    build, x = NETWORKS[name]
    network = build(**NORMS[norm])
    model = as_model(network)
    again = build_model(model.architecture, model.config, model.tensors(), []).primary
    assert again.config == network.config
    assert torch.equal(again(x), network(x))


@pytest.mark.parametrize("norm", ["instance", "affine", "batch", "batch_statistics"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_an_image_alone_equals_the_image_in_a_batch(name: str, norm: str) -> None:
    build, x = NETWORKS[name]
    network = build(**NORMS[norm])
    torch.testing.assert_close(network(x[1:]), network(x)[1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_batch_statistics_are_train_mode_at_batch_1(name: str) -> None:
    build, x = NETWORKS[name]
    running, own = build(norm="batch"), build(norm="batch", norm_statistics="batch")
    train = running.train()(x[:1])
    torch.testing.assert_close(own(x)[:1], train, atol=1e-5, rtol=0)
    assert (running.eval()(x[:1]) - train).abs().max() > 1e-2


def norm_kinds(network: Network) -> set[type[nn.Module]]:
    return {type(norm) for norm in translation.norms(network)}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_published_rules_for_norms_and_biases(name: str) -> None:
    # Batch norm is affine and makes biases redundant; instance norm is plain, with biases.
    build, _ = NETWORKS[name]
    batch, instance = build(norm="batch"), build(norm="instance")
    assert (batch.config["norm_affine"], batch.config["bias"]) == (True, False)
    assert (instance.config["norm_affine"], instance.config["bias"]) == (False, True)
    assert norm_kinds(instance) == {nn.InstanceNorm2d}
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in translation.norms(batch))
    assert norm_kinds(build(norm="none")) == set()


# Counted by the published calculators; transposed convolutions at their output in the second.
PUBLISHED: list[tuple[Callable[[], Network], int, int | None, int]] = [
    (lambda: resnet_translator.Generator(3, 3), 49_551_507_456, 56_799_264_768, 11_378_179),
    (lambda: unet_translator.Generator(3, 3), 6_048_186_368, 18_140_364_800, 54_413_955),
    (lambda: patchgans.Discriminator(6), 3_197_140_992, None, 2_768_705),
    (lambda: patchgans.Discriminator(3, norm="instance"), 3_146_809_344, None, 2_764_737),
]


@pytest.mark.parametrize(("build", "macs", "macs_published", "params"), PUBLISHED)
def test_counts_are_the_published_ones(
    build: Callable[[], Network], macs: int, macs_published: int | None, params: int
) -> None:
    with torch.device("meta"):
        network = build()
    assert network.macs() == macs
    assert network.macs_published() == macs_published
    assert network.params() == params


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("ups_at_output", [False, True])
def test_counts_are_the_products_that_run(name: str, ups_at_output: bool) -> None:
    build, x = NETWORKS[name]
    network = build(img_resolution=32)
    counted = 0

    def count(conv: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal counted
        transposed = isinstance(conv, nn.ConvTranspose2d) and not ups_at_output
        places = (inputs[0] if transposed else output).shape[2:].numel()
        counted += places * conv.weight.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(count)
    network(images(1, x.shape[1], 32))
    assert counted == ((ups_at_output and network.macs_published()) or network.macs())


@pytest.mark.parametrize(
    ("build", "settings", "finding"),
    [
        (translation.resnet, {"norm": "layer"}, "unknown norm `layer`"),
        (translation.unet, {"norm_statistics": "mine"}, "unknown norm_statistics"),
        (translation.resnet, {"num_blocks": -1}, "num_blocks -1 is below 0"),
        (translation.resnet, {"num_downsampling": 0}, "num_downsampling 0 is below 1"),
        (translation.unet, {"num_downs": 1}, "num_downs 1 is below 2"),
        (translation.patchgan, {"num_layers": 0}, "num_layers 0 is below 1"),
        (translation.resnet, {"img_resolution": 30}, "30 is not a multiple of 4"),
        (translation.unet, {"img_resolution": 24}, "24 is not a multiple of 16"),
        (translation.patchgan, {"img_resolution": 11}, "img_resolution 11 is below 12"),
        (translation.patchgan, {"widths": {"conv0": 3, "conv2": 0, "x": 1}},
         "misses conv1, names unknown group x, gives conv2 0 channels"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_refused(
    build: Callable[..., Network], settings: dict[str, Any], finding: str
) -> None:
    with pytest.raises(UsageError, match=finding):
        build(**settings)


@pytest.mark.parametrize(
    ("name", "shape", "finding"),
    [
        ("resnet", (1, 4, 16, 16), r"\[N, 3, H, W\], got \[1, 4, 16, 16\]"),
        ("resnet", (3, 16, 16), r"got \[3, 16, 16\]"),
        ("resnet", (1, 3, 16, 18), "16x18 px do not fit.*multiples of 4, at least 8"),
        ("resnet", (1, 3, 4, 8), "at least 8"),
        ("unet", (1, 2, 16, 24), "multiples of 16, at least 16"),
        ("patchgan", (1, 5, 11, 16), "11x16 px do not fit.*at least 12"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    name: str, shape: tuple[int, ...], finding: str
) -> None:
    build, _ = NETWORKS[name]
    with pytest.raises(ShapeError, match=finding):
        build()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet", (1, 3, 8, 8)), ("unet", (1, 2, 16, 16)), ("patchgan", (1, 5, 12, 12))],
)
def test_smallest_images_pass_in_train_mode(name: str, shape: tuple[int, ...]) -> None:
    build, _ = NETWORKS[name]
    for norm in NORMS.values():
        assert build(**norm).train()(torch.rand(shape)).isfinite().all()
