"""Bare state dicts of NVIDIA's networks: the pickle's network, or a question by name."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from ganc.checkpoints import pickles
from ganc.checkpoints.nvidia import Modules
from ganc.checkpoints.readers import read_tree
from ganc.checkpoints.store import import_checkpoints, load
from ganc.errors import CheckpointError, UsageError
from tests.checkpoints.wrapped import State, inferred, loaded
from tests.conftest import GOLDEN, Outcome

CASES = [
    "nvidia-stylegan2-ada-16-orig",
    "nvidia-stylegan2-ada-16-resnet",
    "nvidia-stylegan2-16-labels",
    "nvidia-stylegan3-r-16",
    "nvidia-stylegan3-t-16",
]
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def bare(case: str, network: str = "G_ema") -> State:
    """Return what ``torch.save(G.state_dict())`` would hold."""
    path = GOLDEN / case / "net.pkl"
    tree = pickles.read(path.read_bytes(), case)
    return Modules.of_record(network, tree[network]).tensors


def unrecorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a config that no tensor shows."""
    names = ("conv_clamp", "mbstd_group_size", "num_critical", "first_cutoff", "first_stopband",
             "last_stopband_rel", "margin_size", "output_scale", "filter_size", "lrelu_upsampling",
             "magnitude_ema_beta")  # fmt: skip
    multiplier = config.get("mapping_kwargs", {}).get("lr_multiplier", 0.01)
    return {name: config[name] for name in names if name in config} | {"lr_multiplier": multiplier}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("network", "role"), [("G_ema", "generator"), ("D", "discriminator")])
def test_with_what_tensors_do_not_show_it_is_the_pickles_network(
    case: str, network: str, role: str
) -> None:
    whole = load(GOLDEN / case / "net.pkl")
    expected = getattr(whole, role)
    reading = read_tree(bare(case, network), settings=unrecorded(expected.config))
    assert list(reading.networks) == [role]
    assert reading.networks[role].config == expected.config
    own = reading.networks[role].state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in expected.state_dict().items())


@torch.no_grad()
def test_recorded_images_with_what_is_assumed(
    golden: Callable[[str], Mapping[str, Tensor]],
) -> None:
    # No clamp and the usual multiplier; a clamp of 256 that never bites and the usual filters.
    for case, folder in (("nvidia-stylegan2-32", "nvidia_2a"), ("nvidia-stylegan3-t-32", "3a")):
        io = golden(case)
        path = GOLDEN / "files" / "nvidia" / f"{case}.pkl"
        state = Modules.of_record("G", pickles.read(path.read_bytes(), folder)["G_ema"]).tensors
        model = loaded({"state_dict": state})
        images = model.generator(io["z"], None)
        expected = io["img_psi1_const"] if "img_psi1_const" in io else io["img_psi1"]
        torch.testing.assert_close(images, expected, **TOLERANCE)
        found = inferred(model)
        assert found["lr_multiplier"] == "0.01 (assumed)"
        assert {"z_dim", "c_dim", "conv_clamp"} <= found.keys()
        assert "non-commercial" in model.provenance[0]["licence"]


def test_assumptions_are_the_users_to_change(ganc: Callable[..., Outcome], tmp_path: Any) -> None:
    torch.save(bare("nvidia-stylegan2-16-labels"), tmp_path / "g.pth")
    done = ganc("import", tmp_path / "g.pth", "-o", tmp_path / "g.safetensors", "--set",
                "lr_multiplier=0.02", "--set", "conv_clamp=3.5")  # fmt: skip
    assert done.code == 0, done.err
    assert "lr_multiplier = 0.02 (given), conv_clamp = 3.5 (given)" in done.err
    config = load(tmp_path / "g.safetensors").generator.config
    assert config["mapping_kwargs"]["lr_multiplier"] == 0.02
    assert config["conv_clamp"] == 3.5


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"lr_multiplier": "much"}, "lr_multiplier=much is no number"),
        ({"lr_multiplier": float("nan")}, "is no number"),
        ({"margin": 3}, "unknown setting `margin`"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, Any], finding: str, tmp_path: Any) -> None:
    torch.save(bare("nvidia-stylegan2-16-labels"), tmp_path / "g.pth")
    with pytest.raises(UsageError, match=finding):
        import_checkpoints([tmp_path / "g.pth"], settings=change)


def test_a_multiplier_moves_the_computed_mean_of_w(tmp_path: Any) -> None:
    from tests.checkpoints.wrapped import stylegan2

    state, _, _ = stylegan2()
    usual, other = (loaded({"g_ema": state}, settings=s) for s in ({}, {"lr_multiplier": 0.02}))
    z = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(1))
    for model in (usual, other):
        with torch.no_grad():
            w = model.generator.mapping(z)[:, 0]
        error = w.std(dim=0) * (1 / 10_000 + 1 / 20_000) ** 0.5
        assert ((model.generator.w_avg - w.mean(dim=0)).abs() < 5 * error).all()
    assert not torch.allclose(usual.generator.w_avg, other.generator.w_avg)


@pytest.mark.parametrize(
    "setting", [{"first_cutoff": 3.0}, {"margin_size": 12}, {"num_critical": 3}, {"filter_size": 5}]
)
def test_stylegan3_that_the_settings_do_not_design_is_asked_for(setting: dict[str, Any]) -> None:
    state = bare("nvidia-stylegan3-t-16")
    right = unrecorded(load(GOLDEN / "nvidia-stylegan3-t-16" / "net.pkl").generator.config)
    read_tree(state, settings=right)
    with pytest.raises(CheckpointError, match=r"its layer L0|is not the filter") as caught:
        read_tree(state, settings=right | setting)
    assert "--set first_cutoff=" in (caught.value.hint or "")
    assert "--set margin_size=" in (caught.value.hint or "")


