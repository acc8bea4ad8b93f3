"""SN-GAN files in mimicry's layout: what is read, what is inferred, what is refused."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from ganc.checkpoints.readers import read_tree
from ganc.checkpoints.store import import_checkpoints, load
from ganc.errors import CheckpointError
from tests.conftest import GOLDEN, Outcome

FILES = GOLDEN / "files" / "mimicry"
NET_G, NET_D = FILES / "netG_100000_steps.pth", FILES / "netD_100000_steps.pth"
State = dict[str, Tensor]


def state_of(path: Path) -> State:
    state: State = torch.load(path, weights_only=True)["model_state_dict"]
    return dict(state)


def recorded(resolution: int, network: str) -> State:
    path = GOLDEN / f"mimicry-sngan-{resolution}" / "weights.safetensors"
    tensors = safetensors.torch.load_file(path)
    return {name[2:]: t for name, t in tensors.items() if name.startswith(f"{network}.")}


def test_saved_networks() -> None:
    notes: list[str] = []
    generator, discriminator = (load(path, note=notes.append) for path in (NET_G, NET_D))
    assert generator.architecture == discriminator.architecture == "sngan"
    (step,) = generator.provenance
    assert (step["layout"], step["global_step"]) == ("mimicry", 100_000)
    assert step["inferred"] == {
        "generator": "model_state_dict", "z_dim": 24,
        "img_resolution": 32, "img_channels": 3, "bottom_width": 4,
    }  # fmt: skip
    assert discriminator.provenance[0]["inferred"] == {
        "discriminator": "model_state_dict", "img_resolution": 32, "img_channels": 3,
    }  # fmt: skip
    assert "recognised as mimicry; generator = model_state_dict, z_dim = 24" in notes[0]
    assert not generator.generator.training


def test_two_files_join(ganc: Callable[..., Outcome], tmp_path: Path) -> None:
    joined = import_checkpoints([NET_G, NET_D])
    assert ganc("import", NET_G, NET_D, "-o", tmp_path / "both.safetensors").code == 0
    again = load(tmp_path / "both.safetensors")
    assert again.content_hash() == joined.content_hash()
    assert [step["source"] for step in again.provenance] == [NET_G.name, NET_D.name]
    with pytest.raises(CheckpointError, match="holds a generator"):
        import_checkpoints([NET_G, NET_G])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": None, "global_step": 3},
        lambda state: {name: t.half() if t.is_floating_point() else t for name, t in state.items()},
    ],
    ids=["bare", "module.", "no optimiser", "half"],
)
def test_wrappings(wrap: Callable[[State], dict[str, Any]], tmp_path: Path) -> None:
    for path in (NET_G, NET_D):
        torch.save(wrap(state_of(path)), tmp_path / "net.pth")
        model, expected = load(tmp_path / "net.pth"), load(path)
        assert model.config == expected.config
        for name, tensor in model.tensors().items():
            assert tensor.dtype == expected.tensors()[name].dtype
            torch.testing.assert_close(tensor, expected.tensors()[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("resolution", "bottom_width"), [(48, 6), (64, 4), (128, 4)])
def test_sizes_are_inferred(resolution: int, bottom_width: int) -> None:
    generator = read_tree(recorded(resolution, "G"))
    assert generator.inferred["img_resolution"] == resolution
    assert generator.inferred["bottom_width"] == bottom_width
    discriminator = read_tree(recorded(resolution, "D"))
    assert discriminator.inferred["img_resolution"] == resolution


def test_discriminators_of_48_and_64_px_differ_in_a_name_only() -> None:
    small, large = recorded(48, "D"), recorded(64, "D")
    renamed = {re.sub(r"^l5\.", "l6.", name): tensor for name, tensor in small.items()}
    assert renamed.keys() == large.keys()
    assert read_tree(renamed).inferred["img_resolution"] == 64


def test_networks_that_were_pruned_elsewhere() -> None:
    state = state_of(NET_G)
    keep = [0, 3, 4]
    for name in ("c1.weight", "c1.bias", "b2.weight", "b2.bias", "b2.running_mean",
                 "b2.running_var"):  # fmt: skip
        state[f"block3.{name}"] = state[f"block3.{name}"][keep]
    state["block3.c2.weight"] = state["block3.c2.weight"][:, keep]
    network = read_tree(state).networks["generator"]
    assert network.config["widths"]["block3.conv1"] == 3
    assert network.config["widths"]["block3.conv2"] == 32


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", [NET_G, NET_D], ids=lambda path: path.name[:4])
def test_every_missing_or_misshapen_tensor_is_refused(path: Path) -> None:
    for name, tensor in state_of(path).items():
        if name.endswith("num_batches_tracked"):
            continue  # nothing reads it: filled in where it is missing
        damaged = state_of(path)
        del damaged[name]
        with pytest.raises(CheckpointError):
            read_tree(damaged)
        for other in (tensor[None], tensor.new_zeros(0), torch.cat([tensor.reshape(-1)] * 2)):
            with pytest.raises(CheckpointError):
                read_tree(state_of(path) | {name: other})


@pytest.mark.parametrize(
    ("path", "rename", "finding"),
    [
        (NET_D, ("weight_orig", "weight"), r"block1\.c1\.weight does not fit"),  # WGAN-GP
        (NET_G, ("block2.b1.", "block2.b1.embed."), r"block2\.b1\.embed\.weight does not fit"),
        (NET_G, ("l1.weight", "l1.weight_orig"), r"l1\.weight_orig does not fit"),  # SAGAN
        (NET_G, ("c5.", "c6."), r"c6\.weight does not fit"),
        (NET_D, ("l5.", "l7."), "4 blocks, block1, block2 with a shortcut convolution"),
        (NET_D, ("block4.", "block9."), r"block4\.conv1\.bias is missing"),
    ],
)
def test_first_name_that_does_not_fit(
    path: Path, rename: tuple[str, str], finding: str, tmp_path: Path
) -> None:
    state = {name.replace(*rename): tensor for name, tensor in state_of(path).items()}
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=finding) as caught:
        load(tmp_path / "odd.pth")
    assert "odd.pth" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"l_y.weight": torch.zeros(4, 32)}, r"l_y\.weight does not fit"),  # SSGAN
        ({"l1.weight": torch.zeros(500, 24)}, "l1 has 500 rows, no square map for 32 channels"),
        ({"block3.c1.bias": torch.zeros(31)}, r"block3\.norm2\.weight has shape \(32,\)"),
        ({"b5.running_var": torch.zeros(7)}, r"norm\.running_var has shape \(7,\)"),
    ],
)
def test_damage_is_named(change: Mapping[str, Tensor], finding: str) -> None:
    with pytest.raises(CheckpointError, match=finding):
        read_tree(state_of(NET_G) | change)


@pytest.mark.parametrize("tree", [None, [], {}, {"model_state_dict": {}}, {"l1.weight": 3}])
def test_other_trees_are_not_recognised(tree: Any) -> None:
    with pytest.raises(CheckpointError, match="no known layout"):
        read_tree(tree)


# --- commands ------------------------------------------------------------------------------------


def test_commands_take_the_file(
    ganc: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scores, small = "netG_100000_steps.l1-out.scores.safetensors", tmp_path / "small.safetensors"
    for arguments in (
        ("info", NET_G),
        ("score", NET_G, "--method", "l1-out"),
        ("prune", NET_G, "--scores", scores, "--prune-ratio", 0.5, "-o", small),
        ("sample", small, "-n", 4, "-o", tmp_path / "grid.png"),
        ("info", small),
    ):
        outcome = ganc(*arguments)
        assert outcome.code == 0, outcome.err
    assert load(small).widths == dict.fromkeys(load(NET_G).widths, 16)
    refused = ganc("sample", small, "-o", tmp_path / "x.png", "--truncation", 0.7)
    assert refused.code == 2
    assert "sngan has no truncation" in refused.err
