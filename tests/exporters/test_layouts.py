"""The layouts of public code: its recorded names, shapes and numbers; what ganc reads back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ganc.checkpoints import nvidia, nvidia_tensors, pickles, rosinality_writer
from ganc.checkpoints.store import load, save
from ganc.errors import CheckpointError, InputError, UsageError
from ganc.exporters.export import export
from ganc.models.model import Model
from ganc.models.stylegan2 import Generator
from ganc.models.stylegan2_discriminator import Discriminator
from ganc.pruning.slicing import PrunePlan, apply_plan
from tests.conftest import Outcome, make_model, randomise
from tests.families import make_sngan, make_stylegan3

GOLDEN = Path(__file__).parents[1] / "golden"
PICKLES = {
    "stylegan2": GOLDEN / "files/nvidia/nvidia-stylegan2-32.pkl",
    "stylegan3": GOLDEN / "files/nvidia/nvidia-stylegan3-t-32.pkl",
    "labels": GOLDEN / "nvidia-stylegan2-ada-16-orig/net.pkl",
    "radial": GOLDEN / "nvidia-stylegan3-r-16/net.pkl",
    "few layers": GOLDEN / "nvidia-stylegan3-t-16/net.pkl",
}
ROSINALITY = GOLDEN / "files/rosinality/networks.pt"


def same_tensors(ours: dict[str, Any], recorded: dict[str, Any]) -> None:
    assert set(ours) == set(recorded)
    for name, tensor in recorded.items():
        # The designed filters come from another library in float64; all else is copied.
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=0, msg=name)


def test_rosinality_gives_back_the_public_state_dicts() -> None:
    recorded = torch.load(ROSINALITY, weights_only=True)
    tree = rosinality_writer.to_layout(load(ROSINALITY)).tree
    same_tensors(tree["g_ema"], recorded["g_ema"])
    same_tensors(tree["d"], recorded["d"])
    assert tree["latent_avg"].shape == (64,)


@pytest.mark.parametrize("name", PICKLES)
def test_nvidia_gives_back_the_public_state_dicts(name: str) -> None:
    records = pickles.read(PICKLES[name].read_bytes(), name)
    layout = nvidia_tensors.to_layout(load(PICKLES[name]))
    assert layout.unfit_widths == {}
    for network in ("G_ema", "D"):
        recorded = nvidia.Modules.of_record(network, records[network]).tensors
        same_tensors(layout.tree[network], recorded)
        given = records[network].state["_init_kwargs"]
        given = given | given.get("synthesis_kwargs", {})
        for argument in ("img_resolution", "c_dim", "conv_clamp", "num_layers", "architecture"):
            if argument in given:
                assert layout.arguments[network][argument] == given[argument]


def pruned(model: Model) -> Model:
    keep = {g.name: range(g.width - 1 - i % 2) for i, g in enumerate(model.generator.groups())}
    return apply_plan(Model(generator=model.generator), PrunePlan(keep))


def unusual_rate() -> Model:
    """A mapping network whose stored weights mean something else under the layout's multiplier."""
    torch.manual_seed(0)
    mapping = {"num_layers": 2, "lr_multiplier": 0.5}
    generator = Generator(8, 0, 8, 16, 3, mapping_kwargs=mapping, channel_base=96, channel_max=6)
    randomise(generator, 0)
    return Model(generator=generator.eval())


