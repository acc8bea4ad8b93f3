"""The commands on every family: translators, SN-GAN, StyleGAN3, a CycleGAN, a discriminator."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganc.checkpoints.native import header_of
from ganc.checkpoints.store import load, save
from ganc.data.images import to_uint8
from ganc.models.network import Translator
from ganc.sampling import sample
from tests.conftest import GOLDEN, Outcome, make_model
from tests.evaluation.witnesses import write_images
from tests.families import FAMILIES, make_cyclegan, make_patchgan, make_resnet, make_unet
from tests.test_cli import assert_one_line

Ganc = Callable[..., Outcome]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return write_images(images, tmp_path / "photos")


@pytest.fixture
def cyclegan(tmp_path: Path) -> Path:
    path = tmp_path / "cyclegan.safetensors"
    save(make_cyclegan(), path)
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_info_score_prune_sample_of_every_family(
    ganc: Ganc, tmp_path: Path, photos: Path, family: str
) -> None:
    path, scores, small = (tmp_path / name for name in ("m.safetensors", "s", "small.safetensors"))
    model = FAMILIES[family]()
    save(model, path)
    info = json.loads(ganc("info", path, "--json").out)
    assert info["architecture"] == family
    assert info["resolution"] == model.generator.img_resolution
    assert ("macs_published" in info) == (model.generator.macs_published() is not None)
    assert ganc("score", path, "--method", "l1-out", "-o", scores).code == 0
    pruned = ganc("prune", path, "--scores", scores, "--prune-ratio", 0.5, "-o", small, "--json")
    assert json.loads(pruned.out)["macs"]["after"] < info["macs"]
    given = ("--input", photos) if isinstance(model.generator, Translator) else ()
    drawn = ganc("sample", small, "-o", tmp_path / "grid.png", "-n", 2, *given, "--json")
    assert json.loads(drawn.out)["images"] == 2
    with Image.open(tmp_path / "grid.png") as grid:
        assert np.asarray(grid).std() > 1


@pytest.mark.parametrize("number", [1, 16])
def test_grid_shows_each_input_beside_its_translation(
    ganc: Ganc, tmp_path: Path, photos: Path, number: int
) -> None:
    model = make_unet()  # grey to colour
    save(model, tmp_path / "m.safetensors")
    output = tmp_path / "grid.png"
    outcome = ganc(
        "sample", tmp_path / "m.safetensors", "-o", output, "--input", photos, "-n", number,
        "--columns", 1, "--json",
    )  # fmt: skip
    count = min(number, 3)
    result = json.loads(outcome.out)
    assert (result["images"], result["size"]) == (count, [16, 16])
    zoom = 6
    with Image.open(output) as picture:
        grid = np.asarray(picture)[::zoom, ::zoom]
    assert grid.shape == (count * 18 - 2, 32, 3)
    translated = to_uint8(sample(model, count, input=photos)).permute(0, 2, 3, 1).numpy()
    for i, name in enumerate(sorted(photos.iterdir())[:count]):
        grey = np.asarray(Image.open(name).convert("L"))
        tile = grid[18 * i : 18 * i + 16]
        assert (tile[:, :16] == grey[:, :, None]).all()
        assert (tile[:, 16:] == translated[i]).all()


def test_the_other_direction(ganc: Ganc, tmp_path: Path, photos: Path, cyclegan: Path) -> None:
    grids = []
    for network in ("generator", "generator_b"):
        output = tmp_path / f"{network}.png"
        arguments = ("-o", output, "--input", photos / "00000.png", "--network", network)
        assert ganc("sample", cyclegan, *arguments).code == 0
        grids.append(output.read_bytes())
    assert grids[0] != grids[1]


@pytest.mark.parametrize(
    ("family", "arguments", "code", "findings"),
    [
        ("resnet_translator", [], 2, ["translates images, got none", "pass --input"]),
        ("resnet_translator", ["--input", "nowhere"], 3, ["nowhere", "does not exist"]),
        ("resnet_translator", ["--input", "PHOTOS", "--truncation", "0.7"], 2, ["--truncation"]),
        ("resnet_translator", ["--input", "PHOTOS", "--labels", "1"], 2, ["leave --labels out"]),
        ("resnet_translator", ["--input", "PHOTOS", "--noise-mode", "none"], 2, ["--noise-mode"]),
        ("resnet_translator", ["--network", "generator_b"], 3, ["holds no generator_b"]),
        ("resnet_translator", ["--network", "generatr"], 2, ["did you mean `generator`"]),
        ("stylegan2", ["--input", "PHOTOS"], 2, ["goes with translators", "leave --input out"]),
        ("stylegan3", ["--resize"], 2, ["--resize scales the images of --input"]),
        ("sngan", ["--truncation", "0.7"], 2, ["sngan has no truncation"]),
        ("sngan", ["--labels", "1"], 2, ["takes no labels"]),
    ],
)
def test_what_sample_refuses(
    ganc: Ganc, tmp_path: Path, photos: Path, family: str, arguments: list[str], code: int,
    findings: list[str],
) -> None:  # fmt: skip
    path, output = tmp_path / "m.safetensors", tmp_path / "grid.png"
    save(FAMILIES[family](), path)
    given = [photos if argument == "PHOTOS" else argument for argument in arguments]
    assert_one_line(ganc("sample", path, "-o", output, *given), code, *findings)
    assert not output.exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_distill_refuses_a_recipe_or_teacher_of_another_family(
    ganc: Ganc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Before it asks for data, or for the weights of a perceptual network that would not help."""
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))
    path, other, run = tmp_path / "m.safetensors", tmp_path / "t.safetensors", tmp_path / "run"
    save(FAMILIES[family](), path)
    other_family, recipe = ("stylegan2", "cagan") if family == "sngan" else ("sngan", "sngan")
    save(FAMILIES[other_family](), other)
    arguments = ["distill", path, "-o", run, "--offline", "--teacher"]
    wanted = f"recipe {recipe} does not train a {family}"
    assert_one_line(ganc(*arguments, path, "--recipe", recipe), 2, wanted, "hint: pass --recipe")
    assert_one_line(
        ganc(*arguments, other), 3, f"student is a {family}, the teacher a {other_family}"
    )
    assert not run.exists()


