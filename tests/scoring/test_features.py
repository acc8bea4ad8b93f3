"""Activation, asv and style: their definitions on features computed without any hook."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.checkpoints.store import save
from ganc.data.inputs import open_inputs
from ganc.errors import DataError, UsageError
from ganc.models.model import Model
from ganc.models.sampling import latent_inputs
from ganc.scoring.features import Asv, read_features
from ganc.scoring.request import ScoreRequest
from ganc.scoring.score import score
from tests.conftest import Outcome, make_model
from tests.evaluation.witnesses import write_images
from tests.families import FAMILIES, make_resnet, make_sngan, make_stylegan3, make_unet

Ganc = Callable[..., Outcome]
Read = dict[str, list[Tensor]]
"""Group → what each of its main consumers reads, [N, width, H, W]."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return write_images(images, tmp_path / "photos")


def stylegan2_reads(model: Model) -> Read:
    inputs = latent_inputs(model.generator, range(5), 0)
    synthesis = model.generator.synthesis
    ws = model.generator.mapping(inputs.z)
    _, features = synthesis.run(ws, noise=inputs.noise)
    const = synthesis.b4.const[None].expand(5, -1, -1, -1)
    hidden = synthesis.b8.conv0(features[0], ws[:, 1], inputs.noise[1], "none")
    return {
        "b4.const": [const], "b4.conv1": [features[0]], "b8.conv0": [hidden],
        "b8.conv1": [features[1]], "b16.conv1": [features[2]],
    }  # fmt: skip


def stylegan3_reads(model: Model) -> Read:
    ws = model.generator.mapping(latent_inputs(model.generator, range(5), 0).z)
    _, features = model.generator.synthesis.run(ws)
    first = model.generator.synthesis.input(ws[:, 0])
    return {"input": [first]} | {f"L{i}": [x] for i, x in enumerate(features)}


def sngan_reads(model: Model) -> Read:
    generator = model.generator
    x = generator.stem(latent_inputs(generator, range(5), 0).z).reshape(5, -1, 4, 4)
    stem = F.interpolate(F.relu(generator.block2.norm1(x)), scale_factor=2, mode="bilinear")
    inner = F.relu(generator.block2.norm2(generator.block2.conv1(stem)))
    for name in ("block2", "block3", "block4"):
        x = generator.get_submodule(name)(x)
    return {
        "stem": [stem], "block2.conv1": [inner], "block4.conv2": [F.relu(generator.norm(x))],
    }  # fmt: skip


def resnet_reads(model: Model, x: Tensor) -> Read:
    g = model.generator
    stem = F.relu(g.stem(x))
    down1 = F.relu(g.down1(stem))
    trunk = F.relu(g.down2(down1))
    inner = F.relu(g.block0.conv0(trunk))
    after = trunk + g.block0.conv1(inner)
    return {"stem": [stem], "down1": [down1], "trunk": [trunk, after], "block0.inner": [inner]}


def unet_reads(model: Model, x: Tensor) -> Read:
    g = model.generator
    enc0 = g.enc0(x)
    enc1 = g.enc1(F.leaky_relu(enc0, 0.2))
    enc2 = g.enc2(F.leaky_relu(enc1, 0.2))
    dec2 = g.dec2(F.relu(enc2))
    dec1 = g.dec1(F.relu(torch.cat([enc1, dec2], dim=1)))
    return {
        "enc0": [F.leaky_relu(enc0, 0.2), F.relu(enc0)],
        "enc1": [F.leaky_relu(enc1, 0.2), F.relu(enc1)],
        "enc2": [F.relu(enc2)], "dec2": [F.relu(dec2)], "dec1": [F.relu(dec1)],
    }  # fmt: skip


LATENT: dict[str, Callable[[Model], Read]] = {
    "stylegan2": stylegan2_reads, "stylegan3": stylegan3_reads, "sngan": sngan_reads,
}  # fmt: skip
IMAGES: dict[str, Callable[[Model, Tensor], Read]] = {
    "resnet_translator": resnet_reads, "unet_translator": unet_reads,
}  # fmt: skip