MODELS: dict[str, tuple[str, Callable[[], Model]]] = {
    "rosinality": ("rosinality", lambda: load(ROSINALITY)),
    "rosinality, pruned": ("rosinality", lambda: pruned(load(ROSINALITY))),
    "rosinality, another rate": ("rosinality", unusual_rate),
    "nvidia": ("nvidia", lambda: load(PICKLES["labels"])),
    "nvidia, pruned": ("nvidia", lambda: pruned(load(PICKLES["stylegan2"]))),
    "nvidia, 3": ("nvidia", lambda: make_stylegan3(c_dim=3)),
    "nvidia, 3, pruned": ("nvidia", lambda: pruned(make_stylegan3())),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_what_is_exported_comes_back(tmp_path: Path, name: str) -> None:
    layout, make = MODELS[name]
    model = make()
    result = export(model, tmp_path / "m.pt", format=layout)
    assert result.max_abs_error <= 1e-5
    assert bool(result.unfit_widths) == (layout == "rosinality" or "pruned" in name)
    back = load(tmp_path / "m.pt")
    generator = model.generator
    z = torch.randn(3, generator.z_dim, generator=torch.Generator().manual_seed(0))
    c = torch.eye(generator.c_dim)[:3] if generator.c_dim else None
    expected = generator(z, c, truncation_psi=0.6)
    torch.testing.assert_close(
        back.generator(z, c, truncation_psi=0.6), expected, atol=1e-5, rtol=0
    )
    assert back.widths == model.widths
    commands = [step["command"] for step in back.provenance]
    assert commands == [*(step["command"] for step in model.provenance), "export", "import"]


def test_widths_that_the_public_rule_cannot_give_are_listed(tmp_path: Path) -> None:
    model = make_stylegan3()
    keep = {group.name: range(group.width) for group in model.generator.groups()}
    narrow = apply_plan(Model(generator=model.generator), PrunePlan(keep | {"L1": range(2)}))
    assert export(model, tmp_path / "a.pt", format="nvidia").unfit_widths == {}
    unfit = export(narrow, tmp_path / "b.pt", format="nvidia").unfit_widths
    assert unfit == {"L1": (2, len(keep["L1"]))}
    names = torch.load(tmp_path / "b.pt", weights_only=True)["G_ema"]
    assert any(name.startswith("synthesis.L1_") and name.endswith("_2.weight") for name in names)


def test_the_file_holds_tensors_and_json(tmp_path: Path) -> None:
    export(make_model(), tmp_path / "m.pt", format="nvidia")
    tree = torch.load(tmp_path / "m.pt", weights_only=True)
    config = json.loads(tree["config"])
    assert config["architecture"] == "stylegan2"
    assert config["arguments"]["G_ema"]["img_resolution"] == 16
    assert config["config"]["widths"] == make_model().config["widths"]


@pytest.mark.parametrize(("channel_base", "multiplier"), [(32768, 2), (16384, 1)])
def test_rosinality_lists_the_discriminator_too(channel_base: int, multiplier: int) -> None:
    narrow = load(ROSINALITY)
    listed = rosinality_writer.to_layout(narrow).unfit_widths
    assert narrow.discriminator is not None
    own = {f"discriminator.{n}": w for n, w in narrow.discriminator.config["widths"].items()}
    # That code makes everything up to 32 px 512 channels wide.
    assert {name: pair for name, pair in listed.items() if name in own} == {
        name: (width, 512) for name, width in own.items()
    }
    with torch.device("meta"):  # no weight of these is read
        wide = Discriminator(0, 128, 3, channel_base=channel_base)
    layout = rosinality_writer.to_layout(
        Model(generator=pruned(narrow).generator, discriminator=wide)
    )
    assert layout.arguments["Discriminator"]["channel_multiplier"] == multiplier
    assert not any(name.startswith("discriminator.") for name in layout.unfit_widths)


def with_filter(taps: int) -> Model:
    kwargs = {"channel_base": 96, "channel_max": 6, "resample_filter": list(range(1, taps + 1))}
    generator = Generator(8, 0, 8, 16, 3, architecture="resnet", **kwargs)
    discriminator = Discriminator(0, 16, 3, **kwargs)
    return Model(generator=generator.eval(), discriminator=discriminator.eval())


@pytest.mark.parametrize(("taps", "stored"), [(3, (3, 3)), (8, (8,))])
def test_layers_that_keep_the_size_have_the_usual_filter(
    tmp_path: Path, taps: int, stored: tuple[int, ...]
) -> None:
    model = with_filter(taps)
    tree = nvidia_tensors.to_layout(model).tree
    shapes = {
        f"{network}.{name.removesuffix('.resample_filter')}": tuple(tensor.shape)
        for network in ("G_ema", "D")
        for name, tensor in tree[network].items()
        if name.endswith("resample_filter")
    }
    # As NVIDIA's constructors pass the filter on; the others keep their default of four taps.
    given = {"G_ema.synthesis.b4", "D.b16", "D.b16.conv1", "D.b16.skip", "D.b8", "D.b8.conv1",
             "D.b8.skip"}  # fmt: skip
    for block in ("G_ema.synthesis.b8", "G_ema.synthesis.b16"):
        given |= {block, f"{block}.conv0", f"{block}.skip"}
    assert {name for name, shape in shapes.items() if shape == stored} == given
    assert {shape for name, shape in shapes.items() if name not in given} == {(4, 4)}
    export(model, tmp_path / "m.pt", format="nvidia")
    assert load(tmp_path / "m.pt").generator.config == model.generator.config


@pytest.mark.parametrize(
    ("layout", "make", "finding"),
    [
        ("rosinality", lambda: make_model(c_dim=3), r"labels \(c_dim 3\)"),
        ("rosinality", make_stylegan3, "for stylegan2, not stylegan3"),
        ("rosinality", lambda: with_filter(3), "resample_filter has 3 taps instead of 4"),
        ("nvidia", make_sngan, "stylegan2 and stylegan3, not sngan"),
    ],
)
def test_a_model_that_the_layout_cannot_hold_is_refused(
    tmp_path: Path, layout: str, make: Callable[[], Model], finding: str
) -> None:
    with pytest.raises(InputError, match=finding):
        export(make(), tmp_path / "m.pt", format=layout)
    assert list(tmp_path.iterdir()) == []


def test_options_of_other_formats_are_refused(tmp_path: Path) -> None:
    for options in ({"opset": 18}, {"inputs": "ws"}, {"dtype": "fp16"}):
        with pytest.raises(UsageError):
            export(make_model(), tmp_path / "m.pt", format="nvidia", **options)


@pytest.mark.parametrize(
    "config",
    [
        '{"architecture": "stylegan2", "config": ',
        '{"architecture": "stylegan2", "config": {}}',
        '{"architecture": "stylegan2", "config": {"z_dim": 6, "c_dim": 0, "w_dim": 6,'
        ' "img_resolution": 16, "img_channels": 3, "widths": "all"}}',
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path: Path, config: str) -> None:
    export(make_model(), tmp_path / "m.pt", format="nvidia")
    tree = torch.load(tmp_path / "m.pt", weights_only=True)
    torch.save(tree | {"config": config}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="config"):
        load(tmp_path / "other.pt")


@pytest.mark.parametrize("config", ["configs/ffhq.yaml", "a: 1\nb: 2", '{"batch": 4}', "[" * 10**5])
def test_a_config_of_another_program_is_passed_over(tmp_path: Path, config: str) -> None:
    model = make_model()
    export(model, tmp_path / "m.pt", format="nvidia")
    tree = torch.load(tmp_path / "m.pt", weights_only=True)
    torch.save(tree | {"config": config}, tmp_path / "other.pt")
    again = load(tmp_path / "other.pt")
    assert again.provenance[0]["layout"] == "nvidia_bare"
    assert again.widths == model.widths


def test_the_command_warns_of_widths(ganc: Callable[..., Outcome], tmp_path: Path) -> None:
    save(pruned(load(ROSINALITY)), tmp_path / "s.safetensors")
    outcome = ganc("export", tmp_path / "s.safetensors", "-o", tmp_path / "s.pt",
                   "--format", "rosinality", "--json")  # fmt: skip
    assert outcome.code == 0
    assert "warning: 8 groups have other widths than rosinality's code gives them" in outcome.err
    assert len(json.loads(outcome.out)["unfit_widths"]) == 8
