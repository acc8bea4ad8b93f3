"""Averages that lack something: parameters without buffers, one direction of two, other words."""

import re
from typing import Any

import pytest
import torch

from ganc.errors import CheckpointError
from tests.checkpoints.wrapped import State, cyclegan, inferred, loaded, prefixed, stylegan2
from tests.conftest import GOLDEN

G, D, W_AVG = stylegan2()
RESNET = cyclegan()
UNET: State = dict(
    torch.load(GOLDEN / "files" / "junyanz-pix2pix" / "latest_net_G.pth", weights_only=True)
)


def moved(state: State) -> State:
    """Return other weights of the same network; its buffers stay."""
    return {n: t + 0.01 if re.search(r"weight$|bias$", n) else t for n, t in state.items()}


def parameters(state: State) -> State:
    """Return what ``named_parameters()`` gives."""
    buffers = r"running|num_batches|^noises|kernel$"
    return {name: t for name, t in state.items() if not re.search(buffers, name)}


def same(model: Any, expected: Any) -> bool:
    own, theirs = model.generator.state_dict(), expected.generator.state_dict()
    return own.keys() == theirs.keys() and all(torch.equal(own[n], theirs[n]) for n in own)


@pytest.mark.parametrize("state", [UNET, G], ids=["batch norm", "stylegan2"])
def test_an_average_of_parameters_takes_the_raw_copys_buffers(state: State) -> None:
    average = moved(state)
    expected = loaded({"x": average, "latent_avg": W_AVG})
    for tree, key in (
        ({"netG": state, "ema": {"shadow": parameters(average)}}, "netG"),
        ({"state_dict": prefixed("netG.", state),
          "ema": {"shadow": prefixed("netG.", parameters(average))}}, "state_dict.netG"),
    ):  # fmt: skip
        model = loaded({**tree, "latent_avg": W_AVG})
        assert same(model, expected)
        assert inferred(model)["buffers"] == f"from {key}"
        assert inferred(model)["passed_over"] == key


def test_batch_norm_without_buffers_is_refused() -> None:
    with pytest.raises(CheckpointError, match="batch norm that was saved without its buffers") as e:
        loaded(parameters(UNET))
    assert "--set norm=instance" in (e.value.hint or "")
    model = loaded(parameters(UNET), settings={"norm": "instance"})
    assert (model.generator.config["norm"], model.generator.config["norm_affine"]) == (
        "instance", True,
    )  # fmt: skip


@pytest.mark.parametrize("key", ["g_before_ema", "avg_pool_run", "no_ema"])
def test_a_key_that_only_mentions_averages_is_none(key: str) -> None:
    with pytest.raises(CheckpointError, match="2 networks that could be the generator"):
        loaded({"g": G, key: moved(G), "latent_avg": W_AVG})


@pytest.mark.parametrize(
    "key", ["g_ema", "ema", "netG_EMA", "model_ema", "ema_0.999", "averaged_model", "best_ema"]
)
def test_keys_of_averages(key: str) -> None:
    model = loaded({"g": moved(G), key: G, "latent_avg": W_AVG})
    assert same(model, loaded({"x": G, "latent_avg": W_AVG}))
    assert inferred(model)["generator"] == key


def test_an_average_of_one_direction_leaves_the_other_its_raw_weights() -> None:
    back = moved(RESNET)
    model = loaded({"netG_A": moved(back), "netG_B": back, "netG_A_ema": RESNET})
    assert same(model, loaded(RESNET))
    assert torch.equal(model.generator_b.stem.conv.weight, loaded(back).generator.stem.conv.weight)
    assert inferred(model)["passed_over"] == "netG_A"


def test_an_average_without_names_is_said_to_be_left() -> None:
    for more in (0, 120):
        shadow = [t.clone() for t in G.values()] + [torch.zeros(3, 3)] * more
        model = loaded({"model": G, "ema": {"decay": 0.99, "shadow_params": shadow}})
        assert inferred(model)["not_read"] == "ema.shadow_params"


def test_layers_run_in_the_order_of_their_numbers() -> None:
    first = [name for name in RESNET if name.startswith("model.12.")]
    late = {n: t for n, t in RESNET.items() if n not in first} | {n: RESNET[n] for n in first}
    assert list(late) != list(RESNET)
    assert same(loaded(late), loaded(RESNET))
    by_type = sorted(UNET, key=lambda name: (UNET[name].dtype != torch.int64, name))
    assert same(loaded({name: UNET[name] for name in by_type}), loaded(UNET))


def test_what_belongs_to_no_module_stands_beside() -> None:
    expected = loaded({"g_ema": G, "latent_avg": W_AVG})
    counters = {name: torch.tensor(5.0) for name in ("iter", "cur_nimg", "pl_mean", "lr")}
    for tree in (
        {"state_dict": {**G, "latent_avg": W_AVG, **counters}},
        {"state_dict": {**prefixed("module.decoder.", G), "module.latent_avg": W_AVG}},
    ):
        assert same(loaded(tree), expected)


def test_wrappers_in_the_middle_of_names() -> None:
    state = {re.sub(r"^(style|convs)\.", r"\1.module.", name): t for name, t in G.items()}
    assert same(loaded({"g": state, "latent_avg": W_AVG}), loaded({"g": G, "latent_avg": W_AVG}))


@pytest.mark.parametrize(
    ("tree", "picked"),
    [
        ({"state_dict": moved(G) | prefixed("netG.", G)}, "state_dict"),
        (moved(G) | prefixed("netG.", G), "."),
    ],
)
def test_every_candidate_can_be_picked(tree: Any, picked: str) -> None:
    with pytest.raises(CheckpointError, match="could be the generator") as caught:
        loaded(tree)
    assert re.search(rf"(^|[ ,]){re.escape(picked)}($|,)", caught.value.message)
    model = loaded(tree, keys=[picked])
    assert same(model, loaded({"g": moved(G)}))


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda t: t.to_sparse(), "expected a dense one"),
        (lambda t: (t * 10).to(torch.int8), "has the type torch.int8, expected real numbers"),
    ],
)
def test_tensors_that_hold_no_weights(change: Any, finding: str) -> None:
    with pytest.raises(CheckpointError, match=finding):
        loaded({"g": {**G, "style.1.weight": change(G["style.1.weight"])}})


def test_a_history_from_a_stranger_is_checked() -> None:
    import json

    for config in ("[" * 200_000, json.dumps({"provenance": [{"command": ["x"]}, {}]})):
        assert len(loaded({"g_ema": G, "config": config}).provenance) == 1
