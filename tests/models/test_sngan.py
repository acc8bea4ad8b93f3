"""SN-GAN against mimicry's recorded numbers, torch's spectral norm, and its own declaration."""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ganc.checkpoints.native import build_model
from ganc.checkpoints.readers import read_tree
from ganc.checkpoints.store import load
from ganc.errors import ShapeError, UsageError
from ganc.groups import check_groups, mask_consumers, slice_tensors
from ganc.models.model import Model
from ganc.models.sngan import (
    PLANS,
    Discriminator,
    Generator,
    discriminator_widths,
    generator_group_names,
)
from ganc.models.spectral import SpectralConv2d, SpectralLayer, SpectralLinear
from ganc.pruning.slicing import PrunePlan, apply_plan
from ganc.scoring.score import score
from tests.conftest import GOLDEN, randomise
from tests.test_groups import keep_sets

Golden = Callable[[str], Mapping[str, Tensor]]
RESOLUTIONS = list(PLANS)


def make(resolution: int, *, seed: int = 0, img_channels: int = 3) -> Model:
    """Build a narrow SN-GAN, odd and different widths everywhere, statistics off their start."""
    torch.manual_seed(seed)
    names = generator_group_names(resolution, PLANS[resolution].bottom_width)
    widths = {name: 5 + (3 * i) % 4 for i, name in enumerate(names)}
    d_widths = {name: 4 + (3 * i) % 5 for i, name in enumerate(discriminator_widths(resolution))}
    generator = Generator(6, resolution, img_channels, widths=widths)
    discriminator = Discriminator(resolution, img_channels, widths=d_widths)
    for network in (generator, discriminator):
        randomise(network, seed)
    for name, buffer in generator.named_buffers():
        if name.endswith("running_var"):
            buffer.abs_().add_(0.3)
    for layer in spectral_layers(discriminator).values():
        # Near, not at, the fixed point, as in a network that is being trained.
        for _ in range(5):
            layer.normalized_weight()
        layer.weight_u.copy_(F.normalize(layer.weight_u + 0.1 * torch.randn_like(layer.weight_u),
                                         dim=0))  # fmt: skip
    return Model(generator=generator.eval(), discriminator=discriminator.eval())


cached = cache(make)


def spectral_layers(network: nn.Module) -> dict[str, SpectralLayer]:
    return {name: m for name, m in network.named_modules() if isinstance(m, SpectralLayer)}


def sigma(layer: SpectralLayer) -> Tensor:
    return layer.weight_u @ layer.weight.detach().flatten(1) @ layer.weight_v


def recorded(resolution: int) -> tuple[Generator, Discriminator, dict[str, Tensor]]:
    folder = GOLDEN / f"mimicry-sngan-{resolution}"
    states: dict[str, dict[str, Tensor]] = {"G": {}, "D": {}}
    for name, tensor in safetensors.torch.load_file(folder / "weights.safetensors").items():
        states[name[0]][name[2:]] = tensor
    generator = read_tree(states["G"]).networks["generator"]
    discriminator = read_tree(states["D"]).networks["discriminator"]
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    return generator, discriminator, safetensors.torch.load_file(folder / "io.safetensors")