@pytest.mark.parametrize("family", [*LATENT, *IMAGES])
@torch.no_grad()
def test_scores_follow_from_what_consumers_read(family: str, photos: Path) -> None:
    model = FAMILIES[family]()
    given: dict[str, Any] = {"data": photos} if family in IMAGES else {}
    if family in LATENT:
        reads = LATENT[family](model)
    else:
        inputs = open_inputs(photos, model.generator)
        reads = IMAGES[family](model, inputs.pixels(model.generator, range(5)))
    activation = score(model, "activation", samples=5, batch=2, device="cpu", **given)
    asv = score(model, "asv", samples=5, batch=2, device="cpu", **given)
    for group, features in reads.items():
        arrays = [x.numpy().astype(np.float64) for x in features]
        strength = np.mean([np.abs(a).mean(axis=(0, 2, 3)) for a in arrays], axis=0)
        spread = np.mean([a.std(axis=0).mean(axis=(1, 2)) for a in arrays], axis=0)
        np.testing.assert_allclose(activation[group], strength, rtol=1e-4, err_msg=group)
        # Batches move a feature by 1e-6: of a group that hardly varies that is seen.
        np.testing.assert_allclose(asv[group], spread, rtol=1e-4, atol=1e-6, err_msg=group)


def test_what_never_changes_has_no_deviation_at_all() -> None:
    asv = score(make_model(), "asv", samples=7, batch=3, device="cpu")
    assert (asv["b4.const"] == 0).all()
    assert (asv["b4.conv1"] > 0.01).all()


@torch.no_grad()
@pytest.mark.parametrize("make", [make_model, make_stylegan3])
def test_style_is_what_the_affine_layer_makes(make: Callable[[], Model]) -> None:
    model = make()
    scores = score(model, "style", samples=4, batch=3, device="cpu")
    ws = model.generator.mapping(latent_inputs(model.generator, range(4), 0).z)
    readers = {
        "stylegan2": {"b4.const": ("b4.conv1", 0), "b8.conv1": ("b16.conv0", 3),
                      "b16.conv1": ("b16.torgb", 5)},
        "stylegan3": {"input": ("L0", 1), "L1": ("L2", 3), "L3": ("L4", 5)},
    }[model.architecture]  # fmt: skip
    for group, (layer, at) in readers.items():
        affine = model.generator.get_submodule(f"synthesis.{layer}.affine")
        # affine.weight carries a gain of 1/sqrt(D_w); torgb's own gain does not count.
        styles = ws[:, at].double() @ affine.weight.double().T / 8**0.5 + affine.bias
        np.testing.assert_allclose(scores[group], styles.abs().mean(dim=0), rtol=1e-5)


def test_samples_are_capped_by_the_images(photos: Path) -> None:
    for samples in (None, 100):
        scores = score(make_resnet(), "activation", data=photos, samples=samples, device="cpu")
        assert scores.settings["samples"] == 5
        assert scores.settings["data"] == str(photos)
        json.dumps(scores.settings)
    fewer = score(make_resnet(), "activation", data=photos, samples=2, device="cpu")
    assert fewer.settings["samples"] == 2
    assert not torch.equal(fewer["trunk"], scores["trunk"])