def test_a_label_embedding_that_was_dropped_is_missed() -> None:
    state = {n: t for n, t in bare("nvidia-stylegan3-r-16").items() if "embed" not in n}
    w_dim = len(state["mapping.w_avg"])
    assert state["mapping.fc0.weight"].shape[1] == 2 * w_dim
    with pytest.raises(CheckpointError, match=r"label embedding .* was dropped") as caught:
        read_tree(state)
    assert f"--set z_dim={2 * w_dim}" in (caught.value.hint or "")
    model = read_tree(state, settings={"z_dim": 2 * w_dim}).networks["generator"]
    assert (model.config["z_dim"], model.config["c_dim"]) == (2 * w_dim, 0)


def test_more_than_w_is_z_and_a_label() -> None:
    # z of 6, w of 8 and an embedding of 4: not twice the size of w.
    state = bare("nvidia-stylegan2-16-labels")
    unlabelled = {n: t for n, t in state.items() if "embed" not in n}
    w_dim = len(state["mapping.w_avg"])
    rows = len(state["mapping.fc0.weight"])
    unlabelled["mapping.fc0.weight"] = torch.zeros(rows, w_dim + 3)
    with pytest.raises(CheckpointError, match=f"takes {w_dim + 3} numbers, w has {w_dim}"):
        read_tree(unlabelled)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_half_precision(case: str, dtype: torch.dtype) -> None:
    expected = load(GOLDEN / case / "net.pkl").generator
    state = {name: tensor.to(dtype) for name, tensor in bare(case).items()}
    own = read_tree(state, settings=unrecorded(expected.config)).networks["generator"]
    assert own.config == expected.config
    tensors = own.state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensors[name], tensor.to(dtype).float()), name


@pytest.mark.parametrize(
    ("case", "is_radial"), [("nvidia-stylegan3-r-16", True), ("nvidia-stylegan3-t-16", False)]
)
def test_without_filters_their_design_is_assumed(case: str, is_radial: bool) -> None:
    expected = load(GOLDEN / case / "net.pkl").generator
    state = {name: t for name, t in bare(case).items() if not name.endswith("_filter")}
    known = unrecorded(expected.config)
    reading = read_tree(state, settings=known)
    assert reading.networks["generator"].config == expected.config
    assert reading.inferred["use_radial_filters"] == f"{is_radial} (assumed)"
    assert reading.inferred["first_cutoff"].endswith("(given)")


@torch.no_grad()
def test_a_mean_of_w_that_is_missing_is_computed() -> None:
    state = {n: t for n, t in bare("nvidia-stylegan3-t-16").items() if n != "mapping.w_avg"}
    settings = unrecorded(load(GOLDEN / "nvidia-stylegan3-t-16" / "net.pkl").generator.config)
    reading = read_tree(state, settings=settings)
    assert "10000" in reading.inferred["w_avg"]
    generator: Any = reading.networks["generator"]
    z = torch.randn(20_000, generator.z_dim, generator=torch.Generator().manual_seed(1))
    w = generator.mapping(z)[:, 0]
    error = w.std(dim=0) * (1 / 10_000 + 1 / 20_000) ** 0.5
    assert ((generator.w_avg - w.mean(dim=0)).abs() < 5 * error).all()


def test_layers_without_sizes_in_their_names_are_named() -> None:
    state = {
        re.sub(r"\.(L\d+)_\d+_\d+\.", r".\1.", n): t
        for n, t in bare("nvidia-stylegan3-t-16").items()
    }
    with pytest.raises(CheckpointError, match="names carry no sizes"):
        read_tree(state)


def test_a_judge_that_lost_its_labels_is_missed() -> None:
    state = {n: t for n, t in bare("nvidia-stylegan2-16-labels", "D").items() if "mapping" not in n}
    with pytest.raises(CheckpointError, match=r"label mapping .* was dropped"):
        read_tree(state)


def test_noise_maps_that_are_missing_are_drawn_and_said() -> None:
    state = bare("nvidia-stylegan2-16-labels")
    lean = {name: t for name, t in state.items() if not name.endswith("noise_const")}
    first, second = (read_tree(lean) for _ in range(2))
    assert first.inferred["noise_maps"].endswith("drawn from seed 0")
    a, b = (reading.networks["generator"].state_dict() for reading in (first, second))
    maps = [name for name in a if name.endswith("noise_const")]
    assert maps
    assert all(torch.equal(a[name], b[name]) for name in a)
    drawn = torch.cat([a[name].flatten() for name in maps])
    assert abs(float(drawn.mean())) < 5 / len(drawn) ** 0.5
    one = {name: t for name, t in state.items() if name != "synthesis.b4.conv1.noise_const"}
    with pytest.raises(CheckpointError, match="though other noise maps are there"):
        read_tree(one)


@pytest.mark.parametrize("case", CASES)
def test_any_missing_tensor_is_named(case: str) -> None:
    state = bare(case)
    # Filters follow from the settings, noise maps are drawn, the mean of w without labels computed.
    takes_labels = any("embed" in name for name in state)
    spared = r"resample_filter|_filter$|noise_const" + ("" if takes_labels else "|w_avg")
    needed = [n for n in state if not re.search(spared, n)]
    for name in needed[:: max(1, len(needed) // 12)]:
        with pytest.raises(CheckpointError):
            read_tree({n: t for n, t in state.items() if n != name})
