"""The fused filtered leaky ReLU against its composition. CPU and CUDA share all but the launch."""

import itertools
import shutil
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc.models.stylegan3 import SynthesisLayer, layer_grids
from ganc.ops import compiled_filtered_lrelu
from ganc.ops.filtered_lrelu import filtered_lrelu
from tests.families import make_stylegan3
from tests.ops.test_compiled_bias_act import noise, on_devices, operators_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("operators"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler"),
]

How = dict[str, Any]
RULE = (0.2, 2**0.5)

LAYERS: list[How] = [
    {"taps": (12, 12), "up": 2, "down": 2, "padding": (9, 8)},
    {"taps": (24, 12), "up": 4, "down": 2, "padding": (-6, -9)},
    {"taps": (12, 12), "up": 2, "down": 2, "padding": (-11, -12)},
]
"""StyleGAN3-T's: same size, growing, the last one."""


def twin(x: Tensor, bias: Tensor, filters: list[Tensor], how: How, clamp: float | None) -> Tensor:
    """Call the composition, on the CPU in these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled_filtered_lrelu, "build_for", lambda *given: False)
        return filtered_lrelu(
            x, bias, *filters, up=how["up"], down=how["down"], padding=how["padding"], clamp=clamp
        )


def run(x: Tensor, bias: Tensor, filters: list[Tensor], how: How, clamp: float | None) -> Tensor:
    return compiled_filtered_lrelu.filtered_lrelu(
        x, bias, *filters, how["up"], how["down"], how["padding"], *RULE, clamp
    )


def make_filters(how: How, device: str) -> list[Tensor]:
    return [
        noise(taps, seed=seed, device=device) / taps**0.5
        for seed, taps in enumerate(how["taps"], start=7)
    ]


@st.composite
def resamplings(draw: st.DrawFn) -> How:
    """Draw any that the composition can do, too."""
    taps, factor = st.integers(1, 24), st.sampled_from([1, 2, 4])
    padding = st.tuples(st.integers(-9, 30), st.integers(-9, 30))
    how = {"taps": draw(st.tuples(taps, taps)), "up": draw(factor), "down": draw(factor),
           "padding": draw(padding), "size": draw(st.tuples(st.integers(1, 40),
           st.integers(1, 70)))}  # fmt: skip
    side = min(how["size"]) * how["up"]
    assume(side + sum(how["padding"]) - how["taps"][0] + 1 >= how["taps"][1])
    assume(side + sum(min(pad, 0) for pad in how["padding"]) > 0)
    return how


def all_passes(function: Any, how: How, clamp: float | None, inputs: list[Tensor]) -> list[Tensor]:
    """Return value, both gradients, and the second derivative that there is."""
    x, bias, ddx = inputs
    filters = make_filters(how, str(x.device))
    x, bias = x.detach().requires_grad_(), bias.detach().requires_grad_()
    y = function(x, bias, filters, how, clamp)
    dy = noise(*y.shape, seed=3, dtype=y.dtype, device=str(y.device)).requires_grad_()
    first = torch.autograd.grad(y, (x, bias), dy, create_graph=True)
    second = torch.autograd.grad(first[0], dy, ddx)
    return [y, *first, *second]


def hold_together(how: How, shape: tuple[int, ...], device: str, clamp: float | None) -> None:
    inputs = [
        noise(*sides, seed=seed, device=device)
        for seed, sides in enumerate([shape, shape[1:2], shape])
    ]
    own = all_passes(run, how, clamp, inputs)
    expected = all_passes(twin, how, clamp, [t.cpu() for t in inputs])
    for a, b in zip(own, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("poisoned")
@on_devices
@settings(deadline=None, max_examples=60, derandomize=True)
@given(resamplings(), st.sampled_from([None, 0.7]))
def test_any_resampling_is_the_composition(device: str, how: How, clamp: float | None) -> None:
    hold_together(how, (2, 3, *how["size"]), device, clamp)


@pytest.mark.usefixtures("poisoned")
@on_devices
@pytest.mark.parametrize("size", [(38, 41), (54, 150), (86, 38)])
@pytest.mark.parametrize("how", LAYERS)
def test_layers_of_stylegan3_are_the_composition(
    device: str, how: How, size: tuple[int, int]
) -> None:
    hold_together(how, (1, 2, *size), device, 0.7)


@on_devices
@pytest.mark.parametrize("how", [*LAYERS, {"taps": (5, 3), "up": 2, "down": 1, "padding": (3, 1)}])
def test_derivatives_against_finite_differences(device: str, how: How) -> None:
    x = noise(1, 2, 25, 26, device=device).requires_grad_()
    bias = noise(2, seed=1, device=device).requires_grad_()
    filters = make_filters(how, device)

    def function(x: Tensor, bias: Tensor) -> Tensor:
        return run(x, bias, filters, how, None)

    # A random projection of the Jacobian: the whole has many columns.
    assert torch.autograd.gradcheck(function, (x, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, bias), fast_mode=True)


@pytest.mark.usefixtures("poisoned")
@on_devices
@pytest.mark.parametrize("how", [*LAYERS, {"taps": (6, 4), "up": 1, "down": 2, "padding": (4, 3)}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_any_type_rounds_once(device: str, dtype: torch.dtype, how: How) -> None:
    inputs = [
        noise(*sides, seed=seed, dtype=dtype, device=device)
        for seed, sides in enumerate([(2, 3, 46, 61), (3,), (2, 3, 46, 61)])
    ]
    own = all_passes(run, how, 2.0, inputs)
    rounded = partial(run_rounded, dtype=dtype)
    expected = all_passes(rounded, how, 2.0, [t.double().cpu() for t in inputs])
    sums = len(inputs[0][:, 0].flatten())
    for i, (a, b) in enumerate(zip(own, expected, strict=True)):
        assert a.dtype == dtype
        scale = float(b.detach().abs().max()) * (sums**0.5 if i == 2 else 1)
        # At the kink and the clamp, a value that rounds differently has another slope.
        is_near = (a.double().cpu() - b).abs() <= 4 * torch.finfo(dtype).eps * scale
        assert is_near.double().mean() > 0.99


def run_rounded(
    x: Tensor, bias: Tensor, filters: list[Tensor], how: How, clamp: float | None, *,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Compute in float64 the result whose gradient is asked for by what a type can hold."""
    y = twin(x, bias, filters, how, clamp)
    return _Rounding.apply(y, dtype)  # type: ignore[no-untyped-call,no-any-return]


