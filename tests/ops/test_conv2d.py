"""Convolutions that are differentiated twice: torch's values, at every order."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ganc.ops import conv2d as module
from ganc.ops.conv2d import constant_kernels, conv2d, conv_transpose2d

CASES = [
    ("plain", {"padding": 1}, 3, 1),
    ("no padding", {}, 3, 1),
    ("1x1", {}, 1, 1),
    ("strided", {"stride": 2}, 3, 1),
    ("strided, padded", {"stride": 2, "padding": 1}, 3, 1),
    ("grouped", {"padding": 1, "groups": 2}, 3, 2),
    ("transposed", {"stride": 2}, 3, 1),
    ("transposed, grouped", {"stride": 2, "groups": 2}, 3, 2),
]
IDS = [case[0] for case in CASES]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU go the way of CUDA."""
    monkeypatch.setattr(module, "_is_slow_otherwise", lambda x: True)


def noise(*shape: int, seed: int) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.requires_grad_()


def operands(name: str, size: int, groups: int, sides: tuple[int, int]) -> tuple[Tensor, Tensor]:
    weight = noise(4, 4 // groups, size, size, seed=1)
    return noise(2, 4, *sides, seed=0), weight


def ways(name: str, rule: dict[str, int]):  # type: ignore[no-untyped-def]
    if name.startswith("transposed"):
        return partial(conv_transpose2d, **rule), partial(F.conv_transpose2d, **rule)
    return partial(conv2d, **rule), partial(F.conv2d, **rule)


@pytest.mark.parametrize(("name", "rule", "size", "groups"), CASES, ids=IDS)
@pytest.mark.parametrize("sides", [(5, 5), (6, 7)])
def test_derivatives_against_finite_differences(
    own: None, name: str, rule: dict[str, int], size: int, groups: int, sides: tuple[int, int]
) -> None:
    function, _ = ways(name, rule)
    inputs = operands(name, size, groups, sides)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize(("name", "rule", "size", "groups"), CASES, ids=IDS)
def test_a_penalty_of_gradients_has_torchs_gradients(
    own: None, name: str, rule: dict[str, int], size: int, groups: int
) -> None:
    found = []
    for function, is_own in zip(ways(name, rule), (True, False), strict=True):
        x, weight = operands(name, size, groups, (6, 7))
        y = function(x, weight)
        assert ("_Convolution" in type(y.grad_fn).__name__) == is_own
        with constant_kernels():
            (dx,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        (dx.square().sum() + y.sum()).backward()
        found.append((y, dx, x.grad, weight.grad))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_constant_kernels_get_no_gradients_meanwhile(own: None) -> None:
    x, weight = operands("plain", 3, 1, (5, 5))
    with constant_kernels(), pytest.raises(RuntimeError, match="unused"):
        torch.autograd.grad(conv2d(x, weight).sum(), (x, weight))
    assert torch.autograd.grad(conv2d(x, weight).sum(), weight)[0].shape == weight.shape


def test_torch_convolves_where_nothing_is_differentiated(own: None) -> None:
    x, weight = operands("plain", 3, 1, (5, 5))
    with torch.no_grad():
        assert conv2d(x, weight).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        lowered = conv2d(x.float(), weight.float())
    assert lowered.dtype == torch.bfloat16
    assert "_Convolution" not in type(lowered.grad_fn).__name__
    (dx,) = (torch.func.grad(lambda x: conv2d(x, weight).sum())(x),)
    torch.testing.assert_close(dx, torch.autograd.grad(conv2d(x, weight).sum(), x)[0])


def test_the_cpu_keeps_torchs_way() -> None:
    x, weight = operands("plain", 3, 1, (5, 5))
    assert "_Convolution" not in type(conv2d(x, weight).grad_fn).__name__


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("name", "rule", "size", "groups"), CASES, ids=IDS)
def test_on_a_gpu(
    layout: torch.memory_format, name: str, rule: dict[str, int], size: int, groups: int
) -> None:
    found = []
    for device in ("cpu", "cuda"):
        function, _ = ways(name, rule)
        x, weight = (
            t.detach().to(device, memory_format=layout).requires_grad_()
            for t in operands(name, size, groups, (6, 7))
        )
        y = function(x, weight)
        assert ("_Convolution" in type(y.grad_fn).__name__) == (device == "cuda")
        with constant_kernels():
            (dx,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        (dx.square().sum() + y.sum()).backward()
        found.append([t.cpu() for t in (y, dx, x.grad, weight.grad)])  # type: ignore[union-attr]
    for own, expected in zip(*found, strict=True):
        torch.testing.assert_close(own, expected)
