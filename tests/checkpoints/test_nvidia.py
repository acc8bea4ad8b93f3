"""NVIDIA's pickles: the recorded images and logits, and what is refused."""

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganc.checkpoints import nvidia, pickles
from ganc.checkpoints.pickle_machine import Record
from ganc.checkpoints.readers import read_tree
from ganc.checkpoints.store import load, save
from ganc.errors import CheckpointError
from ganc.models.model import Model
from tests.conftest import GOLDEN, Outcome

Golden = Callable[[str], Mapping[str, Tensor]]

ADA_ORIG = "nvidia-stylegan2-ada-16-orig"
ADA_RESNET = "nvidia-stylegan2-ada-16-resnet"
STYLEGAN2 = "nvidia-stylegan2-16-labels"
STYLEGAN3_R = "nvidia-stylegan3-r-16"
STYLEGAN3_T = "nvidia-stylegan3-t-16"
RECORDED = [ADA_ORIG, ADA_RESNET, STYLEGAN2, STYLEGAN3_R, STYLEGAN3_T]
FILES = sorted((GOLDEN / "files" / "nvidia").iterdir())
# Every file with the case that holds its images.
CASES = [(GOLDEN / case / "net.pkl", case) for case in RECORDED]
CASES += [(path, path.name.split(".")[0]) for path in FILES]
TOLERANCE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(autouse=True)
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the source code in the pickles would leave a file."""
    path = tmp_path / "canary"
    monkeypatch.setenv("GANC_CANARY", str(path))
    return path


def labels(io: Mapping[str, Tensor]) -> Tensor | None:
    return io["c"] if io["c"].shape[1] else None


def call(model: Model, io: Mapping[str, Tensor], name: str) -> Tensor:
    """Make the images that were recorded as ``img_<name>``."""
    generator = model.generator
    if name == "wplus":
        return generator.synthesis(io["wplus"])
    settings: dict[str, Any] = {}
    if match := re.match(r"psi(\d)(\d?)", name):
        settings["truncation_psi"] = float(f"{match[1]}.{match[2]}") if match[2] else 1.0
    if match := re.search(r"cutoff(\d+)", name):
        settings["truncation_cutoff"] = int(match[1])
    if name == "noise_none":
        settings["noise_mode"] = "none"
    if name == "noise_random":
        drawn = [key for key in io if key.startswith("rnoise_")]
        drawn.sort(key=lambda key: (io[key].shape[-1], key))
        settings["noise"] = [io[key] for key in drawn]
    return generator(io["z"], labels(io), **settings)


@pytest.mark.parametrize(("path", "case"), CASES, ids=lambda value: getattr(value, "name", value))
@torch.no_grad()
def test_images_are_the_original_implementation_s(
    path: Path, case: str, golden: Golden, canary: Path
) -> None:
    io = golden(case)
    model = load(path)
    names = [key.removeprefix("img_") for key in io if re.match(r"img_(psi|noise|wplus)", key)]
    assert len(names) >= 4
    for name in names:
        torch.testing.assert_close(call(model, io, name), io[f"img_{name}"], **TOLERANCE)
    assert (io["img_G_not_ema"] - io["img_psi1"]).abs().max() > 0.01
    assert not canary.exists()


@pytest.mark.parametrize(("path", "case"), CASES, ids=lambda value: getattr(value, "name", value))
@torch.no_grad()
def test_ws_and_logits_are_the_original_implementation_s(
    path: Path, case: str, golden: Golden
) -> None:
    io = golden(case)
    model, c = load(path), labels(io)
    for name in (key for key in io if key.startswith("ws_psi")):
        psi = float(f"{name[6]}.{name[7:8] or 0}")
        cutoff = int(name.split("cutoff")[1]) if "cutoff" in name else None
        ws = model.generator.mapping(io["z"], c, truncation_psi=psi, truncation_cutoff=cutoff)
        torch.testing.assert_close(ws, io[name], **TOLERANCE)
    judged = {
        "d_logits": io["img_psi1"], "d_logits_b4": io["img_psi1"],
        "d_logits_b1_first": io["img_psi1"][:1], "d_logits_b2_first2": io["img_psi1"][:2],
    }  # fmt: skip
    if "real" in io:
        both = torch.cat([io["img_psi1"], io["real"]])
        judged |= {
            "d_logits_real": io["real"], "d_logits_real_b4": io["real"],
            "d_logits_img_then_real": both, "d_logits_b8_img_then_real": both,
        }  # fmt: skip
    found = [name for name in judged if name in io]
    assert found
    for name in found:
        images = judged[name]
        own = None if c is None else c.repeat(2, 1)[: len(images)]
        torch.testing.assert_close(model.discriminator(images, own), io[name], **TOLERANCE)


@pytest.mark.parametrize("case", RECORDED)
@torch.no_grad()
def test_a_file_without_averaged_weights_gives_those_that_are_picked(
    case: str, golden: Golden, tmp_path: Path
) -> None:
    content = (GOLDEN / case / "net.pkl").read_bytes()
    path = tmp_path / "net.pkl"
    path.write_bytes(content.replace(b"G_ema", b"other"))
    with pytest.raises(CheckpointError, match="could be the generator: G, other") as caught:
        load(path)
    assert "--key" in (caught.value.hint or "")
    io, model = golden(case), load(path, keys=["G"])
    assert model.discriminator is None
    images = model.generator(io["z"], labels(io))
    torch.testing.assert_close(images, io["img_G_not_ema"], **TOLERANCE)
    assert model.provenance[0]["inferred"]["generator"] == "G"


@pytest.mark.parametrize("case", RECORDED)
def test_round_trip_through_our_own_format(case: str, tmp_path: Path) -> None:
    model = load(GOLDEN / case / "net.pkl")
    save(model, tmp_path / "own.safetensors")
    again = load(tmp_path / "own.safetensors")
    assert again.content_hash() == model.content_hash()
    assert again.config == model.config
    assert again.architecture == ("stylegan3" if "stylegan3" in case else "stylegan2")
    assert again.discriminator is not None
    assert again.discriminator.architecture == "stylegan2"
    assert "non-commercial" in again.provenance[0]["licence"]


def test_the_command_line_says_what_was_found(tmp_path: Path, ganc: Callable[..., Outcome]) -> None:
    path = GOLDEN / STYLEGAN3_R / "net.pkl"
    imported = ganc("import", path, "-o", tmp_path / "own.safetensors")
    assert imported.code == 0
    assert "recognised as nvidia; generator = G_ema, ignored = G, discriminator = D" in imported.err
    assert "non-commercial" in ganc("info", tmp_path / "own.safetensors", "--json").out
    wrong = ganc("import", path, "-o", tmp_path / "x.safetensors", "--architecture", "sngan")
    assert wrong.code == 3


# --- trees that were changed after reading ----------------------------------------------------


def tree_of(case: str) -> dict[str, Any]:
    path = GOLDEN / case / "net.pkl"
    tree: dict[str, Any] = pickles.read(path.read_bytes(), str(path))
    return tree


def part(tree: Mapping[str, Any], path: str) -> Record:
    """Return a module by its path: "G_ema.synthesis.b8"."""
    first, *rest = path.split(".")
    record: Record = tree[first]
    for name in rest:
        record = record.state["_modules"][name]
    return record


@torch.no_grad()
def test_one_network_alone(golden: Golden) -> None:
    io = golden(STYLEGAN2)
    for name, role in (("G_ema", "generator"), ("D", "discriminator")):
        record = tree_of(STYLEGAN2)[name]
        networks = read_tree(record).networks
        assert list(networks) == [role]
    logits = networks["discriminator"](io["img_psi1"], io["c"])
    torch.testing.assert_close(logits, io["d_logits"], **TOLERANCE)


def test_entries_that_hold_nothing_are_passed_over() -> None:
    tree = tree_of(ADA_ORIG) | {"D": None, "G": None, "augment_pipe": None}
    assert list(read_tree(tree).networks) == ["generator"]
    for tree in ({"G_ema": None}, ["G_ema"]):
        with pytest.raises(CheckpointError, match="no known layout"):
            read_tree(tree)


def test_settings_are_those_of_the_modules() -> None:
    networks = read_tree(tree_of(ADA_ORIG)).networks
    generator, discriminator = networks["generator"].config, networks["discriminator"].config
    assert generator["mapping_kwargs"] == {
        "num_layers": 3, "lr_multiplier": 0.02, "embed_features": 5, "layer_features": 9,
    }  # fmt: skip
    assert generator["architecture"] == discriminator["architecture"] == "orig"
    assert (generator["conv_clamp"], discriminator["conv_clamp"]) == (3.0, 1.2)
    assert generator["resample_filter"] == [1, 3, 3, 1]
    assert generator["widths"]["b16.conv1"] == 8
    assert discriminator["cmap_dim"] == 7
    assert discriminator["mbstd_group_size"] == discriminator["mbstd_num_channels"] == 2


@torch.no_grad()
def test_a_label_may_be_embedded_without_layers() -> None:
    # As in discriminators that NVIDIA converted from TensorFlow: the normalised embedding is w.
    tree = tree_of(STYLEGAN2)
    modules = part(tree, "D.mapping").state["_modules"]
    for name in [name for name in modules if name.startswith("fc")]:
        del modules[name]
    network: Any = read_tree(tree).networks["discriminator"]
    network.b4.out.weight.fill_(0.0)  # so that the logit is the bias against the label's map
    labels = torch.eye(4)
    embedded = labels @ network.mapping.embed.weight.T / 2 + network.mapping.embed.bias
    cmap = embedded / embedded.square().mean(dim=1, keepdim=True).add(1e-8).sqrt()
    expected = cmap @ network.b4.out.bias[:, None] / network.cmap_dim**0.5
    images = torch.zeros(4, 3, network.img_resolution, network.img_resolution)
    torch.testing.assert_close(network(images, labels), expected, atol=1e-5, rtol=1e-5)


def test_the_whole_batch_may_be_one_group() -> None:
    tree = tree_of(STYLEGAN3_T)
    part(tree, "D.b4.mbstd").state["group_size"] = None
    assert read_tree(tree).networks["discriminator"].config["mbstd_group_size"] is None


def set_(path: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: part(tree, path).state.__setitem__(key, value)


def argue(path: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: part(tree, path).state["_init_kwargs"].__setitem__(key, value)


def rename(path: str, name: str) -> Callable[[dict[str, Any]], None]:
    return lambda tree: setattr(part(tree, path), "name", name)


def put(path: str, key: str, value: Any, group: str = "_parameters") -> Callable[..., None]:
    return lambda tree: part(tree, path).state[group].__setitem__(key, value)


def share(path: str, key: str, other: str) -> Callable[[dict[str, Any]], None]:
    return lambda tree: part(tree, path).state["_modules"].__setitem__(key, part(tree, other))


REFUSED: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    (ADA_ORIG, rename("D", "ProjectedDiscriminator"),
     "D is of the class ProjectedDiscriminator, which is not known"),
    (ADA_ORIG, rename("G_ema.synthesis.b8", "AttentionBlock"),
     r"G_ema\.synthesis\.b8 is of the class AttentionBlock"),
    (ADA_ORIG, argue("G_ema", "num_heads", 4), "the argument num_heads, which is not"),
    (ADA_ORIG, argue("G_ema", "synthesis_kwargs", {"use_nois": False}), "use_nois,"),
    (ADA_ORIG, argue("D", "block_kwargs", {"attention": True}), "argument attention"),
    (ADA_ORIG, set_("G_ema.mapping.fc1", "activation", "relu"),
     r"G_ema\.mapping\.fc1 has an activation other than lrelu"),
    (ADA_ORIG, set_("G_ema.synthesis.b8.conv0", "use_noise", False), "adds no noise"),
    (ADA_ORIG, set_("G_ema.synthesis.b8.conv0", "conv_clamp", 7.0),
     "differ in their conv_clamp"),
    (ADA_ORIG, set_("D.b8", "architecture", "skip"), "differ in their architecture"),
    (ADA_ORIG, set_("G_ema", "z_dim", "10"), "has a z_dim that is a str"),
    (ADA_ORIG, set_("G_ema", "img_resolution", 17), "17 is not a power of two"),
    (ADA_ORIG, set_("G_ema", "img_resolution", 10**9), "not a power of two"),
    (ADA_ORIG, put("G_ema.mapping", "w_avg", None, "_buffers"), "w_avg is missing"),
    (ADA_ORIG, put("G_ema.synthesis.b8.conv0", "gate", torch.zeros(3)),
     r"b8\.conv0\.gate is not part of this architecture"),
    (ADA_ORIG, put("G_ema.synthesis.b8.conv0", "bias", torch.zeros(3)),
     r"b8\.conv0\.bias has shape \(3,\)"),
    (ADA_ORIG, put("G_ema.synthesis.b8.conv0", "weight", torch.tensor(1.0)),
     "G_ema: its settings do not fit"),
    (ADA_ORIG, put("G_ema.synthesis.b8.conv0", "bias", [1.0]), "bias is a list"),
    (ADA_ORIG, put("G_ema.synthesis.b8.conv0", "a\nb", torch.zeros(1)), r"a\\nb"),
    (ADA_ORIG, share("G_ema.synthesis.b8", "conv0", "G_ema.synthesis.b8.conv1"),
     "is no module of its own"),
    (ADA_RESNET, put("D.b8", "resample_filter", torch.ones(4, 4), "_buffers"),
     "blur kernels differ"),
    (ADA_RESNET,
     lambda tree: tree.update(G_ema=copy.copy(tree["D"])),
     "G_ema is a Discriminator where a generator"),
    (STYLEGAN3_T, argue("G_ema", "lrelu_upsampling", 10**6), "no int from 1 to 8"),
    (STYLEGAN3_T, argue("G_ema", "first_cutoff", float("nan")), "no float from 0.5"),
    (STYLEGAN3_T, argue("G_ema", "use_radial_filters", 1), "no bool"),
    (STYLEGAN3_T, argue("G_ema", "first_cutoff", 3.0), "is not the filter that"),
    (STYLEGAN3_T, argue("G_ema", "architecture", "skip"), "the argument architecture"),
    (STYLEGAN3_T, set_("G_ema.synthesis", "num_layers", 10**7), "is missing"),
    (STYLEGAN3_T, put("G_ema.synthesis.input", "freqs", None, "_buffers"),
     r"synthesis\.input\.freqs is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "change", "finding"), REFUSED)
def test_what_does_not_fit_is_named(
    case: str, change: Callable[[dict[str, Any]], None], finding: str
) -> None:
    tree = tree_of(case)
    read_tree(tree)
    change(tree)
    with pytest.raises(CheckpointError, match=finding) as caught:
        read_tree(tree)
    assert caught.value.message.isprintable()


def test_dropped_arguments_change_nothing() -> None:
    tree = tree_of(STYLEGAN2)
    before = read_tree(tree).networks["generator"].config
    tree["G_ema"].state["_init_kwargs"] |= dict.fromkeys(nvidia.DROPPED, 7)
    assert read_tree(tree).networks["generator"].config == before
