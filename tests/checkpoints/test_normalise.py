"""State dicts in every wrapping: the same network comes out, and what was taken is said."""

import collections
import datetime
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ganc.checkpoints import normalise
from ganc.checkpoints.store import load
from ganc.errors import CheckpointError, UsageError
from tests.checkpoints.wrapped import State, cyclegan, inferred, loaded, prefixed, stylegan2
from tests.conftest import Outcome

G, D, W_AVG = stylegan2()
RESNET = cyclegan()
OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2, 2)}},
             "param_groups": [{"lr": 0.1, "params": [0]}]}  # fmt: skip


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return {
        "stylegan2": loaded({"g_ema": G, "latent_avg": W_AVG}).generator,
        "resnet_translator": loaded(RESNET).generator,
    }


def assert_same(network: Any, expected: dict[str, Any]) -> None:
    """Compare every tensor, bit for bit."""
    own, theirs = network.state_dict(), expected[network.architecture].state_dict()
    assert own.keys() == theirs.keys()
    for name, tensor in own.items():
        assert torch.equal(tensor, theirs[name]), name


def raw(state: State) -> State:
    """Return other weights of the same network: its first tensor is greater by 1."""
    name, tensor = next(iter(state.items()))
    return {**state, name: tensor + 1}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "an unusual key": lambda state: {"network": state},
    "deep": lambda state: {"a": {"b": [{"c": {"params": state}}]}},
    "compiled": lambda state: {"g_ema": prefixed("_orig_mod.", state)},
    "parallel": lambda state: {"model": prefixed("module.", state)},
    "parallel twice": lambda state: prefixed("module.module.", state),
    "compiled, then parallel": lambda state: prefixed("module._orig_mod.", state),
    "parallel, then compiled": lambda state: {"x": prefixed("_orig_mod.module.", state)},
    "sharded": lambda state: prefixed("_fsdp_wrapped_module.", state),
    "swa": lambda state: {"n_averaged": torch.tensor(7), **prefixed("module.", state)},
    "ema_pytorch": lambda state: {
        "initted": torch.tensor(True), "step": torch.tensor(9), **prefixed("ema_model.", state),
        **prefixed("online_model.", raw(state)),
    },
    "operation counts": lambda state: {
        **state, "total_ops": torch.zeros(1), "total_params": torch.zeros(1),
        **{f"{name.rpartition('.')[0]}.total_ops": torch.zeros(1) for name in list(state)},
    },
    "loose counters": lambda state: {"epoch": 5, **state, "global_step": torch.tensor(4)},
    "an optimiser": lambda state: {"optimizer": OPTIMIZER, "model": state, "loss": 0.1},
    "sub-network": lambda state: {"state_dict": prefixed("netG.", state)},
    "sub-network, deeper": lambda state: {
        "state_dict": prefixed("model.generator._orig_mod.", state)
    },
    "half precision": lambda state: {name: t.half().float() for name, t in state.items()},
    "averaged beside raw": lambda state: {
        "params": raw(state), "params_ema": state,
    },
    "averaged prefix beside raw names": lambda state: {
        "state_dict": raw(state) | prefixed("ema.", state)
    },
    "two attributes of one module": lambda state: {
        "state_dict": prefixed("generator.", raw(state))
        | prefixed("generator_ema.", state)
    },
}  # fmt: skip


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings_change_nothing(wrapping: str, expected: dict[str, Any]) -> None:
    if wrapping == "half precision":
        state = {name: t.half().float() for name, t in RESNET.items()}
        assert_same(
            loaded(RESNET | state).generator, {"resnet_translator": loaded(state).generator}
        )
        return
    assert_same(loaded(WRAPPINGS[wrapping](RESNET)).generator, expected)
    tree = {"net": WRAPPINGS[wrapping](G), "latent_avg": W_AVG}
    assert_same(loaded(tree).generator, expected)


def test_what_was_taken_and_what_not_is_said(expected: dict[str, Any]) -> None:
    tree = {"epoch": 5, "state_dict": prefixed("_orig_mod.", RESNET),
            "ema_state_dict": prefixed("_orig_mod.", RESNET), "optimizer": OPTIMIZER}  # fmt: skip
    found = inferred(loaded(tree))
    assert (found["generator"], found["passed_over"]) == ("ema_state_dict", "state_dict")
    tree = {"state_dict": {"encoder.0.weight": torch.zeros(4, 3, 3, 3), **prefixed("decoder.", G)},
            "latent_avg": W_AVG.repeat(8, 1), "opts": {"output_size": 32}}  # fmt: skip
    model = loaded(tree)
    assert_same(model.generator, expected)
    found = inferred(model)
    assert (found["generator"], found["not_read"]) == ("state_dict.decoder", "state_dict.encoder")
    counts = {f"{name}.total_ops": torch.zeros(1) for name in ("model.1", "model.4")}
    assert inferred(loaded(RESNET | counts))["left_out"].startswith("2 numbers of tools")


