"""Ops against torch, SciPy, closed forms, and their own derivatives."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ganc.errors import GancError, ShapeError, UsageError
from ganc.ops import extension, resampling
from ganc.ops.bias_act import ACTIVATIONS, bias_act
from ganc.ops.conv2d_resample import conv2d_down, conv2d_up
from ganc.ops.filtered_lrelu import filtered_lrelu
from ganc.ops.modulated_conv2d import modulated_conv2d
from ganc.ops.upfirdn2d import downsample2d, setup_filter, upfirdn2d, upsample2d


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    taps=st.integers(1, 4),
    up=st.integers(1, 3),
    down=st.integers(1, 3),
    padding=st.tuples(st.integers(-1, 4), st.integers(-1, 4)),
)
def test_upfirdn2d_equals_scipy(
    size: tuple[int, int], taps: int, up: int, down: int, padding: tuple[int, int]
) -> None:
    x, kernel = rand(2, 3, *size), rand(taps, taps, seed=1)
    before, after = padding
    if min(size) * up + before + after < taps:
        return
    inserted = np.zeros((2, 3, size[0] * up, size[1] * up))
    inserted[:, :, ::up, ::up] = x.numpy()
    widths = [(0, 0), (0, 0)] + 2 * [(max(before, 0), max(after, 0))]
    padded = np.pad(inserted, widths)
    crop = slice(max(-before, 0), -max(-after, 0) or None)
    padded = padded[:, :, crop, crop]
    full = scipy.signal.convolve(padded, kernel.numpy()[None, None], mode="valid", method="direct")
    got = upfirdn2d(x, kernel, up=up, down=down, padding=padding, gain=2.0)
    np.testing.assert_allclose(got.numpy(), 2 * full[:, :, ::down, ::down], atol=1e-12)


def test_resampling_keeps_constants_and_size() -> None:
    kernel = setup_filter((1, 3, 3, 1))
    x = torch.ones(1, 2, 8, 8)
    up, down = upsample2d(x, kernel), downsample2d(x, kernel)
    assert up.shape == (1, 2, 16, 16)
    assert down.shape == (1, 2, 4, 4)
    torch.testing.assert_close(up[:, :, 2:-2, 2:-2], torch.ones(1, 2, 12, 12))
    torch.testing.assert_close(down[:, :, 1:-1, 1:-1], torch.ones(1, 2, 2, 2))


def test_filter_is_normalised_and_the_argument_unchanged() -> None:
    taps = [1.0, 3.0, 3.0, 1.0]
    assert setup_filter(taps).sum().item() == pytest.approx(1.0)
    assert taps == [1.0, 3.0, 3.0, 1.0]


@pytest.mark.parametrize("act", list(ACTIVATIONS))
@pytest.mark.parametrize("clamp", [None, 0.5])
def test_bias_act_is_its_definition_and_twice_differentiable(act: str, clamp: float | None) -> None:
    x, bias = rand(3, 4, 5).requires_grad_(), rand(4, seed=1).requires_grad_()
    spec = ACTIVATIONS[act]
    expected = spec.function(x + bias[:, None], spec.alpha) * spec.gain
    if clamp is not None:
        expected = expected.clamp(-clamp, clamp)
    torch.testing.assert_close(bias_act(x, bias, act=act, clamp=clamp), expected)
    assert torch.autograd.gradgradcheck(lambda a, b: bias_act(a, b, act=act), (x, bias))


@pytest.mark.parametrize("act", ["relu", "lrelu", "linear"])
def test_gain_keeps_unit_variance(act: str) -> None:
    # E[lrelu(x)²] = (1 + α²) / 2: the published gain sqrt(2) is exact for α = 0, 4 % high at 0.2.
    y = bias_act(rand(200_000), act=act, dim=0)
    assert y.square().mean().item() == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_modulated_conv_formulations_agree(up: int, demodulate: bool, size: int) -> None:
    if up == 2 and size == 1:
        return
    x, weight, styles = rand(3, 5, 6, 6), rand(4, 5, size, size, seed=1), rand(3, 5, seed=2)
    settings_ = {"up": up, "resample_filter": setup_filter((1, 3, 3, 1)).double(),
                 "demodulate": demodulate}  # fmt: skip
    shared = modulated_conv2d(x, weight, styles, impl="shared", **settings_)
    grouped = modulated_conv2d(x, weight, styles, impl="grouped", **settings_)
    alone = torch.cat([
        modulated_conv2d(x[i : i + 1], weight, styles[i : i + 1], **settings_) for i in range(3)
    ])  # fmt: skip
    assert shared.shape == (3, 4, 6 * up, 6 * up)
    torch.testing.assert_close(shared, grouped, atol=1e-10, rtol=0)
    torch.testing.assert_close(shared, alone, atol=1e-10, rtol=0)


def test_modulated_conv_is_its_definition() -> None:
    x, weight, styles = rand(2, 3, 5, 5), rand(4, 3, 3, 3, seed=1), rand(2, 3, seed=2)
    kernels = weight[None] * styles[:, None, :, None, None]
    kernels = kernels / (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    expected = torch.cat([F.conv2d(x[i : i + 1], kernels[i], padding=1) for i in range(2)])
    torch.testing.assert_close(modulated_conv2d(x, weight, styles), expected)


def test_demodulated_output_ignores_the_scale_of_styles() -> None:
    x, weight, styles = rand(2, 3, 5, 5), rand(4, 3, 3, 3, seed=1), rand(2, 3, seed=2)
    a, b = (modulated_conv2d(x, weight, styles * scale) for scale in (1.0, 50.0))
    torch.testing.assert_close(a, b, atol=1e-7, rtol=0)


@pytest.mark.parametrize("impl", ["shared", "grouped"])
@pytest.mark.parametrize("up", [1, 2])
def test_modulated_conv_is_twice_differentiable(impl: str, up: int) -> None:
    inputs = [rand(2, 2, 3, 3), rand(2, 2, 3, 3, seed=1), rand(2, 2, seed=2)]
    kernel = setup_filter((1, 3, 3, 1)).double()

    def run(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
        return modulated_conv2d(x, weight, styles, up=up, resample_filter=kernel, impl=impl)

    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_strided_convolution_equals_blur_then_decimate() -> None:
    x, kernel = rand(2, 3, 8, 8), setup_filter((1, 3, 3, 1)).double()
    weight = rand(4, 3, 3, 3, seed=1)
    blurred = upfirdn2d(x, kernel, padding=(2, 2))
    torch.testing.assert_close(
        conv2d_down(x, weight, kernel), F.conv2d(blurred, weight)[:, :, ::2, ::2]
    )
    point = rand(4, 3, 1, 1, seed=2)
    torch.testing.assert_close(
        conv2d_down(x, point, kernel), downsample2d(F.conv2d(x, point), kernel), atol=1e-12, rtol=0
    )


def test_up_convolution_equals_zero_insertion() -> None:
    x, weight = rand(1, 2, 4, 4), rand(3, 2, 3, 3, seed=1)
    kernel = setup_filter((1, 3, 3, 1)).double()
    inserted = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    inserted[:, :, ::2, ::2] = x
    # The kernel lies flipped on the zero-inserted image, then the blur follows.
    full = F.conv2d(F.pad(inserted, [2, 1, 2, 1]), weight.flip([2, 3]))
    expected = upfirdn2d(full, kernel, padding=(1, 1), gain=4.0)
    torch.testing.assert_close(conv2d_up(x, weight, kernel), expected)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: bias_act(rand(2, 3), rand(4)), ShapeError),
        (lambda: bias_act(rand(2, 3), act="lrelo"), UsageError),
        (lambda: upfirdn2d(rand(2, 3), rand(2, 2)), ShapeError),
        (lambda: modulated_conv2d(rand(2, 3, 4, 4), rand(4, 3, 3, 3), rand(2, 4)), ShapeError),
        (lambda: modulated_conv2d(rand(1, 1, 4, 4), rand(1, 1, 3, 3), rand(1, 1), up=2),
         ShapeError),
        (lambda: modulated_conv2d(rand(1, 1, 4, 4), rand(1, 1, 3, 3), rand(1, 1), impl="x"),
         UsageError),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call: object, error: type[GancError]) -> None:
    with pytest.raises(error):
        call()  # type: ignore[operator]


# --- who computes -------------------------------------------------------------------------------

Call = Callable[..., Tensor]


def call_bias_act(device: str = "cpu") -> Call:
    x, bias = rand(2, 3, 8, 8).to(device), rand(3, seed=1).to(device)
    return partial(bias_act, x, bias, act="lrelu", clamp=0.9)


def call_upfirdn2d(device: str = "cpu") -> Call:
    x, kernel = rand(2, 3, 8, 8).to(device), rand(4, 4, seed=1).to(device)
    return partial(upfirdn2d, x, kernel, up=2, padding=(2, 1), gain=4.0)


def call_filtered_lrelu(device: str = "cpu") -> Call:
    x, bias, taps = (rand(*s).to(device) for s in ((2, 3, 8, 8), (3,), (4,)))
    return partial(filtered_lrelu, x, bias, taps, taps, up=2, down=2, padding=(3, 2))


every_operator = pytest.mark.parametrize(
    ("name", "make"),
    [("bias_act", call_bias_act), ("upfirdn2d", call_upfirdn2d),
     ("filtered_lrelu", call_filtered_lrelu)],
)  # fmt: skip


@every_operator
def test_plain_torch_is_what_the_cpu_gets_anyway(name: str, make: Callable[..., Call]) -> None:
    call = make()
    assert torch.equal(call(impl="ref"), call(impl="auto"))
    assert torch.equal(call(impl="ref"), call())


@every_operator
def test_an_implementation_that_is_not_there_is_named(name: str, make: Callable[..., Call]) -> None:
    with pytest.raises(UsageError, match="unknown impl `cud`; allowed: auto, ref, cuda") as raised:
        make()(impl="cud")
    assert raised.value.hint == "did you mean `cuda`?"


@every_operator
def test_a_kernel_says_why_it_cannot_run(
    name: str,
    make: Callable[..., Call],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(UsageError) as raised:
        make()(impl="cuda")
    assert str(raised.value) == f'{name}(impl="cuda") cannot run: x must be on cuda, got cpu'
    monkeypatch.setattr(extension, "build_obstacle", lambda device_type: "there is no nvcc")
    monkeypatch.setattr(resampling, "build_obstacle", lambda: "there is no nvcc")
    with FakeTensorMode():
        call = make("cuda")
        for _ in range(2):
            with pytest.raises(UsageError, match="cannot run: there is no nvcc"):
                call(impl="cuda")
        assert call(impl="ref").device.type == "cuda"
    assert not caplog.messages, "plain torch is not taken instead"
