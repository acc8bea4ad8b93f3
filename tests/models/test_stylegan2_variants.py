"""StyleGAN2 as NVIDIA's code builds it: other architectures, labels, clamps, mapping sizes."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor

from ganc.checkpoints.store import load
from ganc.errors import ShapeError, UsageError
from ganc.models.stylegan2 import BLOCK_ARCHITECTURES, Generator
from ganc.models.stylegan2_discriminator import Discriminator, minibatch_std
from ganc.scoring.score import score
from tests.conftest import GOLDEN, make_model

# Float noise between the references' own formulations is up to 5e-6 at these magnitudes.
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


class Recorded(NamedTuple):
    """One golden case: networks with the recorded weights, inputs and outputs."""

    generator: Generator
    discriminator: Discriminator
    io: Mapping[str, Tensor]


def recorded(architecture: str, **changes: Any) -> Recorded:
    folder = GOLDEN / f"nvidia-stylegan2-16-{architecture}"
    meta = json.loads((folder / "meta.json").read_text())
    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    generator = Generator(**{**_known(meta["G_init"]), **changes})
    discriminator = Discriminator(
        **{**_known(meta["D_init"]), **changes}, **meta["D_init"]["epilogue_kwargs"]
    )
    for prefix, network in (("G.", generator), ("D.", discriminator)):
        # Filters follow from the config, so that ours are not saved.
        own = {k.removeprefix(prefix): t for k, t in weights.items() if k.startswith(prefix)}
        network.load_state_dict({k: t for k, t in own.items() if "resample_filter" not in k})
    io = safetensors.torch.load_file(folder / "io.safetensors")
    return Recorded(generator.eval(), discriminator.eval(), io)


def _known(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return NVIDIA's arguments that are ours as well: half precision is not for a config."""
    return {k: v for k, v in arguments.items() if k not in ("num_fp16_res", "epilogue_kwargs")}


