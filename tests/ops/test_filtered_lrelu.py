"""Kaiser filters against SciPy, separable against two-dimensional filtering, derivatives."""

from typing import Any

import numpy as np
import pytest
import scipy.signal
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc.errors import ShapeError
from ganc.ops import filtered_lrelu as module
from ganc.ops.filtered_lrelu import filtered_lrelu
from ganc.ops.lowpass import lowpass_filter, radial_lowpass_filter
from ganc.ops.modulated_conv2d import modulated_conv2d
from ganc.ops.upfirdn2d import upfirdn2d
from tests.families import make_stylegan3


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Transition bands from nearly rectangular (beta 0) over both branches of Kaiser's formula.
DESIGNS = [(12, 2.0, 12.0, 32.0), (24, 8.0, 6.0, 64.0), (12, 8.0, 1.0, 64.0), (12, 8.0, 30.0, 64.0)]


@pytest.mark.parametrize(("taps", "cutoff", "width", "rate"), DESIGNS)
def test_lowpass_filter_equals_firwin(taps: int, cutoff: float, width: float, rate: float) -> None:
    expected = scipy.signal.firwin(taps, cutoff, width=width, fs=rate)
    np.testing.assert_allclose(
        lowpass_filter(taps, cutoff, width, rate).numpy(), expected, atol=1e-7
    )


@pytest.mark.parametrize(("taps", "cutoff", "width", "rate"), DESIGNS)
def test_radial_filter_is_a_windowed_jinc(
    taps: int, cutoff: float, width: float, rate: float
) -> None:
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(*np.meshgrid(x, x))
    beta = scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, width / (rate / 2)))
    window = np.kaiser(taps, beta)
    expected = scipy.special.j1(2 * np.pi * cutoff * radius) / radius * np.outer(window, window)
    got = radial_lowpass_filter(taps, cutoff, width, rate)
    np.testing.assert_allclose(got.numpy(), expected / expected.sum(), atol=1e-7)
    assert torch.equal(got, got.t())


def test_one_tap_is_the_identity() -> None:
    assert lowpass_filter(1, 2.0, 1.0, 16.0).tolist() == [1.0]


@settings(max_examples=30, deadline=None)
@given(
    taps=st.integers(1, 8),
    up=st.integers(1, 4),
    down=st.integers(1, 3),
    padding=st.tuples(st.integers(-2, 6), st.integers(-2, 6)),
)
def test_separable_equals_outer_product(
    taps: int, up: int, down: int, padding: tuple[int, int]
) -> None:
    x, row = rand(2, 3, 6, 5), rand(taps, seed=1)
    if 5 * up + sum(padding) < taps:
        return
    how = {"up": up, "down": down, "padding": padding, "gain": 3.0}
    torch.testing.assert_close(upfirdn2d(x, row, **how), upfirdn2d(x, row.outer(row), **how))


def test_filtered_lrelu_is_its_definition() -> None:
    x, bias, up, down = rand(2, 3, 6, 6), rand(3, seed=1), rand(4, seed=2), rand(4, 4, seed=3)
    got = filtered_lrelu(x, bias, up, down, up=2, down=2, padding=(3, 2), clamp=0.9)
    fine = upfirdn2d(x + bias[:, None, None], up.outer(up), up=2, padding=(3, 2), gain=4.0)
    active = (F.leaky_relu(fine, 0.2) * 2**0.5).clamp(-0.9, 0.9)
    assert (active.abs() == 0.9).any()
    torch.testing.assert_close(got, upfirdn2d(active, down, down=2))


def test_filtered_lrelu_is_twice_differentiable() -> None:
    x, bias = rand(1, 2, 4, 4).requires_grad_(), rand(2, seed=1).requires_grad_()
    taps = rand(4, seed=2)

    def run(x: Tensor, bias: Tensor) -> Tensor:
        return filtered_lrelu(x, bias, taps, taps, up=2, down=2, padding=(3, 2))

    assert torch.autograd.gradcheck(run, (x, bias))
    assert torch.autograd.gradgradcheck(run, (x, bias))


@st.composite
def resamplings(draw: st.DrawFn) -> dict[str, Any]:
    taps = st.integers(1, 12)
    return {
        "size": draw(st.tuples(st.integers(4, 30), st.integers(4, 30))),
        "taps": (draw(taps), draw(taps)),
        "up": draw(st.integers(1, 4)),
        "down": draw(st.integers(1, 3)),
        "padding": draw(st.tuples(st.integers(-6, 12), st.integers(-6, 12))),
        "clamp": draw(st.sampled_from([None, 0.5])),
        "tile": draw(st.sampled_from([1, 5, 16])),
    }


