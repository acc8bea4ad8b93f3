"""StyleGAN2 under BasicSR's names, and what has nearly the same names."""

import re

import pytest
import torch
from torch import Tensor

from ganc.errors import CheckpointError, UsageError
from tests.checkpoints.wrapped import State, inferred, loaded, stylegan2

G, D, W_AVG = stylegan2()


def respelled(state: State) -> State:
    """Give rosinality's tensors the names that BasicSR gives them."""
    rules = [(r"^style\.", "style_mlp."), (r"^input\.input$", "constant_input.weight"),
             (r"^conv1\.", "style_conv1."), (r"^convs\.", "style_convs."),
             (r"\.noise\.weight$", ".weight"), (r"\.conv\.blur\.", ".conv.smooth."),
             (r"\.conv\.", ".modulated_conv."), (r"^noises\.noise_", "noises.noise")]  # fmt: skip
    renamed = {}
    for name, tensor in state.items():
        for pattern, template in rules:
            name = re.sub(pattern, template, name)
        renamed[name] = tensor
    return renamed


def respelled_discriminator(state: State) -> State:
    return {re.sub(r"^convs\.", "conv_body.", name): tensor for name, tensor in state.items()}


def clean(state: State) -> State:
    """Return what GFPGAN's clean decoder would be called: no blurs, plain linears, own biases."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in respelled(state).items():
        if name.endswith(".kernel"):
            continue
        if match := re.fullmatch(r"style_mlp\.(\d+)\.(.+)", name):
            name = f"style_mlp.{2 * int(match[1]) - 1}.{match[2]}"
        if name.endswith(".activate.bias"):
            name, tensor = name.replace(".activate.bias", ".bias"), tensor[None, :, None, None]
        renamed[name] = tensor
    return renamed


def test_the_same_network() -> None:
    expected = loaded({"g_ema": G, "d": D})
    tree = {"params": {k: t + 1 for k, t in respelled(G).items()}, "params_ema": respelled(G)}
    model = loaded(tree)
    assert model.generator.config == expected.generator.config
    own = model.generator.state_dict()
    assert all(torch.equal(t, own[n]) for n, t in expected.generator.state_dict().items())
    assert model.provenance[0]["layout"] == "basicsr"
    found = inferred(model)
    assert (found["generator"], found["passed_over"]) == ("params_ema", "params")
    assert found["z_dim"] == 64
    judge = loaded({"params": respelled_discriminator(D)}).discriminator
    own = judge.state_dict()
    assert all(torch.equal(t, own[n]) for n, t in expected.discriminator.state_dict().items())


def test_noise_maps_that_are_missing_are_drawn() -> None:
    lean = {name: t for name, t in respelled(G).items() if not name.startswith("noises.")}
    assert inferred(loaded({"params_ema": lean}))["noise_maps"] == "7 drawn from seed 0"


@pytest.mark.parametrize("lost", [None, "style_conv1.bias", "style_mlp.3.weight", "noises.noise0"])
@pytest.mark.parametrize("prefix", ["", "stylegan_decoder."])
def test_gfpgans_clean_decoder_is_refused_by_name(lost: str | None, prefix: str) -> None:
    state = {prefix + name: t for name, t in clean(G).items() if name != lost}
    with pytest.raises(CheckpointError, match="the clean decoder of GFPGAN, which is no StyleGAN2"):
        loaded({"params_ema": state})


def test_gfpgans_bilinear_decoder_lacks_nothing_but_the_kernels() -> None:
    state = {name: t for name, t in respelled(G).items() if not name.endswith(".kernel")}
    with pytest.raises(CheckpointError, match="GFPGAN's bilinear decoder") as caught:
        loaded({"params_ema": state})
    assert "--set resample_filter=[1,3,3,1]" in (caught.value.hint or "")
    model = loaded({"params_ema": state}, settings={"resample_filter": [1, 2, 1]})
    assert model.generator.config["resample_filter"] == [1, 2, 1]
    assert inferred(model)["resample_filter"] == "[1, 2, 1] (given)"
    with pytest.raises(UsageError, match="resample_filter=1,2,1 is not a list of numbers"):
        loaded({"params_ema": state}, settings={"resample_filter": "1,2,1"})


def test_signs_of_the_clean_decoder_alone_suffice() -> None:
    biases = {n: t for n, t in clean(G).items() if re.fullmatch(r"style_conv(1|s\.\d+)\.bias", n)}
    linears = {n: t for n, t in clean(G).items() if n.startswith("style_mlp.")}
    usual = respelled(G)
    without_mlp = {n: t for n, t in usual.items() if not n.startswith("style_mlp.")}
    without_activation = {n: t for n, t in usual.items() if not n.endswith(".activate.bias")}
    for state in (without_mlp | linears, without_activation | biases):
        with pytest.raises(CheckpointError, match="clean decoder"):
            loaded({"params_ema": state})