@torch.no_grad()
@pytest.mark.parametrize("architecture", BLOCK_ARCHITECTURES)
def test_recorded_images(architecture: str) -> None:
    generator, _, io = recorded(architecture)
    z, c = io["z"], io["c"]
    torch.testing.assert_close(generator.mapping(z, c), io["ws"], **TOLERANCE)
    torch.testing.assert_close(generator(z, c), io["img"], **TOLERANCE)
    silent = generator(z, c, truncation_psi=0.7, truncation_cutoff=2, noise_mode="none")
    torch.testing.assert_close(silent, io["img_psi07_cutoff2_silent"], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("architecture", BLOCK_ARCHITECTURES)
def test_recorded_logits(architecture: str) -> None:
    _, discriminator, io = recorded(architecture)
    real, c = io["real"], io["c"]
    both = torch.cat([io["img"], real])
    for batch, got in (
        (2, discriminator(real[:2], c[:2])),
        (4, discriminator(real, c)),
        (8, discriminator(both, torch.cat([c, c]))),
    ):
        torch.testing.assert_close(got, io[f"logits_b{batch}"], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("architecture", BLOCK_ARCHITECTURES)
def test_recorded_clamps_bite(architecture: str) -> None:
    generator, discriminator, io = recorded(architecture, conv_clamp=None)
    assert (generator(io["z"], io["c"]) - io["img"]).abs().max() > 1
    assert (discriminator(io["real"], io["c"]) - io["logits_b4"]).abs().max() > 0.1


@torch.no_grad()
def test_recorded_nvidia_pickle() -> None:
    case = "nvidia-stylegan2-32"
    model = load(GOLDEN / "files" / "nvidia" / f"{case}.pkl")
    io = safetensors.torch.load_file(GOLDEN / case / "io.safetensors")
    generator, z = model.generator, io["z"]
    layers = [name.removeprefix("synthesis.") for name, _, _ in generator.modulated_layers()]
    drawn = [io[f"rnoise_{name}"] for name in layers if not name.endswith("torgb")]
    for name, image in {
        "img_psi1": generator(z),
        "img_psi07": generator(z, truncation_psi=0.7),
        "img_psi07_cutoff4": generator(z, truncation_psi=0.7, truncation_cutoff=4),
        "img_psi13": generator(z, truncation_psi=1.3),
        "img_noise_none": generator(z, noise_mode="none"),
        "img_noise_random": generator(z, noise=drawn),
        "img_wplus": generator.synthesis(io["wplus"]),
    }.items():
        torch.testing.assert_close(image, io[name], **TOLERANCE)
    for name, images in {
        "d_logits_b1_first": io["img_psi1"][:1],
        "d_logits_b2_first2": io["img_psi1"][:2],
        "d_logits_b4": io["img_psi1"],
        "d_logits_b8_img_then_real": torch.cat([io["img_psi1"], io["real"]]),
    }.items():
        torch.testing.assert_close(model.discriminator(images), io[name], **TOLERANCE)


@torch.no_grad()
def test_a_clamp_limits_layers_but_not_skips() -> None:
    model = make_model(architecture=("resnet", "resnet"), conv_clamp=0.01)
    ws = model.generator.mapping(torch.randn(4, 6))
    _, features = model.generator.synthesis.run(ws)
    assert features[0].abs().max() <= 0.01  # one clamped layer
    # The residual sum divides by sqrt(2): below the limit, had the skip been clamped too.
    x = torch.full((1, model.generator.config["widths"]["b4.conv1"], 4, 4), 10.0)
    w, noise = [ws[:1, 0]] * 3, [None, None]
    y, _ = model.generator.synthesis.b8(x, None, w, noise, "none")
    assert y.abs().max() > 0.1
    x = torch.full((1, model.discriminator.config["widths"]["b16.conv1"], 8, 8), 10.0)
    assert model.discriminator.b8(x, torch.zeros(1, 3, 8, 8)).abs().max() > 0.1


@pytest.mark.parametrize("architecture", BLOCK_ARCHITECTURES)
def test_config_rebuilds_and_leaves_out_the_usual(architecture: str) -> None:
    model = make_model(architecture=(architecture, architecture), c_dim=2)
    for network, usual in ((model.generator, "skip"), (model.discriminator, "resnet")):
        config = json.loads(json.dumps(network.config))
        assert config.get("architecture", usual) == architecture
        # Files of earlier versions have no such key, and their content hash covers the config.
        assert ("architecture" in config) == (architecture != usual)
        again = type(network)(**config)
        assert again.config == network.config
        assert again.shapes() == network.shapes()


def test_mapping_settings_that_are_none_leave_no_trace() -> None:
    explicit = {"num_layers": 2, "embed_features": None, "layer_features": None}
    config = Generator(6, 3, 8, 8, 3, mapping_kwargs=explicit).config
    assert config == Generator(6, 3, 8, 8, 3, mapping_kwargs={"num_layers": 2}).config


def test_mapping_sizes() -> None:
    kwargs = {"num_layers": 3, "embed_features": 5, "layer_features": 7}
    with torch.device("meta"):
        mapping = Generator(6, 3, 8, 8, 3, mapping_kwargs=kwargs).mapping
        plain = Generator(6, 0, 8, 8, 3, mapping_kwargs=kwargs).mapping
    assert mapping.embed.weight.shape == (5, 3)
    sizes = [mapping.get_parameter(f"fc{i}.weight").shape for i in range(3)]
    assert sizes == [(7, 11), (7, 7), (8, 7)]
    assert plain.fc0.weight.shape == (7, 6)


def test_where_images_leave_the_generator() -> None:
    names = {a: dict(make_model(architecture=(a, a)).generator.named_parameters())
             for a in BLOCK_ARCHITECTURES}  # fmt: skip
    for architecture, found in names.items():
        torgb = [r for r in (4, 8, 16) if f"synthesis.b{r}.torgb.weight" in found]
        skips = [r for r in (4, 8, 16) if f"synthesis.b{r}.skip.weight" in found]
        assert torgb == ([4, 8, 16] if architecture == "skip" else [16])
        assert skips == ([8, 16] if architecture == "resnet" else [])


def test_where_images_enter_the_discriminator() -> None:
    names = {a: dict(make_model(architecture=(a, a)).discriminator.named_parameters())
             for a in BLOCK_ARCHITECTURES}  # fmt: skip
    for architecture, found in names.items():
        fromrgb = [r for r in (16, 8, 4) if f"b{r}.fromrgb.weight" in found]
        skips = [r for r in (16, 8, 4) if f"b{r}.skip.weight" in found]
        assert fromrgb == ([16, 8, 4] if architecture == "skip" else [16])
        assert skips == ([16, 8] if architecture == "resnet" else [])


def test_importance_is_read_from_the_main_path() -> None:
    for architecture in BLOCK_ARCHITECTURES:
        groups = make_model(architecture=(architecture, architecture)).generator.groups()
        read = {group.name: [part.tensor for part in group.scored_by] for group in groups}
        assert read["b4.conv1"] == ["synthesis.b8.conv0.weight"]
        assert read["b8.conv0"] == ["synthesis.b8.conv1.weight"]
        assert read["b16.conv1"] == ["synthesis.b16.torgb.weight"]


@pytest.mark.parametrize("architecture", BLOCK_ARCHITECTURES)
@pytest.mark.parametrize(("method", "settings"), [
    ("l1-out", {"effective": True}),
    ("diversity", {}),
])  # fmt: skip
def test_every_group_is_scored(architecture: str, method: str, settings: dict[str, Any]) -> None:
    model = make_model(architecture=(architecture, architecture), c_dim=3)
    scores = score(model, method, samples=4, batch=2, **settings)
    assert {name: len(s) for name, s in scores.values.items()} == model.generator.config["widths"]
    assert all((values > 0).all() and values.isfinite().all() for values in scores.values.values())


@pytest.mark.parametrize("architecture", BLOCK_ARCHITECTURES)
def test_every_parameter_has_a_gradient(architecture: str) -> None:
    model = make_model(architecture=(architecture, architecture), c_dim=3)
    c = torch.eye(3)[[0, 1, 2, 0]]
    model.discriminator(model.generator(torch.randn(4, 6), c), c).sum().backward()
    for _, network in model.networks():
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_minibatch_std_of_the_whole_batch() -> None:
    x = torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = minibatch_std(x, None, 2)
    assert torch.equal(whole, minibatch_std(x, 6, 2))
    assert whole.shape == (6, 6, 4, 4)
    with pytest.raises(ShapeError, match="at least 1, got 0"):
        minibatch_std(x[:0], None)


@pytest.mark.parametrize("network", [
    lambda: Generator(6, 0, 8, 16, 3, architecture="resent"),
    lambda: Discriminator(0, 16, 3, architecture="resent"),
])  # fmt: skip
def test_an_unknown_architecture_is_named(network: Any) -> None:
    with pytest.raises(UsageError, match="resent") as caught:
        network()
    assert "resnet" in str(caught.value) + str(caught.value.hint)
