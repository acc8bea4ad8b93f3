"""Kaiser filters against SciPy, separable against two-dimensional filtering, derivatives."""

import numpy as np
import pytest
import scipy.signal
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc.errors import ShapeError
from ganc.ops.filtered_lrelu import filtered_lrelu
from ganc.ops.lowpass import lowpass_filter, radial_lowpass_filter
from ganc.ops.modulated_conv2d import modulated_conv2d
from ganc.ops.upfirdn2d import upfirdn2d


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