@settings(max_examples=60, deadline=None)
@given(how=resamplings())
def test_tiles_give_what_training_computes(how: dict[str, Any]) -> None:
    up_taps, down_taps = (rand(n, seed=n).float() / n**0.5 for n in how["taps"])
    fine = min(how["size"]) * how["up"] + sum(how["padding"]) - len(up_taps) + 1
    assume(fine >= len(down_taps))
    # The reference cannot crop more at one end than there is, whatever is added at the other.
    assume(min(how["padding"]) > -min(how["size"]) * how["up"])
    x, bias = rand(2, 3, *how["size"]).float(), rand(3, seed=1).float()
    before = x.clone(), bias.clone()
    given_ = {key: how[key] for key in ("up", "down", "padding", "clamp")}
    expected = filtered_lrelu(x.requires_grad_(), bias, up_taps, down_taps, **given_)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(module, "TILED_FEATURES", 0)
        patch.setattr(module, "TILE", how["tile"])
        got = filtered_lrelu(x, bias, up_taps, down_taps, **given_)
    # Float32 sums in another order: 1e-6 of what is summed was measured, which may cancel out.
    summed = filtered_lrelu(x.abs(), bias.abs(), up_taps.abs(), down_taps.abs(), **given_)
    atol = 1e-5 * float(summed.detach().abs().max())
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)
    assert torch.equal(x, before[0])
    assert torch.equal(bias, before[1])


@pytest.mark.parametrize(("size", "is_tiled"), [(22, False), (38, True)])
@torch.no_grad()
def test_only_large_samples_are_tiled(size: int, is_tiled: bool) -> None:
    x, bias, taps = rand(3, 64, size, size).float(), rand(64).float(), rand(12).float()

    def run(x: Tensor) -> Tensor:
        return filtered_lrelu(x, bias, taps, taps, up=2, down=2, padding=(9, 8))

    together = run(x)
    assert torch.equal(together[1:], run(x[1:]))
    assert together.is_contiguous(memory_format=torch.channels_last) == is_tiled
    with torch.enable_grad():
        trained = run(x.requires_grad_())
    assert torch.equal(together, trained) != is_tiled


def test_an_image_of_tiles_is_the_one_that_training_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = make_stylegan3().generator
    z = rand(2, generator.z_dim).float()
    expected = generator(z)
    assert expected.requires_grad
    monkeypatch.setattr(module, "TILED_FEATURES", 0)
    with torch.no_grad():
        got = generator(z)
    assert not torch.equal(got, expected)  # another order of sums: the tiles did run
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)


def test_a_radial_filter_is_never_tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILED_FEATURES", 0)
    x, bias = rand(1, 2, 9, 9).float(), rand(2).float()
    up, radial = rand(4).float(), rand(4, 4).float()
    expected = filtered_lrelu(x.requires_grad_(), bias, up, radial, up=2, down=2, padding=(3, 2))
    with torch.no_grad():
        got = filtered_lrelu(x, bias, up, radial, up=2, down=2, padding=(3, 2))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("has_gradient", [False, True])
def test_a_bias_of_another_size_is_refused(
    has_gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TILED_FEATURES", 0)
    x, taps = rand(1, 2, 9, 9).float(), rand(4).float()
    with torch.set_grad_enabled(has_gradient), pytest.raises(ShapeError, match="bias"):
        filtered_lrelu(x, rand(1).float(), taps, taps, up=2, down=2, padding=(3, 2))


@pytest.mark.parametrize("impl", ["shared", "grouped"])
def test_full_padding_of_the_modulated_convolution(impl: str) -> None:
    x, weight, styles = rand(2, 3, 5, 5), rand(4, 3, 3, 3, seed=1), rand(2, 3, seed=2)
    got = modulated_conv2d(x, weight, styles, padding=2, demodulate=False, impl=impl)
    expected = [
        F.conv2d(x[i : i + 1], weight * styles[i][None, :, None, None], padding=2) for i in (0, 1)
    ]
    torch.testing.assert_close(got, torch.cat(expected))


def test_a_filter_has_one_or_two_dimensions() -> None:
    with pytest.raises(ShapeError, match=r"kernel \[K, K\] or \[K\]"):
        upfirdn2d(rand(1, 1, 4, 4), rand(1, 2, 2))