def test_sums_in_float32_give_the_same_asv(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = score(make_model(), "asv", samples=400, device="cpu")
    monkeypatch.setattr("ganc.scoring.features.MANY_PIXELS", 256)  # 16x16; meant for 64x64
    mixed = score(make_model(), "asv", samples=400, device="cpu")
    assert torch.equal(mixed["b8.conv1"], exact["b8.conv1"])
    assert not torch.equal(mixed["b16.conv1"], exact["b16.conv1"])
    for name, values in exact.values.items():
        torch.testing.assert_close(mixed[name], values, rtol=1e-6, atol=0)


def test_sums_per_pixel_are_small_where_there_are_many() -> None:
    scorer = Asv(make_model(), ScoreRequest(samples=4, batch=4))
    wide = {"b8.conv1/0": torch.zeros(3, 128 * 128), "b4.conv1/0": torch.zeros(3, 16)}
    scorer.reference = wide
    types = {name: tensor.dtype for name, tensor in scorer.empty().items()}
    assert types == {
        "b8.conv1/0/1": torch.float32, "b8.conv1/0/2": torch.float32,
        "b4.conv1/0/1": torch.float64, "b4.conv1/0/2": torch.float64,
    }  # fmt: skip


def test_state_does_not_grow_with_the_samples() -> None:
    model = make_model()
    sizes = []
    for samples in (4, 4000):
        scorer = Asv(model, ScoreRequest(samples=samples, batch=4))
        state = scorer.empty()
        assert all(t.dtype == torch.float64 for t in state.values())
        sizes.append(sum(t.numel() for t in state.values()))
    # Two sums per pixel of every feature that is read.
    pixels = 8 * 16 + 7 * 16 + 6 * 64 + 5 * 64 + 4 * 256 + 3 * 256
    assert sizes == [2 * pixels, 2 * pixels]


def test_hooks_are_removed_whatever_happens() -> None:
    generator = make_sngan().generator
    seen: list[str] = []

    def run() -> None:
        generator(torch.zeros(2, 6))
        raise DataError("broken")

    with pytest.raises(DataError, match="broken"):
        read_features(generator, generator.groups(), run, lambda g, *_: seen.append(g.name))
    assert len(seen) == 2 * len(generator.groups())  # every group, every sample
    assert not any(module._forward_pre_hooks for module in generator.modules())


@pytest.mark.parametrize("method", ["activation", "asv", "rebuild"])
def test_settings_that_do_not_go_with_the_model(method: str, photos: Path) -> None:
    with pytest.raises(UsageError, match="--data is missing") as caught:
        score(make_unet(), method)
    assert "--data with a folder" in str(caught.value.hint)
    with pytest.raises(UsageError, match="--data goes with translators"):
        score(make_model(), method, data=photos)
    with pytest.raises(UsageError, match="--noise-mode goes with latents"):
        score(make_unet(), method, data=photos, noise_mode="none")


@pytest.mark.parametrize("method", ["activation", "asv", "rebuild"])
def test_settings_that_cannot_be(method: str) -> None:
    with pytest.raises(UsageError, match="unknown noise_mode"):
        score(make_model(), method, noise_mode="nowhere")
    with pytest.raises(UsageError, match="--batch 5"):
        score(make_model(), method, samples=4, batch=5)


@pytest.mark.parametrize("method", ["activation", "asv", "rebuild"])
def test_images_of_a_size_that_the_model_cannot_take(method: str, tmp_path: Path) -> None:
    folder = write_images(torch.zeros(2, 3, 12, 12), tmp_path / "odd")
    with pytest.raises(DataError, match="multiples of 8"):
        score(make_unet(), method, data=folder, device="cpu")


def test_style_needs_styles() -> None:
    with pytest.raises(UsageError, match="a sngan has none"):
        score(make_sngan(), "style")


def test_exit_codes_of_images(ganc: Ganc, tmp_path: Path, photos: Path) -> None:
    path, target = tmp_path / "m.safetensors", tmp_path / "s"
    save(make_resnet(), path)
    arguments = ("score", path, "--method", "asv", "-o", target, "--device", "cpu", "--json")
    missing = ganc(*arguments)
    assert missing.code == 2
    assert "--data" in missing.err
    assert ganc(*arguments, "--data", tmp_path / "absent").code == 3
    found = ganc(*arguments, "--data", photos)
    assert found.code == 0, found.err
    assert json.loads(found.out)["samples"] == 5
