"""Files of pix2pix and CycleGAN, with the oddities that users have, and their relatives."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc.checkpoints import junyanz
from ganc.checkpoints.normalise import find
from ganc.checkpoints.store import import_checkpoints, load, save
from ganc.errors import CheckpointError
from ganc.models.network import Network
from ganc.models.resnet_translator import default_widths
from ganc.models.translation import ConvLayer
from tests.checkpoints import wrapped
from tests.checkpoints.wrapped import loaded
from tests.conftest import GOLDEN
from tests.models import translation
from tests.models.translation import NORMS, fill, images, published_state

State = dict[str, Tensor]
FILES = GOLDEN / "files"
BUILD: dict[str, Callable[..., Network]] = {
    "resnet": translation.resnet,
    "unet": translation.unet,
    "patchgan": translation.patchgan,
}


def inferred(tree: Any) -> dict[str, Any]:
    return wrapped.inferred(loaded(tree))


def assert_same(network: Network, expected: Network) -> None:
    """Compare tensors and outputs, bit for bit."""
    assert network.config["widths"] == expected.config["widths"]
    assert network.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
    x = images(1, expected.config["in_channels"], 32)
    assert torch.equal(network(x), expected(x))


def refused(tree: Any) -> str:
    """Load a tree that must not load; return the error."""
    with pytest.raises(CheckpointError) as caught:
        loaded(tree)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "build"),
    [
        ("junyanz-cyclegan/latest_net_G_A.pth", lambda: translation.ResNet(3, 3, base_width=6)),
        ("junyanz-pix2pix/latest_net_G.pth",
         lambda: translation.UNet(3, 3, num_downs=7, base_width=4)),
        ("junyanz-patchgan/latest_net_D.pth", lambda: translation.Discriminator(6, base_width=8)),
    ],
)  # fmt: skip
def test_the_names_that_these_tests_write_are_the_published_ones(
    file: str, build: Callable[[], Network]
) -> None:
    published = torch.load(FILES / file, weights_only=True)
    ours = published_state(build())
    assert {k: t.shape for k, t in ours.items()} == {k: t.shape for k, t in published.items()}
    assert list(ours) == list(published)


@pytest.mark.parametrize("norm", [name for name in NORMS if name != "batch_statistics"])
@pytest.mark.parametrize("name", list(BUILD))
def test_every_norm_is_told_from_the_tensors(name: str, norm: str) -> None:
    network = BUILD[name](**NORMS[norm])
    model = loaded(published_state(network))
    assert_same(model.primary, network)
    for key in ("norm", "norm_affine", "bias"):
        assert model.primary.config[key] == network.config[key]


@pytest.mark.parametrize("num_downsampling", [1, 2, 3])
@pytest.mark.parametrize("num_blocks", [0, 1, 3])
def test_resnets_of_any_depth(num_downsampling: int, num_blocks: int) -> None:
    # Equal widths everywhere: the shapes leave open what is a block.
    names = default_widths(num_blocks, num_downsampling, 4)
    network = fill(
        translation.ResNet(
            3, 3, num_blocks=num_blocks, num_downsampling=num_downsampling,
            widths=dict.fromkeys(names, 4),
        )
    )  # fmt: skip
    state = published_state(network)
    if num_blocks:
        assert_same(loaded(state).primary, network)
    else:  # nothing is nested: what is published comes first
        assert loaded(state).primary.config["num_downsampling"] == min(2, num_downsampling)


@pytest.mark.parametrize("num_downs", [2, 3, 6])
def test_unets_of_any_depth(num_downs: int) -> None:
    network = fill(translation.UNet(1, 4, num_downs=num_downs, base_width=2))
    model = loaded(published_state(network))
    assert model.primary.img_resolution == 2**num_downs
    torch.testing.assert_close(model.primary.state_dict(), network.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("num_layers", [1, 2, 5, 7])
def test_patch_discriminators_of_any_depth(num_layers: int) -> None:
    settings = {"num_layers": num_layers, "base_width": 2, "img_resolution": 512}
    network = fill(translation.Discriminator(3, **settings))
    discriminator = loaded(published_state(network)).discriminator
    assert discriminator.config["num_layers"] == num_layers
    assert torch.equal(discriminator(images(1, 3, 384)), network(images(1, 3, 384)))


def with_old_buffers(state: State) -> State:
    """Add what instance norm stored before 2018: running averages behind every convolution."""
    added: State = {}
    for key, tensor in state.items():
        added[key] = tensor
        module, part = key.rsplit(".", 1)
        if part == "bias" and key != list(state)[-1]:
            number = int(module.rsplit(".", 1)[1])
            norm = f"{module.rsplit('.', 1)[0]}.{number + 1}"
            added |= {
                f"{norm}.running_mean": torch.randn(len(tensor)),
                f"{norm}.running_var": torch.rand(len(tensor)),
            }
    return added


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {f"_orig_mod.module.{key}": tensor for key, tensor in state.items()},
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {}}},
        lambda state: {"model": state},
        lambda state: {key: state[key] for key in sorted(state)},
        lambda state: {k.replace("conv_block", "block"): t for k, t in state.items()},
        lambda state: {f"{k.replace('.', '_', 1)}": t for k, t in state.items()},
    ],
    ids=["module", "orig_mod", "state_dict", "model", "sorted", "block", "other"],
)
@pytest.mark.parametrize("name", list(BUILD))
def test_names_do_not_matter(name: str, change: Callable[[State], Any]) -> None:
    network = BUILD[name](norm="instance", norm_affine=True)
    assert_same(loaded(change(published_state(network))).primary, network)


def test_sequential_files_of_other_projects() -> None:
    # Another nesting, blocks numbered apart, no name in common with junyanz's.
    network = translation.resnet(norm_affine=True)
    parts = ["initial.0", "initial.1", "down.0.conv.0", "down.0.conv.1", "down.1.conv.0"]
    parts += ["down.1.conv.1"]
    parts += [f"res.{b}.block.{c}.conv.{p}" for b in (0, 1) for c in (0, 1) for p in (0, 1)]
    parts += [f"up.{i}.conv.{p}" for i in (0, 1) for p in (0, 1)] + ["last"]
    modules = dict.fromkeys(key.rsplit(".", 1)[0] for key in published_state(network))
    renamed = dict(zip(modules, parts, strict=True))
    state = {
        f"{renamed[key.rsplit('.', 1)[0]]}.{key.rsplit('.', 1)[1]}": tensor
        for key, tensor in published_state(network).items()
    }
    assert_same(loaded(state).primary, network)


def test_old_instance_norm_buffers_are_dropped_and_said() -> None:
    network = translation.resnet()
    state = with_old_buffers(published_state(network))
    assert len(state) == len(published_state(network)) + 2 * len(translation.norms(network))
    assert_same(loaded(state).primary, network)
    assert inferred(state)["dropped"].startswith("18 buffers of instance norms")


def test_missing_num_batches_tracked_is_filled_and_said() -> None:
    network = translation.unet()
    state = {k: t for k, t in published_state(network).items() if "num_batches" not in k}
    generator = loaded(state).generator
    assert generator.enc1.norm.num_batches_tracked == 0
    x = images(1, 2, 32)
    assert torch.equal(generator(x), network(x))
    assert inferred(state)["filled"].startswith("5 num_batches_tracked")


@pytest.mark.parametrize("use_dropout", [False, True])
def test_the_dropout_slot_of_a_resnet_is_seen(use_dropout: bool) -> None:
    network = translation.resnet(use_dropout=use_dropout)
    state = published_state(network)
    assert f"model.10.conv_block.{5 + use_dropout}.weight" in state
    assert loaded(state).generator.config["use_dropout"] is use_dropout
    assert inferred(state)["use_dropout"] is use_dropout


def test_half_precision_becomes_single() -> None:
    state = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in published_state(translation.unet()).items()
    }
    tensors = loaded(state).generator.state_dict()
    assert {t.dtype for t in tensors.values()} == {torch.float32, torch.int64}


def test_what_is_assumed_is_said() -> None:
    found = inferred(published_state(translation.unet()))
    assert found["architecture"] == "unet_translator"
    assert (found["num_downs"], found["norm"]) == (4, "batch")
    assert found["use_dropout"] == "False (assumed)"
    assert found["norm_statistics"] == "running (assumed)"
    found = inferred(published_state(translation.resnet()))
    assert (found["num_blocks"], found["num_downsampling"]) == (2, 2)
    assert found["img_resolution"] == "256 (assumed)"
    assert found["padding"] == "reflect (assumed)"
    assert "norm_statistics" not in found


def test_four_files_make_a_cyclegan(tmp_path: Path) -> None:
    resnet, patchgan = translation.resnet(), translation.patchgan()
    paths = []
    for name, network in (("G_A", resnet), ("D_A", patchgan), ("G_B", resnet), ("D_B", patchgan)):
        paths.append(tmp_path / f"latest_net_{name}.pth")
        torch.save(published_state(network), paths[-1])
    model = import_checkpoints(paths)
    names = [name for name, _ in model.networks()]
    assert names == ["generator", "discriminator", "generator_b", "discriminator_b"]
    save(model, tmp_path / "cyclegan.safetensors")
    assert_same(load(tmp_path / "cyclegan.safetensors").generator_b, resnet)


def test_architecture_must_agree() -> None:
    state = published_state(translation.unet())
    assert loaded(state, architecture="unet_translator").architecture == "unet_translator"
    with pytest.raises(CheckpointError, match="holds unet_translator, not patchgan"):
        loaded(state, architecture="patchgan")


def inserted(state: State, before: str, new: State) -> State:
    """Put tensors in front of a key."""
    changed: State = {}
    for key, tensor in state.items():
        changed |= (new if key == before else {}) | {key: tensor}
    return changed


def attention(state: State) -> State:
    maps = {f"model.8.{part}.weight": torch.zeros(7, 7, 1, 1) for part in ("query", "key")}
    return inserted(state, "model.10.conv_block.1.weight", maps)


def attention_with_gate(state: State) -> State:
    return inserted(state, "model.7.weight", {"model.6.gamma": torch.zeros(1)})


def one_dimensional(state: State) -> State:
    return {**state, "model.7.weight": torch.zeros(7, 6, 3)}


def upsampling(state: State) -> State:
    return {**state, "model.12.weight": state["model.12.weight"].transpose(0, 1)}


def separable(state: State) -> State:
    return {**state, "model.10.conv_block.1.weight": torch.zeros(7, 1, 3, 3)}


def broken_chain(state: State) -> State:
    return {**state, "model.4.weight": torch.zeros(6, 4, 3, 3)}


def without_bias(state: State) -> State:
    return {key: tensor for key, tensor in state.items() if key != "model.7.bias"}


def longer(state: State) -> State:
    return {**state, "model.30.weight": torch.zeros(2, 2, 1, 1)}


def truncated(state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.startswith("model.19")}


def spectral(state: State) -> State:
    return {key.replace("4.weight", "4.weight_orig"): tensor for key, tensor in state.items()}


def zero_padded(state: State) -> State:
    numbers = {"1": "0", "5": "3"}
    return {
        re.sub(r"block\.(\d)", lambda m: f"block.{numbers[m[1]]}", key): tensor
        for key, tensor in state.items()
    }


def two_norms(state: State) -> State:
    norms = {f"model.{n}.weight": torch.zeros(5) for n in (2, 3)}
    return inserted(state, "model.4.weight", norms)


def a_norm_first(state: State) -> State:
    return {"model.0.weight": torch.zeros(3), **state}


def one_norm_missing(state: State) -> State:
    return inserted(state, "model.4.weight", {"model.2.weight": torch.ones(5),
                                              "model.2.bias": torch.ones(5)})  # fmt: skip


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (attention, r"model.8.query.weight has shape [7, 7, 1, 1], expected"),
        (attention_with_gate, "model.6.gamma does not fit"),
        (one_dimensional, "model.7.weight has shape [7, 6, 3], expected a convolution"),
        (
            upsampling,
            "model.12.weight has shape [3, 7, 3, 3], expected [7, 7, 3, 3] (up1, a transposed",
        ),
        (separable, "model.10.conv_block.1.weight has shape [7, 1, 3, 3], expected [7, 7, 3, 3]"),
        (
            broken_chain,
            "model.4.weight has shape [6, 4, 3, 3], expected [6, 5, 3, 3] (down1, a conv",
        ),
        (without_bias, "model.7.weight comes without a conv.bias"),
        (longer, "model.30.weight does not fit: the resnet_translator ends before it"),
        (truncated, "it ends with model.15.weight"),
        (spectral, "model.4.weight_orig does not fit: expected weight_orig, weight_u and"),
        (zero_padded, "model.10.conv_block.0.weight does not fit: nothing comes before it"),
        (two_norms, "model.3.weight does not fit: expected a convolution before this norm"),
        (a_norm_first, "model.0.weight does not fit: expected a convolution before this norm"),
        (one_norm_missing, "model.4.weight comes without a norm.weight, expected [6] (down1"),
    ],
)
def test_what_does_not_fit_a_resnet_is_named(
    change: Callable[[State], State], finding: str
) -> None:
    assert finding in refused(change(published_state(translation.resnet())))


def test_what_does_not_fit_a_unet_is_named() -> None:
    state = published_state(translation.unet())
    innermost = "model.model.1.model.3.model.3.model"
    assert f"{innermost}.1.weight" in state
    norm = {f"{innermost}.2.{part}": torch.ones(6) for part in ("weight", "bias")}
    found = refused(inserted(state, f"{innermost}.3.weight", norm))
    assert f"{innermost}.2.weight does not fit: expected no norm.weight in enc3" in found
    attention = {"model.model.2.query.weight": torch.zeros(8, 8, 1, 1)}
    found = refused(inserted(state, "model.model.1.model.5.weight", attention))
    assert "model.model.2.query.weight has shape [8, 8, 1, 1], expected" in found


def test_pixel_discriminators_are_refused_by_name() -> None:
    sizes = {"net.0": (8, 3), "net.2": (16, 8), "net.5": (1, 16)}
    state = {f"{name}.weight": torch.zeros(*size, 1, 1) for name, size in sizes.items()}
    assert "net.5.weight is a 1x1 convolution: pixel discriminators" in refused(state)


@pytest.mark.parametrize(
    ("kernels", "finding"),
    [
        ([7], "it ends with model.0.weight: expected at least 2 3x3 convolutions, got 0"),
        ([4, 4, 3], "it ends with model.2.weight: expected at least 4 4x4 convolutions, got 2"),
    ],
)
def test_networks_of_too_few_layers_are_refused(kernels: list[int], finding: str) -> None:
    state = {f"model.{i}.weight": torch.zeros(2, 2, k, k) for i, k in enumerate(kernels)}
    assert finding in refused(state)


def test_two_networks_in_one_state_dict_without_telling_names_are_refused() -> None:
    there, back = translation.resnet(), translation.resnet()
    state = {f"{name}.{key}": tensor for name, network in (("first", there), ("second", back))
             for key, tensor in published_state(network).items()}  # fmt: skip
    assert "could be the generator: first, second" in refused(state)


@functools.cache
def whole_state(name: str) -> dict[str, Tensor]:
    return published_state(BUILD[name](norm="batch"))


@pytest.mark.parametrize("name", list(BUILD))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_damaged_state_is_refused_never_half_loaded(name: str, data: st.DataObject) -> None:
    state = dict(whole_state(name))
    key = data.draw(st.sampled_from([k for k in state if "num_batches" not in k]))
    damage = data.draw(st.sampled_from(["missing", "longer", "flat", "renamed"]))
    tensor = state[key]
    if damage == "missing":
        del state[key]
    elif damage == "renamed":
        state = {k + "s" * (k == key): t for k, t in state.items()}
    else:
        is_flat = damage == "flat" and tensor.ndim > 1
        state[key] = tensor.flatten(1) if is_flat else torch.cat([tensor, tensor])
    assert "expected" in refused(state) or "ends with" in refused(state)


def test_files_of_other_families_are_not_claimed() -> None:
    others = [*(FILES / "mimicry").rglob("*.pth"), FILES / "rosinality" / "legacy.pt"]
    for path in others:
        tree = torch.load(path, map_location="cpu", weights_only=True)
        assert not any(map(junyanz.recognises, find(tree))), path
    for tree in (None, [], {}, {"a": 1}, {"fc.weight": torch.zeros(2, 2)}):
        assert not any(map(junyanz.recognises, find(tree)))


def test_a_padding_before_a_discriminators_last_convolution_is_seen() -> None:
    state = published_state(translation.patchgan(norm="batch"))
    last = max(int(name.split(".")[1]) for name in state)
    moved = {name.replace(f"model.{last}.", f"model.{last + 1}."): t for name, t in state.items()}
    assert "a layer without tensors, such as a padding" in refused(moved)


@pytest.mark.parametrize("name", list(BUILD))
def test_layers_are_laid_in_the_order_they_run(name: str) -> None:
    # The reader relies on it: our modules are declared in the order of every known file.
    network = BUILD[name]()
    layers = {n: part for n, part in network.named_modules() if isinstance(part, ConvLayer)}
    run: list[ConvLayer] = []
    for layer in layers.values():
        layer.register_forward_hook(lambda module, *_: run.append(module))
    network(images(1, network.config["in_channels"], 32))
    assert run == list(layers.values())