class _Rounding(torch.autograd.Function):
    """The identity, whose incoming gradient is rounded."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = dtype
        return y.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy.to(ctx.dtype).to(dy.dtype), None


@on_devices
def test_layouts_stay_and_views_are_read(device: str) -> None:
    how = LAYERS[0]
    filters, bias = make_filters(how, device), noise(6, seed=1, device=device)
    base = noise(2, 6, 20, 44, device=device)
    expected = run(base[..., ::2].contiguous(), bias, filters, how, None)
    for x in (base[..., ::2], base[..., ::2].contiguous(memory_format=torch.channels_last)):
        y = run(x, bias, filters, how, None)
        assert torch.equal(y, expected)
        is_last = x.is_contiguous(memory_format=torch.channels_last)
        assert y.is_contiguous(memory_format=torch.channels_last) == is_last
    assert run(x[:0], bias, filters, how, None).shape == (0, *expected.shape[1:])


@on_devices
def test_nan_stays_where_it_is_and_infinity_is_clamped(device: str) -> None:
    how = {"taps": (2, 2), "up": 2, "down": 2, "padding": (1, 0)}
    x = noise(1, 1, 6, 40)
    x[..., 5], x[..., 20] = float("nan"), float("inf")
    own, expected = (
        f(x.to(where), torch.zeros(1, device=where).double(),
          [torch.ones(2, device=where).double()] * 2, how, 2.0).cpu()
        for f, where in ((run, device), (twin, "cpu"))
    )  # fmt: skip
    assert own.isnan().any()
    torch.testing.assert_close(own, expected, equal_nan=True)


@on_devices
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck looks at it
@pytest.mark.parametrize("is_last", [False, True])
def test_operators_are_what_torch_expects(device: str, is_last: bool) -> None:
    """Schema, fake tensors, autograd registration, and tracing with AOT autograd."""
    how: How = {"taps": (4, 3), "up": 2, "down": 2, "padding": (2, 1)}
    layout = torch.channels_last if is_last else torch.contiguous_format
    x = noise(2, 3, 6, 7, device=device).contiguous(memory_format=layout).requires_grad_()
    bias = noise(3, seed=1, device=device).requires_grad_()
    filters = make_filters(how, device)
    rest = (*filters, 2, 2, 2, 1, *RULE, 0.9)
    torch.library.opcheck(torch.ops.ganc.filtered_lrelu.default, (x, bias, *rest))
    y = run(x, bias, filters, how, 0.9).detach()
    fixed = (x.detach(), bias.detach(), *rest)
    torch.library.opcheck(torch.ops.ganc.filtered_lrelu_grad.default, (y.requires_grad_(), *fixed))
    ddx = noise(2, 3, 6, 7, seed=2, device=device).requires_grad_()
    torch.library.opcheck(torch.ops.ganc.filtered_lrelu_tangent.default, (ddx, *fixed))


def test_wrong_arguments_are_refused() -> None:
    x, bias, taps = noise(1, 2, 4, 4), noise(2), noise(3)
    call = partial(torch.ops.ganc.filtered_lrelu, x)
    with pytest.raises(RuntimeError, match="one number per channel"):
        call(noise(3), taps, taps, 2, 2, 1, 1, *RULE, None)
    with pytest.raises(RuntimeError, match="factors must be 1, 2 or 4, got 3"):
        call(bias, taps, taps, 3, 2, 1, 1, *RULE, None)
    with pytest.raises(RuntimeError, match="a filter must be"):
        call(bias, taps, noise(33), 2, 2, 1, 1, *RULE, None)
    with pytest.raises(RuntimeError, match="a side of 4 is too short"):
        call(bias, taps, taps, 1, 1, -1, 0, *RULE, None)


OPERATOR = "ganc.filtered_lrelu.default"


@pytest.mark.usefixtures("chosen")
def test_filtered_lrelu_takes_the_operator_where_it_can() -> None:
    x, bias, taps = noise(1, 2, 24, 24), noise(2, seed=1), noise(12, seed=2)
    layer = partial(filtered_lrelu, up=2, down=2, padding=(9, 8))
    assert operators_of(layer, x, bias, taps, taps) == [OPERATOR]
    trained = taps.clone().requires_grad_()
    for others in (
        (x, bias, taps, taps.outer(taps)),  # StyleGAN3-R's
        (x, bias.float(), taps, taps),
        (x, bias, noise(33), taps),
        (x, bias, trained, taps),
    ):
        assert OPERATOR not in operators_of(layer, *others)
    assert OPERATOR not in operators_of(partial(layer, up=3), x, bias, taps, taps)
    mapped = torch.func.vmap(layer, in_dims=(0, None, None, None))(x[:, None], bias, taps, taps)
    torch.testing.assert_close(mapped[:, 0], layer(x, bias, taps, taps))


@pytest.mark.usefixtures("chosen")
def test_plain_torch_is_plain_in_all_its_parts() -> None:
    """The composition's own operators are left out as well."""
    x, bias, taps = noise(1, 2, 24, 24), noise(2, seed=1), noise(12, seed=2)
    layer = partial(filtered_lrelu, up=2, down=2, padding=(9, 8), impl="ref")
    called = operators_of(layer, x.requires_grad_(), bias, taps, taps)
    assert not [name for name in called if name.startswith("ganc.")]


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("is_rotation_equivariant", [False, True])
def test_stylegan3s_images_and_gradients_are_the_same(is_rotation_equivariant: bool) -> None:
    generator = make_stylegan3(is_rotation_equivariant=is_rotation_equivariant).generator
    z = noise(2, generator.z_dim, dtype=torch.float32)
    assert OPERATOR in operators_of(generator, z)
    found = []
    for is_composed in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if is_composed:
                patch.setattr(compiled_filtered_lrelu, "build_for", lambda *given: False)
            images = generator(z)
            images.square().sum().backward()
        found.append([images, *(p.grad.clone() for p in generator.parameters())])
        generator.zero_grad()
    for own, expected in zip(*found, strict=True):
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_gives_the_compositions_type(dtype: torch.dtype) -> None:
    x, bias, taps = noise(1, 2, 12, 12, dtype=dtype), noise(2, dtype=dtype), noise(12, dtype=dtype)
    how = {"taps": (12, 12), "up": 2, "down": 2, "padding": (9, 8)}
    with torch.autocast("cpu", torch.bfloat16):
        own = filtered_lrelu(x, bias, taps, taps, up=2, down=2, padding=(9, 8))
        expected = twin(x.requires_grad_(), bias, [taps, taps], how, None)
    assert own.dtype == expected.dtype
    atol = 4 * torch.finfo(own.dtype).eps * float(expected.detach().abs().max())
    torch.testing.assert_close(own, expected, rtol=0, atol=2 * atol)