def assert_logits(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


# --- against the reference -----------------------------------------------------------------------


@torch.no_grad()
def test_recorded_images_at_32_px(golden: Golden) -> None:
    io = golden("mimicry-sngan-32-generator")
    generator = load(GOLDEN / "files" / "mimicry" / "netG_100000_steps.pth").generator
    seen: dict[str, Tensor] = {}
    for name in generator.block_names():
        generator.get_submodule(name).register_forward_hook(
            lambda module, x, y, name=name: seen.update({name: y[:1]})
        )
    torch.testing.assert_close(generator(io["z"]), io["img"], atol=1e-5, rtol=0)
    for name, features in seen.items():
        torch.testing.assert_close(features, io[f"dbg_{name}"], atol=1e-4, rtol=1e-5)
    assert len(seen) == 3
    assert generator.params() == 72_771


@torch.no_grad()
def test_recorded_logits_at_32_px(golden: Golden) -> None:
    io = golden("mimicry-sngan-32-discriminator")
    discriminator = load(GOLDEN / "files" / "mimicry" / "netD_100000_steps.pth").discriminator
    assert discriminator.params() == 17_041
    layers = spectral_layers(discriminator)
    theirs = {
        n: n.replace("conv", "c").replace("skip", "c_sc").replace("out", "l5") for n in layers
    }
    for name, layer in layers.items():
        torch.testing.assert_close(sigma(layer), io[f"sigma.{theirs[name]}"], rtol=1e-5, atol=0)
    assert_logits(discriminator(io["img"]), io["out_eval"])
    assert_logits(discriminator.train()(io["img"]), io["out_train_one_power_iter"])
    for name, layer in layers.items():
        for vector in ("weight_u", "weight_v"):
            expected = io[f"after_train.{theirs[name]}.{vector}"]
            torch.testing.assert_close(getattr(layer, vector), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("resolution", [48, 64, 128])
def test_recorded_pairs(resolution: int) -> None:
    generator, discriminator, io = recorded(resolution)
    stride = max(1, resolution // 32)
    img = F.interpolate(io["coarse"], size=resolution, mode="nearest")
    with torch.no_grad():
        for mode, key in ((False, "img"), (True, "img_train")):
            got = generator.train(mode)(io["z"])[:, :, ::stride, ::stride]
            torch.testing.assert_close(got, io[key], atol=1e-4, rtol=0)
        assert_logits(discriminator(img), io["out_eval"])
        assert_logits(discriminator.train()(img), io["out_train"])
    for name, layer in spectral_layers(discriminator).items():
        if name.startswith("block"):
            theirs = name.replace("conv", "c").replace("skip", "c_sc")
            expected = io[f"after_train.{theirs}.weight_u"]
            torch.testing.assert_close(layer.weight_u, expected, atol=1e-6, rtol=0)
    discriminator.eval()(img).sum().backward()
    torch.testing.assert_close(
        discriminator.get_parameter("block2.conv1.weight").grad,
        io["grad_eval.block2.c1.weight_orig"], rtol=1e-4, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("resolution", "params", "d_params"),
    [
        (32, 4_276_739, 1_053_825),
        (48, 4_878_083, 10_141_441),
        (64, 12_220_675, 10_141_441),
        (128, 32_150_787, 29_017_857),
    ],
)
def test_published_sizes(resolution: int, params: int, d_params: int) -> None:
    # Parameters as the reference counts its own; multiply-accumulates as torch counts ours.
    with torch.device("meta"):
        generator, discriminator = Generator(128, resolution, 3), Discriminator(resolution, 3)
        assert generator.params() == params
        assert discriminator.params() == d_params
        z, img = torch.zeros(1, 128), torch.zeros(1, 3, resolution, resolution)
        for network, x in ((generator.eval(), z), (discriminator.eval(), img)):
            with FlopCounterMode(display=False) as counter:
                network(x)
            assert 2 * network.macs() == counter.get_total_flops()


# --- spectral normalisation ----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_spectral_norm_is_torchs(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "conv":
        ours: SpectralLayer = SpectralConv2d(3, 5, 3)
        theirs = nn.utils.spectral_norm(nn.Conv2d(3, 5, 3, padding=1))
        x = torch.randn(2, 3, 6, 6)
    else:
        ours = SpectralLinear(7, 4)
        theirs = nn.utils.spectral_norm(nn.Linear(7, 4))
        x = torch.randn(2, 7)
    with torch.no_grad():
        for name in ("weight_u", "weight_v"):
            getattr(theirs, name).copy_(getattr(ours, name))
        theirs.weight_orig.copy_(ours.weight)
        theirs.bias.copy_(ours.bias)
    for training in (True, True, False):
        for layer in (ours, theirs):
            layer.train(training).zero_grad()
        y, expected = ours(x), theirs(x)
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
        y.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(ours.weight.grad, theirs.weight_orig.grad, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.weight_u, theirs.weight_u, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.weight_v, theirs.weight_v, rtol=1e-6, atol=1e-6)


def test_power_iteration_finds_the_largest_singular_value() -> None:
    torch.manual_seed(1)
    layer = SpectralConv2d(4, 6, 3)
    for _ in range(300):
        layer.normalized_weight()
    largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
    torch.testing.assert_close(sigma(layer), largest, rtol=1e-5, atol=0)


def test_two_passes_before_one_backward() -> None:
    # Real and fake images go through the discriminator before either gradient is taken.
    discriminator = make(32, seed=3).discriminator.train()
    real, fake = torch.randn(2, 2, 3, 32, 32)
    (discriminator(real).mean() - discriminator(fake).mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in discriminator.parameters())


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_slicing_keeps_every_sigma(data: st.DataObject) -> None:
    model = cached(data.draw(st.sampled_from(RESOLUTIONS)))
    sliced = apply_plan(model, PrunePlan(data.draw(keep_sets(model))))
    before, after = spectral_layers(model.discriminator), spectral_layers(sliced.discriminator)
    for name, layer in after.items():
        torch.testing.assert_close(sigma(layer), sigma(before[name]), rtol=1e-5, atol=0)
        if layer.weight.shape == before[name].weight.shape:
            assert torch.equal(layer.weight_u, before[name].weight_u)
        # Training goes on from unit vectors, and from the norm of the weights that are left.
        layer.train().normalized_weight()
        for vector in (layer.weight_u, layer.weight_v):
            torch.testing.assert_close(vector.norm(), torch.tensor(1.0), rtol=1e-5, atol=0)
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        assert sigma(layer) <= largest * (1 + 1e-5)


def test_nothing_left_of_a_spectral_norm_is_refused() -> None:
    model = make(32)
    with torch.no_grad():
        model.discriminator.get_parameter("block2.conv1.weight")[2] = 0
    with pytest.raises(UsageError, match=r"block2\.conv1\.weight: the plan leaves nothing"):
        apply_plan(model, PrunePlan({"discriminator.block2.conv1": [2]}))


# --- the declaration -----------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_slicing_equals_zeroing_the_consumers(resolution: int, data: st.DataObject) -> None:
    model = cached(resolution)
    keep = data.draw(keep_sets(model))
    full = build_model(
        model.architecture, model.config, mask_consumers(model.tensors(), model.groups, keep), []
    )
    sliced = apply_plan(model, PrunePlan(keep))
    random = torch.Generator().manual_seed(7)
    z = torch.randn(2, 6, generator=random)
    img = torch.randn(2, 3, resolution, resolution, generator=random)
    with torch.no_grad():
        # The spectral norm keeps sigma in eval mode only; batch statistics are a channel's own.
        pairs = [(sliced.discriminator(img), full.discriminator(img))]
        for is_training in (False, True):
            nets = [model.generator.train(is_training) for model in (sliced, full)]
            pairs.append((nets[0](z), nets[1](z)))
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_declaration_covers_every_tensor(resolution: int) -> None:
    model = cached(resolution)
    check_groups(model.groups, {name: tuple(t.shape) for name, t in model.tensors().items()})
    widths = {group.name: group.width - 1 for group in model.groups}
    plan = PrunePlan({name: range(width) for name, width in widths.items()})
    assert apply_plan(model, plan).widths == widths


def test_stem_owns_a_map_per_channel() -> None:
    model = cached(48)
    sliced = slice_tensors(model.tensors(), model.groups, {"stem": [1, 3]})
    rows = [*range(36, 72), *range(3 * 36, 4 * 36)]  # 6 x 6 rows per channel
    assert torch.equal(sliced["generator.stem.weight"], model.generator.stem.weight[rows])
    assert torch.equal(sliced["generator.stem.bias"], model.generator.stem.bias[rows])


def test_blocks_without_a_shortcut_convolution_share_the_trunk() -> None:
    names = [group.name for group in cached(32).discriminator.groups()]
    assert names == [
        "block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2", "block3.conv1",
        "block4.conv1",
    ]  # fmt: skip
    trunk = cached(32).discriminator.groups()[3]
    written = [s.tensor for s in trunk.slices if s.role == "out" and s.tensor.endswith("weight")]
    assert written == [f"block{i}.weight" for i in ("2.conv2", "2.skip", "3.conv2", "4.conv2")]
    scored = [part.tensor for part in trunk.scored_by]
    assert scored == ["block3.conv1.weight", "block4.conv1.weight", "out.weight"]


def test_importance_is_read_off_the_main_path() -> None:
    generator = cached(64).generator
    scores = score(cached(64), "l1-out", device="cpu").values
    assert list(scores) == list(generator.config["widths"])
    for group, consumer in (
        ("stem", "block2.conv1"), ("block2.conv1", "block2.conv2"),
        ("block2.conv2", "block3.conv1"), ("block5.conv2", "torgb"),
    ):  # fmt: skip
        weight = generator.get_parameter(f"{consumer}.weight").detach()
        torch.testing.assert_close(scores[group], weight.double().abs().sum(dim=(0, 2, 3)))


# --- arguments -----------------------------------------------------------------------------------


@torch.no_grad()
def test_images_do_not_depend_on_their_batch() -> None:
    generator = cached(32).generator
    z = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    images = generator(z)
    assert images.shape == (3, 3, 32, 32)
    assert images.abs().max() <= 1
    torch.testing.assert_close(generator(z[1:2]), images[1:2], atol=1e-5, rtol=0)
    for noise_mode in ("random", "const", "none"):
        assert torch.equal(generator(z, torch.zeros(3, 0), noise_mode=noise_mode, noise=[]), images)


@pytest.mark.parametrize(
    ("arguments", "error", "finding"),
    [
        ({"truncation_psi": 0.7}, UsageError, "sngan has no truncation: psi must be 1, got 0.7"),
        ({"c": torch.eye(3)[:2]}, ShapeError, r"sngan has no labels.*got \[2, 3\]"),
        ({"noise": [torch.zeros(2, 1, 4, 4)]}, ShapeError, "sngan has no noise.*got 1"),
        ({"noise_mode": "pink"}, UsageError, "unknown noise_mode `pink`"),
        ({"z": torch.zeros(2, 7)}, ShapeError, r"z must be \[N, 6\], got \[2, 7\]"),
    ],
)
def test_what_is_not_there_is_refused(
    arguments: dict[str, Any], error: type[Exception], finding: str
) -> None:
    with pytest.raises(error, match=finding):
        cached(32).generator(**{"z": torch.zeros(2, 6), **arguments})


def test_discriminator_refuses_other_images_and_labels() -> None:
    discriminator = cached(32).discriminator
    with pytest.raises(ShapeError, match=r"img must be \[N, 3, 32, 32\], got \[1, 3, 64, 64\]"):
        discriminator(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ShapeError, match="no labels"):
        discriminator(torch.zeros(1, 3, 32, 32), torch.eye(3)[:1])


@pytest.mark.parametrize(
    ("build", "finding"),
    [
        (lambda: Generator(8, 33, 3), "img_resolution 33 is none of 32, 48, 64, 128"),
        (lambda: Generator(8, 48, 3, bottom_width=4), "48 is not bottom_width 4 times 2"),
        (lambda: Generator(8, 32, 3, bottom_width=0), "not bottom_width 0"),
        (lambda: Discriminator(40, 3), "img_resolution 40 is none of"),
        (lambda: Generator(8, 32, 3, widths={"stem": 4}), "misses block2.conv1"),
        (lambda: Generator(8, 32, 3, widths={}), "misses stem"),
        (lambda: Discriminator(32, 3, widths={"stem": 0}), "names unknown group stem"),
    ],
)
def test_impossible_configurations_are_refused(build: Callable[[], Any], finding: str) -> None:
    with pytest.raises(UsageError, match=finding):
        build()


def test_other_block_plans() -> None:
    widths = dict.fromkeys(generator_group_names(24, 3), 4)
    generator = Generator(5, 24, 1, bottom_width=3, widths=widths)
    again = Generator(**json.loads(json.dumps(generator.config)))
    assert again.shapes() == generator.shapes()
    assert again.eval()(torch.zeros(2, 5)).shape == (2, 1, 24, 24)
    assert again.first_weight().shape == (4 * 9, 5)
    assert again.noise_shapes() == []


def test_architecture_page_quotes_the_code() -> None:
    root = GOLDEN.parents[1]
    code = "\n".join(
        (root / "ganc" / path).read_text()
        for path in (
            "models/sngan.py",
            "models/model.py",
            "checkpoints/mimicry.py",
            "pruning/options.py",
            "pruning/plan.py",
        )
    )
    page = (root / "docs" / "architecture.md").read_text()
    quotes = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(quotes) == 10
    assert all(quote in code for quote in quotes)


def test_sigma_is_exact_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's autocast rounds products of a matrix and a vector, the CPU's does not: ask for one."""
    torch.manual_seed(0)
    layer = SpectralLinear(20, 30).eval()
    expected = layer.normalized_weight()
    mv = Tensor.mv

    def lowered(matrix: Tensor, vector: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return mv(matrix, vector)
        return mv(matrix.bfloat16(), vector.bfloat16()).float()

    monkeypatch.setattr(Tensor, "mv", lowered)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.normalized_weight(), expected)