@pytest.mark.parametrize("command", ["sample", "score", "export", "eval", "distill"])
def test_a_patch_discriminator_alone(ganc: Ganc, tmp_path: Path, command: str) -> None:
    path, output = tmp_path / "d.safetensors", tmp_path / "output"
    save(make_patchgan(), path)
    extra = {
        "eval": ["--metrics", "latency"],
        "distill": ["-o", output, "--teacher", path, "--perceptual", "none"],
    }.get(command, ["-o", output])
    assert_one_line(ganc(command, path, *extra), 3, "no generator")
    assert not output.exists()


def test_info_of_a_patch_discriminator_alone(ganc: Ganc, tmp_path: Path) -> None:
    model = make_patchgan()
    save(model, tmp_path / "d.safetensors")
    info = json.loads(ganc("info", tmp_path / "d.safetensors", "--json").out)
    assert (info["architecture"], info["params"]) == ("patchgan", model.params())
    assert list(info["networks"]) == ["discriminator"]
    assert "discriminator" in ganc("info", tmp_path / "d.safetensors").out


def test_info_tells_every_network(ganc: Ganc, cyclegan: Path) -> None:
    model = make_cyclegan()
    info = json.loads(ganc("info", cyclegan, "--json").out)
    assert set(info["networks"]) == {name for name, _ in model.networks()}
    for name, network in model.networks():
        counts = info["networks"][name]
        assert (counts["params"], counts["macs"]) == (network.params(), network.macs())
        assert counts.get("macs_published") == network.macs_published()
    assert info["macs_published"] == model.macs_published()
    table = ganc("info", cyclegan).out
    assert all(f"{name} " in table for name in info["networks"])


def test_files_without_counts_per_network_are_read(ganc: Ganc) -> None:
    path = GOLDEN / "files" / "ganc" / "without-networks.safetensors"
    info = json.loads(ganc("info", path, "--json").out)
    assert info["networks"] == {
        "generator": {"architecture": "stylegan2", "params": 434, "macs": 7084},
        "discriminator": {"architecture": "stylegan2"},
    }
    assert ganc("info", path).code == 0
    assert header_of(load(path)).networks["generator"]["macs"] == 7084


def test_macs_published_of_a_family_that_counts_alike(ganc: Ganc, tmp_path: Path) -> None:
    save(make_model(), tmp_path / "m.safetensors")
    info = json.loads(ganc("info", tmp_path / "m.safetensors", "--json").out)
    assert "macs_published" not in info
    assert "macs_published" not in ganc("info", tmp_path / "m.safetensors").out
    save(make_resnet(), tmp_path / "r.safetensors")
    assert "macs_published" in ganc("info", tmp_path / "r.safetensors").out
