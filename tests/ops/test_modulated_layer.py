"""A layer without gradient on the CPU, in plain torch, against the composition of training."""

import pytest
import torch
from torch import Tensor

from ganc.errors import ShapeError
from ganc.models.stylegan2 import Generator, SynthesisLayer
from ganc.ops import layer_passes
from ganc.ops import modulated_layer as module
from ganc.ops.modulated_conv2d import modulated_conv2d
from ganc.ops.modulated_layer import Layer, modulated_layer
from ganc.ops.upfirdn2d import setup_filter

# Float32 sums of some hundred terms in another order; measured are 5e-7 of the largest value.
RELATIVE = 1e-5


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what somebody may have built on this machine; test_layer_passes.py has it."""
    monkeypatch.setattr(layer_passes, "are_there", lambda: False)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_near(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(
        got, expected, rtol=0, atol=RELATIVE * float(expected.detach().abs().max())
    )


def make_layer(up: int, clamp: float | None, widths: tuple[int, int] = (5, 7)) -> Layer:
    in_channels, out_channels = widths
    weight = rand(out_channels, in_channels, 3, 3, seed=1)
    return Layer(weight, rand(out_channels, seed=2), up, setup_filter((1, 3, 3, 1)), clamp)


def noise_of(kind: str, batch: int, size: int) -> Tensor | None:
    shapes = {"stored": (size, size), "drawn": (batch, 1, size, size)}
    return rand(*shapes[kind], seed=4) if kind in shapes else None


@pytest.mark.parametrize("own_kernels", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("noise", ["stored", "drawn", "none"])
@pytest.mark.parametrize(("up", "clamp"), [(1, None), (2, None), (1, 0.5), (2, 0.5)])
def test_both_ways_give_what_training_computes(
    own_kernels: bool,
    batch: int,
    noise: str,
    up: int,
    clamp: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_takes_own_kernels", lambda x, layer: own_kernels)
    layer = make_layer(up, clamp)
    x, styles = rand(batch, 5, 8, 8), rand(batch, 5, seed=3)  # a stored map has 8 rows, as many
    maps = noise_of(noise, batch, 8 * up)  # as the largest batch has samples
    given = [t.clone() for t in (x, styles, layer.weight, layer.bias)]
    expected = modulated_layer(x.requires_grad_(), styles, maps, layer)
    with torch.no_grad():
        got = modulated_layer(x, styles, maps, layer)
    assert got.shape == (batch, 7, 8 * up, 8 * up)
    assert_near(got, expected)
    assert own_kernels or torch.equal(got, expected)
    for before, now in zip(given, (x, styles, layer.weight, layer.bias), strict=True):
        assert torch.equal(before, now)


@pytest.mark.parametrize("size", [12, 96])
def test_blocks_of_samples_are_the_same_to_the_bit_in_any_batch(size: int) -> None:
    layer = make_layer(2, None, (16, 16))
    x, styles = rand(8, 16, size, size), rand(8, 16, seed=3)
    maps = noise_of("stored", 8, 2 * size)
    with torch.no_grad():
        together = modulated_layer(x, styles, maps, layer)
        block = modulated_layer(x[4:], styles[4:], maps, layer)
    assert torch.equal(together[4:], block)
    # The large ones get kernels of their own, and with them the layout that suits them.
    assert together.is_contiguous(memory_format=torch.channels_last) == (size == 96)


@pytest.mark.parametrize("has_gradient", [False, True])
def test_styles_of_another_size_are_refused(has_gradient: bool) -> None:
    with torch.set_grad_enabled(has_gradient), pytest.raises(ShapeError, match=r"\[2, 5\], got"):
        modulated_layer(rand(2, 5, 8, 8), rand(1, 5), None, make_layer(1, None))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_projection_is_the_modulated_convolution(channels: int) -> None:
    x = rand(2, 9, 5, 6).contiguous(memory_format=torch.channels_last)
    weight, styles = rand(channels, 9, 1, 1, seed=1), rand(2, 9, seed=2)
    with torch.no_grad():
        got = modulated_conv2d(x, weight, styles, demodulate=False)
    expected = modulated_conv2d(x, weight, styles, demodulate=False, impl="grouped")
    assert_near(got, expected)


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_images_are_those_of_the_training_path(architecture: str) -> None:
    torch.manual_seed(0)
    generator = Generator(
        8, 0, 8, 128, 3, channel_base=2048, channel_max=20, architecture=architecture,
        conv_clamp=256, mapping_kwargs={"num_layers": 2},
    ).eval()  # fmt: skip
    for layer in generator.modules():
        if isinstance(layer, SynthesisLayer):
            torch.nn.init.constant_(layer.noise_strength, 0.3)
    z = rand(2, 8, seed=5)
    expected = generator(z)
    with torch.no_grad():
        assert_near(generator(z), expected)


def test_random_noise_is_drawn_alike_with_and_without_gradient() -> None:
    torch.manual_seed(0)
    generator = Generator(8, 0, 8, 16, 3, channel_max=8, mapping_kwargs={"num_layers": 1})
    z = rand(2, 8)
    torch.manual_seed(3)
    expected = generator(z, noise_mode="random")
    torch.manual_seed(3)
    with torch.no_grad():
        assert_near(generator(z, noise_mode="random"), expected)
