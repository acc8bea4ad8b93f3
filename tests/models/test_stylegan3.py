"""StyleGAN3 against NVIDIA's recorded images, the published sizes, and its own declaration."""

import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ganc.checkpoints.native import build_model
from ganc.checkpoints.store import load
from ganc.errors import ShapeError, UsageError
from ganc.groups import check_groups, mask_consumers
from ganc.models.layers import FullyConnectedLayer
from ganc.models.model import Model
from ganc.models.stylegan3 import Generator, layer_grids
from ganc.pruning.slicing import PrunePlan, apply_plan
from ganc.scoring.score import score
from tests.conftest import GOLDEN, randomise
from tests.test_groups import keep_sets

Golden = Mapping[str, Tensor]
CASE = "nvidia-stylegan3-t-32"
SMALL: dict[str, Any] = {
    "mapping_kwargs": {"num_layers": 2}, "num_layers": 5, "num_critical": 2, "margin_size": 4,
    "channel_base": 128, "channel_max": 9,
}  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "t": {},
    "r": {"conv_kernel": 1, "use_radial_filters": True},
    "clamped": {"conv_clamp": 0.7, "output_scale": 1.0},
    "conditional": {"c_dim": 3},
    "uncritical": {"num_critical": 0, "img_channels": 1},
}


def make(name: str, **more: Any) -> Model:
    options = {"c_dim": 0, "img_channels": 3, **SMALL, **CONFIGURATIONS[name], **more}
    torch.manual_seed(0)
    sizes = [options.pop("c_dim"), 8, 16, options.pop("img_channels")]
    generator = Generator(6, *sizes, **options)
    randomise(generator, 3)
    with torch.no_grad():  # magnitudes are means of squares
        for _, layer in generator.synthesis.layers():
            layer.magnitude_ema.abs_().add_(0.3)
    return Model(generator=generator.eval())


cached = cache(make)


def inputs(generator: Generator, num: int = 3) -> tuple[Tensor, Tensor | None]:
    z = torch.randn(num, generator.z_dim, generator=torch.Generator().manual_seed(5))
    return z, torch.eye(3)[:num] if generator.c_dim else None


@pytest.fixture(scope="module")
def nvidia() -> Generator:
    model = load(GOLDEN / "files" / "nvidia" / f"{CASE}.pkl")
    assert isinstance(model.generator, Generator)
    return model.generator


def assert_same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_recorded_images(nvidia: Generator, golden: Callable[[str], Golden]) -> None:
    io = golden(CASE)
    assert_same(nvidia(io["z"]), io["img_psi1"])
    assert_same(nvidia(io["z"], truncation_psi=0.7), io["img_psi07"])
    cut = nvidia(io["z"], truncation_psi=0.7, truncation_cutoff=3)
    assert_same(cut, io["img_psi07_cutoff3"])
    assert_same(nvidia.synthesis(io["wplus"]), io["img_wplus"])


@torch.no_grad()
@pytest.mark.parametrize("name", ["identity", "rot90_shift"])
def test_recorded_transforms(nvidia: Generator, golden: Callable[[str], Golden], name: str) -> None:
    io = golden(CASE)
    stored = nvidia.synthesis.input.transform.clone()
    nvidia.synthesis.input.transform.copy_(io[f"transform_{name}"])
    image = nvidia.synthesis(io["ws_psi1"])
    nvidia.synthesis.input.transform.copy_(stored)
    assert_same(image, io[f"img_transform_{name}"])
    assert (image - io["img_psi1"]).abs().max() > 0.01


@torch.no_grad()
def test_recorded_training_averages(nvidia: Generator, golden: Callable[[str], Golden]) -> None:
    io = golden(CASE)
    generator = load(GOLDEN / "files" / "nvidia" / f"{CASE}.pkl").generator
    image = generator.synthesis(io["ws_psi1"], update_emas=True)
    assert_same(image, io["img_update_emas"])
    generator.load_state_dict(nvidia.state_dict())
    generator.update_emas(io["z"])
    after = {
        re.sub(r"\.(L\d+)_\d+_\d+\.", r".\1.", name.removeprefix("after_update_emas.")): value
        for name, value in io.items()
        if name.startswith("after_update_emas.")
    }
    assert len(after) == 8
    for name, value in after.items():
        torch.testing.assert_close(generator.get_buffer(name), value, msg=name)


# Layer names (size, width) and parameters of NVIDIA's own networks at these settings.
PUBLISHED = [
    (256, False, 28_472_133,
     "36_512 36_512 36_512 52_512 52_512 84_512 84_512 148_512 148_512 148_362 276_256 276_181"
     " 276_128 256_128 256_3"),
    (512, True, 16_665_594,
     "36_1024 36_1024 52_1024 52_1024 84_1024 84_1024 148_1024 148_967 276_645 276_431 532_287"
     " 532_192 532_128 512_128 512_3"),
    (1024, False, 22_313_167,
     "36_512 36_512 52_512 52_512 84_512 148_512 148_512 276_323 276_203 532_128 1044_81 1044_51"
     " 1044_32 1024_32 1024_3"),
]  # fmt: skip