def test_rows_of_latent_avg_that_differ_are_not_taken() -> None:
    rows = W_AVG.reshape(1, -1) + torch.arange(8.0)[:, None]
    model = loaded({"g_ema": G, "latent_avg": rows})
    computed = loaded({"g_ema": G})
    assert torch.equal(model.generator.w_avg, computed.generator.w_avg)
    assert "rows of latent_avg differ" in inferred(model)["w_avg"]


def test_both_networks_of_a_lightning_file(expected: dict[str, Any]) -> None:
    state = prefixed("generator.", G) | prefixed("discriminator.", D)
    state |= {"vgg.features.0.weight": torch.zeros(4, 3, 3, 3)}
    model = loaded({"state_dict": state, "latent_avg": W_AVG, "pytorch-lightning_version": "2.1"})
    assert_same(model.generator, expected)
    assert model.discriminator is not None
    found = inferred(model)
    assert found["discriminator"] == "state_dict.discriminator"
    assert found["not_read"] == "state_dict.vgg"


@pytest.mark.parametrize(
    ("names", "swapped"),
    [
        (("netG_A", "netG_B", "netD_A", "netD_B"), False),
        (("G_AB", "G_BA", "D_A", "D_B"), True),  # D_B judges what G_AB makes
        (("genA2B", "genB2A", "disc_A", "disc_B"), True),
    ],
)
def test_a_whole_cyclegan_in_one_file(names: tuple[str, ...], swapped: bool) -> None:
    from tests.models.translation import patchgan, published_state, resnet

    networks = [resnet(), resnet(), patchgan(), patchgan()]
    for seed, network in enumerate(networks):
        nn.init.constant_(next(network.parameters()), seed)
    states = dict(zip(names, map(published_state, networks), strict=True))
    for tree in (states, {"state_dict": {f"{k}.{n}": t for k, s in states.items()
                                         for n, t in s.items()}}):  # fmt: skip
        model = loaded(tree)
        firsts = [next(network.parameters()).flatten()[0].item() for network in
                  (model.generator, model.generator_b, model.discriminator,
                   model.discriminator_b)]  # fmt: skip
        assert firsts == ([0, 1, 3, 2] if swapped else [0, 1, 2, 3])


def test_candidates_are_named_and_one_is_picked(
    ganc: Callable[..., Outcome], tmp_path: Any
) -> None:
    other = raw(G)
    torch.save({"best": G, "last": other, "latent_avg": W_AVG}, tmp_path / "two.pt")
    refused = ganc("info", tmp_path / "two.pt")
    assert refused.code == 3
    assert "2 networks that could be the generator: best, last" in refused.err
    assert "--key" in refused.err
    done = ganc("import", tmp_path / "two.pt", "--key", "last", "-o", tmp_path / "x.safetensors")
    assert done.code == 0
    picked = load(tmp_path / "x.safetensors").generator
    assert torch.equal(picked.mapping.fc0.weight, other["style.1.weight"])
    wrong = ganc("import", tmp_path / "two.pt", "--key", "bst", "-o", tmp_path / "y.safetensors")
    assert wrong.code == 3
    assert "did you mean `best`?" in wrong.err


def test_a_key_may_name_a_prefix_or_a_raw_copy(expected: dict[str, Any]) -> None:
    tree = {"g": raw(G), "g_ema": G, "latent_avg": W_AVG, "d": D}
    picked = loaded(tree, keys=["g"])
    assert picked.discriminator is None
    assert torch.equal(picked.generator.mapping.fc0.weight, G["style.1.weight"] + 1)
    both = loaded(tree, keys=["g", "d"])
    assert both.discriminator is not None
    psp = {"state_dict": prefixed("decoder.", G), "latent_avg": W_AVG}
    assert_same(loaded(psp, keys=["state_dict.decoder"]).generator, expected)


def test_keys_do_not_go_with_our_own_files(checkpoint: Any) -> None:
    with pytest.raises(UsageError, match="--key goes with foreign files"):
        load(checkpoint, keys=["g"])