@pytest.mark.usefixtures("chosen")
def test_a_compiler_meets_the_composition_until_the_operators_are_there() -> None:
    x, bias, taps = noise(1, 2, 12, 12), noise(2, seed=1), noise(12, seed=2)
    layer = partial(filtered_lrelu, up=2, down=2, padding=(9, 8))
    graphs: list[str] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(" ".join(str(node.target) for node in graph.graph.nodes))
        return graph.forward

    expected = twin(x, bias, [taps, taps], LAYERS[0], None)
    for is_there in (False, True):
        torch.compiler.reset()
        if is_there:
            layer(x, bias, taps, taps)
        made = torch.compile(layer, backend=keep, fullgraph=True)(x, bias, taps, taps)
        torch.testing.assert_close(made, expected)
        assert ("ganc.filtered_lrelu" in graphs[-1]) == is_there
    torch.compiler.reset()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::UserWarning")  # the profiler's own
def test_every_layer_of_stylegan3_has_its_own_kernel() -> None:
    sampling: How = {"num_layers": 14, "num_critical": 2, "first_cutoff": 2, "first_stopband":
                     2**2.1, "last_stopband_rel": 2**0.3, "margin_size": 10, "channel_base": 32768,
                     "channel_max": 512}  # fmt: skip
    for resolution, kernel_size in itertools.product((256, 1024), (1, 3)):
        grids = layer_grids(resolution, **sampling)
        for before, after in zip([grids[0], *grids], grids[:-1], strict=False):
            layer = SynthesisLayer(
                1, 1, 4, before, after, kernel_size=kernel_size, filter_size=6,
                lrelu_upsampling=2, is_radial=False, conv_clamp=256.0,
            ).cuda()  # fmt: skip
            x = torch.ones(1, 1, layer.in_size, layer.in_size, device="cuda", requires_grad=True)
            with torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CUDA]
            ) as profile:
                y = layer(x, torch.ones(1, 4, device="cuda"))
                (dx,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
                dx.sum().backward()
            names = [event.key for event in profile.key_averages()]
            if not names:
                pytest.skip("the profiler sees no kernels")
            passes = [name for name in names if "ganc::filtered" in name]
            assert passes
            assert all("Fixed" in name for name in passes), (resolution, before, after)


@pytest.mark.gpu
def test_more_elements_than_32_bits_count() -> None:
    shape = (1, 9, 16384, 16400)
    x = torch.empty(shape, dtype=torch.float16, device="cuda")
    x.normal_(generator=torch.Generator("cuda").manual_seed(0))
    assert x.numel() > 2**31
    bias = noise(9, dtype=torch.float16, device="cuda")
    filters = make_filters(LAYERS[0], "cuda")
    rest = (*filters, 2, 2, 9, 8, *RULE, 0.7)
    y = torch.ops.ganc.filtered_lrelu(x, bias, *rest)
    assert torch.equal(y[:, 8:], torch.ops.ganc.filtered_lrelu(x[:, 8:], bias[8:], *rest))
    dx = torch.ops.ganc.filtered_lrelu_grad(y, x, bias, *rest)
    assert torch.equal(
        dx[:, 8:], torch.ops.ganc.filtered_lrelu_grad(y[:, 8:], x[:, 8:], bias[8:], *rest)
    )