@pytest.mark.parametrize(("resolution", "is_r", "params", "names"), PUBLISHED)
def test_published_sizes(resolution: int, is_r: bool, params: int, names: str) -> None:
    options: dict[str, Any] = CONFIGURATIONS["r"] if is_r else {}
    base, most = (65536, 1024) if is_r else (32768, 512)
    with torch.device("meta"):
        generator = Generator(
            512, 0, 512, resolution, 3, channel_base=base, channel_max=most, **options
        )
    assert generator.params() == params
    keys = ("num_layers", "num_critical", "first_cutoff", "first_stopband", "last_stopband_rel",
            "margin_size")  # fmt: skip
    sampling = {key: generator.config[key] for key in keys}
    grids = layer_grids(resolution, **sampling, channel_base=base, channel_max=most)
    widths = [*list(generator.config["widths"].values())[1:], 3]
    got = " ".join(f"{grid.size}_{width}" for grid, width in zip(grids, widths, strict=True))
    assert got == names
    assert generator.num_ws == 16


class DenseConvolutions(TorchDispatchMode):
    """Counts the multiply-accumulates of every convolution that is not depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default and args[8] == 1:
            self.macs += math.prod(out.shape[2:]) * args[1].numel()
        return out


@pytest.mark.parametrize("name", ["t", "r"])
def test_macs_are_what_the_forward_pass_multiplies(name: str) -> None:
    generator = cached(name).generator
    with DenseConvolutions() as counted, torch.no_grad():
        generator(inputs(generator, 1)[0])
    linear = sum(
        layer.weight.numel()
        for layer in generator.modules()
        if isinstance(layer, FullyConnectedLayer)
    )
    fourier = 9 * 9 * generator.synthesis.input.grid.size**2
    assert generator.macs() == counted.macs + linear + fourier


@pytest.mark.parametrize("name", list(CONFIGURATIONS))
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_slicing_equals_zeroing_the_consumers(name: str, data: st.DataObject) -> None:
    model = cached(name)
    keep = data.draw(keep_sets(model))
    masked = mask_consumers(model.tensors(), model.groups, keep)
    full = build_model("stylegan3", model.config, masked, [])
    sliced = apply_plan(model, PrunePlan(keep))
    z, c = inputs(model.generator)
    with torch.no_grad():
        got, expected = sliced.generator(z, c), full.generator(z, c)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_declaration_fits_the_tensors() -> None:
    model = cached("r")
    check_groups(model.groups, {n: tuple(t.shape) for n, t in model.tensors().items()})
    assert list(model.widths) == ["input", "L0", "L1", "L2", "L3", "L4"]
    plan = PrunePlan({name: range(width - 1) for name, width in model.widths.items()})
    sliced = apply_plan(model, plan)
    # Only the rows of the Fourier input are cut: its frequencies stay.
    assert sliced.generator.synthesis.input.weight.shape == (8, 9)
    assert len(sliced.generator.synthesis.input.freqs) == 9


def test_the_clamp_bites() -> None:
    free, clamped = make("clamped", conv_clamp=None), cached("clamped")
    z, _ = inputs(free.generator)
    with torch.no_grad():
        assert (free.generator(z) - clamped.generator(z)).abs().max() > 0.01


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch() -> None:
    generator = cached("t").generator
    z, _ = inputs(generator)
    assert_same(generator(z)[1:2], generator(z[1:2]))


@torch.no_grad()
def test_translating_the_input_translates_the_image() -> None:
    # What the architecture is for (Karras et al. 2021, Section 1), on an untrained network: a shift
    # by one fourth of the image equals a shift of the pixels, away from the border.
    torch.manual_seed(0)
    generator = Generator(8, 0, 8, 32, 3, num_layers=6, channel_base=512, channel_max=32,
                          mapping_kwargs={"num_layers": 1}).eval()  # fmt: skip
    z, _ = inputs(generator, 1)
    still = generator(z)
    generator.synthesis.input.transform[0, 2] = 0.25  # units: the image is one wide
    moved = generator(z)
    error = (moved[:, :, :, 4:-12] - still[:, :, :, 12:-4]).abs().max()
    assert error < 0.1 * still.std()
    assert (moved - still).abs().max() > still.std()


def test_bad_arguments_are_refused() -> None:
    generator = cached("t").generator
    with pytest.raises(ShapeError, match="ws must be"):
        generator.synthesis(torch.zeros(1, 3, 8))
    with pytest.raises(ShapeError, match="stylegan3 has none"):
        generator.synthesis(torch.zeros(1, 7, 8), noise=[torch.zeros(1, 1, 4, 4)])
    with pytest.raises(UsageError, match="noise_mode"):
        generator.synthesis(torch.zeros(1, 7, 8), noise_mode="loud")
    with pytest.raises(UsageError, match="power of two"):
        Generator(8, 0, 8, 48, 3)
    with pytest.raises(UsageError, match="num_critical"):
        Generator(8, 0, 8, 64, 3, num_layers=2, num_critical=2)
    with pytest.raises(UsageError, match="misses L0"):
        Generator(8, 0, 8, 64, 3, widths={"input": 3})


def test_methods_run_on_it() -> None:
    model = cached("t")
    directions = torch.eye(8)[None, :3].expand(2, -1, -1)
    scores = score(model, "diversity", samples=4, batch=2, directions=directions)
    assert scores.settings["alpha"] == 10
    assert scores.settings["gradient"] == "base"
    assert dict(scores).keys() == model.widths.keys()
    assert all(values.max() > 1e-9 for values in scores.values.values())
    plain = score(model, "l1-out")
    first = model.generator.synthesis.L0.weight.abs().sum(dim=(0, 2, 3)).double()
    torch.testing.assert_close(plain["input"], first, rtol=1e-5, atol=0)
    effective = score(model, "l1-out", effective=True, samples=4)
    assert effective["L0"].shape == (9,)