def test_names_that_collide_without_their_wrappers_are_refused() -> None:
    with pytest.raises(CheckpointError, match="another tensor are both"):
        loaded({"conv._orig_mod.weight": torch.zeros(1), "conv.weight": torch.zeros(1)})


def test_an_optimiser_is_no_network() -> None:
    tree = {"optimizer_states": [OPTIMIZER], "g": G}
    assert [found.key for found in normalise.find(tree)] == ["g"]


@pytest.mark.parametrize("state", [RESNET, prefixed("module.", G)], ids=["resnet", "stylegan2"])
def test_foreign_safetensors(state: State, tmp_path: Any, ganc: Callable[..., Outcome]) -> None:
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(state, path, {"format": "pt"})
    network, expected = load(path).generator, loaded(state).generator
    assert network.config == expected.config
    for name, tensor in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
    assert ganc("info", path, "--json").code == 0


def test_safetensors_with_counters_keep_the_order_of_layers(tmp_path: Any) -> None:
    # The format sorts by type first: int64 counters come before all float32 tensors.
    from tests.models.translation import published_state, unet

    network = unet(norm="batch")
    path = tmp_path / "unet.safetensors"
    safetensors.torch.save_file(
        {name: t.contiguous() for name, t in published_state(network).items()}, path
    )
    again = load(path).generator
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_both_spellings_of_spectral_norm_are_one() -> None:
    torch.manual_seed(0)
    old = nn.utils.spectral_norm(nn.Conv2d(3, 4, 4))
    new = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 4))
    (a,), (b,) = normalise.find(old.state_dict()), normalise.find(new.state_dict())
    assert set(a.state) == set(b.state) == {"weight_orig", "weight_u", "weight_v", "bias"}
    own = b.state
    sigma = own["weight_u"] @ own["weight_orig"].flatten(1) @ own["weight_v"]
    with torch.no_grad():
        torch.testing.assert_close(own["weight_orig"] / sigma, new.eval().weight)


@settings(max_examples=50, deadline=None)
@given(
    wrappers=st.lists(st.sampled_from(["module.", "_orig_mod.", "ema_model.", "netG.", "model."])),
    keys=st.lists(st.text("abc", min_size=1, max_size=3), max_size=4),
)
def test_any_stack_of_wrappers_comes_off(wrappers: list[str], keys: list[str]) -> None:
    state = {"input.input": G["input.input"]}
    for wrapper in wrappers:
        state = prefixed(wrapper, state)
    tree: Any = state
    for key in keys:
        tree = {key: tree, "lr": 0.1}
    found = normalise.find(tree)
    plain = [name for one in found for part in (one, *normalise.parts(one)) for name in part.state]
    assert any(name.endswith("input.input") for name in plain)
    if "model." not in wrappers:
        assert [list(one.state) for one in found] == [["input.input"]]


def test_values_of_training_loops_are_no_obstacle(expected: dict[str, Any]) -> None:
    counts: Any = collections.defaultdict(list)
    counts["fid"].append(3.5)
    tree = {
        "best": np.float64(12.5), "step": np.int64(7), "history": np.arange(3.0), "counts": counts,
        "folder": pathlib.PurePosixPath("/runs"), "started": datetime.datetime(2024, 5, 17),
        "g_ema": G, "latent_avg": W_AVG,
    }  # fmt: skip
    assert_same(loaded(tree).generator, expected)


def test_dicts_with_attributes_are_dicts(monkeypatch: pytest.MonkeyPatch) -> None:
    class EasyDict(dict[str, Any]):
        pass

    EasyDict.__module__, EasyDict.__qualname__ = "easydict", "EasyDict"
    module = types.ModuleType("easydict")
    module.EasyDict = EasyDict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "easydict", module)
    options = EasyDict(size=32)
    options.size = 32  # type: ignore[attr-defined]
    model = loaded(EasyDict(g_ema=EasyDict(G), latent_avg=W_AVG, options=options))
    assert model.generator.z_dim == 64


def test_an_ordered_dict_may_have_attributes_of_any_name(expected: dict[str, Any]) -> None:
    class Odd:
        def __reduce__(self) -> tuple[Any, ...]:
            attributes = dict.fromkeys(("values", "items", "get", "keys"), 3)
            entries = {"g_ema": G, "latent_avg": W_AVG}.items()
            return collections.OrderedDict, (), attributes, None, iter(entries)

    assert_same(loaded(Odd()).generator, expected)
