"""The compiled operators against plain torch. CPU and CUDA share the arithmetic."""

import itertools
import logging
import multiprocessing
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ganc.errors import UsageError
from ganc.ops import compiled_bias_act, extension
from ganc.ops.bias_act import ACTIVATIONS, bias_act, bias_act_ref

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("operators"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler"),
]


def run(x: Tensor, bias: Tensor | None, act: str, dim: int = 1, clamp: float | None = None,
        gain: float = 1.3, alpha: float = 0.2) -> Tensor:  # fmt: skip
    return compiled_bias_act.bias_act(x, bias, dim, act, alpha, gain, clamp)


def twin(x: Tensor, bias: Tensor | None, act: str, dim: int = 1, clamp: float | None = None,
         gain: float = 1.3, alpha: float = 0.2) -> Tensor:  # fmt: skip
    return bias_act_ref(x, bias, dim=dim, act=act, alpha=alpha, gain=gain, clamp=clamp)


def noise(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.to(device, dtype)


on_devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
SHAPES = st.sampled_from(
    [(2, 5, 3, 4), (1, 8, 4, 4), (3, 7), (2, 1, 5, 5), (4, 3, 1, 1), (0, 3, 2)]
)


@on_devices
@settings(deadline=None, max_examples=80)
@given(SHAPES, st.sampled_from([*ACTIVATIONS]), st.booleans(), st.booleans(),
       st.sampled_from([None, 0.7]), st.sampled_from([1.3, -0.5]))  # fmt: skip
def test_values_of_any_shape_and_layout(
    device: str,
    shape: tuple[int, ...],
    act: str,
    has_bias: bool,
    is_last: bool,
    clamp: float | None,
    gain: float,
) -> None:
    x = noise(*shape, device=device)
    if is_last and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    bias = noise(shape[1], seed=1, device=device) if has_bias else None
    given = run(x, bias, act, clamp=clamp, gain=gain)
    torch.testing.assert_close(given, twin(x, bias, act, clamp=clamp, gain=gain))
    assert given.stride() == x.stride()


@on_devices
@pytest.mark.parametrize("act", ["linear", "lrelu"])
def test_float32_is_plain_torchs_to_the_bit(device: str, act: str) -> None:
    x, bias = (
        noise(2, 33, 9, 7, dtype=torch.float32, device=device),
        noise(33, seed=1, dtype=torch.float32, device=device),
    )
    assert torch.equal(run(x, bias, act, clamp=1.5), twin(x, bias, act, clamp=1.5))


@on_devices
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("act", [*ACTIVATIONS])
def test_half_precision_rounds_once(device: str, act: str, dtype: torch.dtype) -> None:
    x, bias = (
        noise(2, 6, 5, 3, dtype=dtype, device=device),
        noise(6, seed=1, dtype=dtype, device=device),
    )
    exact = twin(x.double(), bias.double(), act, clamp=2.0)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(run(x, bias, act, clamp=2.0).double(), exact, rtol=step, atol=1e-6)


@on_devices
@pytest.mark.parametrize("view", ["sliced", "transposed", "shifted"])
def test_views(device: str, view: str) -> None:
    base = noise(2, 6, 8, 9, device=device)
    x = {"sliced": base[:, ::2, 1:, ::3], "transposed": base.transpose(1, 3),
         "shifted": base.flatten()[1 : 1 + 2 * 3 * 16].view(2, 3, 4, 4)}[view]  # fmt: skip
    bias = noise(x.shape[1], seed=1, device=device)
    torch.testing.assert_close(run(x, bias, "lrelu"), twin(x, bias, "lrelu"))


@on_devices
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_any_dimension_has_the_bias(device: str, dim: int) -> None:
    x, bias = noise(3, 4, 5, device=device), noise((3, 4, 5)[dim], seed=1, device=device)
    torch.testing.assert_close(run(x, bias, "swish", dim=dim), twin(x, bias, "swish", dim=dim))


@on_devices
def test_nan_stays_and_infinity_is_clamped(device: str) -> None:
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0]], device=device)
    for act in ("linear", "lrelu"):
        torch.testing.assert_close(
            run(x, None, act, clamp=2.0), twin(x, None, act, clamp=2.0), equal_nan=True
        )


SIZES = st.sampled_from([
    (2, 24, 32, 32), (1, 512, 16, 16), (3, 40, 33, 31), (2, 3, 64, 48), (5, 2080, 3, 1),
    (2, 7, 1, 1), (1, 1, 40, 40), (0, 8, 4, 4), (2, 16, 130, 136), (257, 8, 5, 5),
])  # fmt: skip
"""Whole and odd planes, few and many channels, more than a block holds, none."""

CUDA_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.usefixtures("poisoned")
@on_devices
@settings(deadline=None, max_examples=100, derandomize=True)
@given(SIZES, st.sampled_from(CUDA_DTYPES), st.sampled_from(["linear", "lrelu", "swish", "selu"]),
       st.booleans(), st.sampled_from([None, 0.7]))  # fmt: skip
def test_a_layer_and_its_derivatives_against_float64(
    device: str, shape: tuple[int, ...], dtype: torch.dtype, act: str, is_last: bool,
    clamp: float | None,
) -> None:  # fmt: skip
    layout = torch.channels_last if is_last else torch.contiguous_format
    x, dy, ddx = (
        noise(*shape, seed=seed, dtype=dtype, device=device).contiguous(memory_format=layout)
        for seed in (1, 2, 3)
    )
    bias = noise(shape[1], seed=4, dtype=dtype, device=device)
    found = []
    for function, cast in ((run, dtype), (twin, torch.float64)):
        leaves = [t.to(cast).requires_grad_() for t in (x, bias, dy)]
        y = function(leaves[0], leaves[1], act, clamp=clamp)
        first = torch.autograd.grad(y, leaves[:2], leaves[2], create_graph=True)
        second = torch.autograd.grad(first[0], leaves[2], ddx.to(cast))
        found.append([y, *first, *second])
    step = torch.finfo(dtype).eps
    sums = {2: shape[0] * shape[2] * shape[3]}  # the bias gets a sum of so many
    for i, (own, exact) in enumerate(zip(*found, strict=True)):
        assert own.dtype == dtype
        # At a kink and at the clamp, values that round differently have other slopes.
        is_near = (own.double() - exact).abs() <= 8 * step * (1 + exact.abs()) * sums.get(i, 1)
        assert is_near.double().mean() > 0.99 or not own.numel(), (i, own, exact)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 16, 16384, 8200), torch.contiguous_format),  # one sample beyond 32 bits
        ((3, 8, 8192, 11000), torch.contiguous_format),
        ((3, 8, 8192, 11000), torch.channels_last),
    ],
)
def test_more_elements_than_32_bits_count(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    """Values and both gradients; the reference goes channel by channel."""
    x = torch.empty(shape, dtype=torch.float16, device="cuda", memory_format=layout)
    x.normal_(generator=torch.Generator("cuda").manual_seed(0))
    assert x.numel() > 2**31
    bias = noise(shape[1], dtype=torch.float16, device="cuda")
    y = torch.ops.ganc.bias_act(x, bias, 1, "lrelu", 0.2, 1.3, 0.7)
    dy = x * 2**-11  # so that float16 holds the sums
    dx, db = torch.ops.ganc.bias_act_grads(dy, y, None, 1, "lrelu", 0.2, 1.3, 0.7)
    for channel in range(shape[1]):
        own = x[:, channel]
        torch.testing.assert_close(
            y[:, channel], twin(own, bias[channel : channel + 1].expand(shape[2]), "lrelu",
                                clamp=0.7), rtol=1e-3, atol=1e-3,
        )  # fmt: skip
        slopes = torch.where(y[:, channel] > 0, 1.3, 0.26) * (y[:, channel].abs() < 0.7)
        expected = dy[:, channel] * slopes
        torch.testing.assert_close(dx[:, channel], expected.half(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(
            db[channel].double(), expected.sum(dtype=torch.float64), rtol=2e-3, atol=1.0
        )


CASES = [*itertools.product(ACTIVATIONS, (None, 1.1), (True, False))]


@on_devices
@pytest.mark.parametrize(("act", "clamp", "has_bias"), CASES)
def test_derivatives(device: str, act: str, clamp: float | None, has_bias: bool) -> None:
    """First and second ones against plain torch's."""
    x = (
        noise(2, 3, 2, 2, seed=2, device=device)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
    )
    bias = noise(3, seed=3, device=device).requires_grad_() if has_bias else None
    inputs = [x] if bias is None else [x, bias]
    weight, other = (
        noise(2, 3, 2, 2, seed=4, device=device),
        [noise(*value.shape, seed=5, device=device) for value in inputs],
    )
    found = []
    for function in (run, twin):
        y = function(x, bias, act, clamp=clamp)
        first = torch.autograd.grad((y * weight).sum(), inputs, create_graph=True)
        inner = torch.stack([(g * o).sum() for g, o in zip(first, other, strict=True)]).sum()
        second = (
            torch.autograd.grad(inner, inputs, allow_unused=True) if inner.requires_grad else ()
        )
        found.append(
            (first, [s if s is not None else torch.zeros(1, device=device) for s in second])
        )
    for own, expected in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(own, expected)
    if act not in compiled_bias_act.STRAIGHT:
        for own, expected in zip(found[0][1], found[1][1], strict=True):
            torch.testing.assert_close(own, expected)
    else:
        assert all(not s.any() for part in found for s in part[1])


@on_devices
@pytest.mark.parametrize("act", [*ACTIVATIONS])
def test_derivatives_against_finite_differences(device: str, act: str) -> None:
    x, bias = (
        noise(2, 3, 2, seed=6, device=device).requires_grad_(),
        noise(3, seed=7, device=device).requires_grad_(),
    )
    assert torch.autograd.gradcheck(lambda x, b: run(x, b, act), (x, bias))
    assert torch.autograd.gradgradcheck(lambda x, b: run(x, b, act), (x, bias))


@on_devices
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck looks at it
@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_operators_are_what_torch_expects(device: str, act: str) -> None:
    """Schema, fake tensors, autograd registration, and tracing with AOT autograd."""
    x, bias = (
        noise(2, 3, 4, 4, device=device).requires_grad_(),
        noise(3, seed=1, device=device).requires_grad_(),
    )
    rule = (1, act, 0.2, 1.3, 0.9)
    torch.library.opcheck(torch.ops.ganc.bias_act.default, (x, bias, *rule))
    dy = noise(2, 3, 4, 4, seed=2, device=device).requires_grad_()
    ref = x.detach().requires_grad_(act == "swish")
    torch.library.opcheck(
        torch.ops.ganc.bias_act_grad.default, (dy, ref, bias if act == "swish" else None, *rule)
    )
    torch.library.opcheck(
        torch.ops.ganc.bias_act_grads.default, (dy, ref, bias if act == "swish" else None, *rule)
    )
    torch.library.opcheck(
        torch.ops.ganc.bias_act_grad_grad.default,
        (dy.detach(), dy.detach(), x.detach(), bias.detach(), *rule),
    )


class Layer(torch.nn.Module):
    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return run(x, bias, "lrelu") * 2


def test_export_sees_one_operator() -> None:
    x, bias = noise(2, 3, 4, 4), noise(3)
    program = torch.export.export(Layer(), (x, bias))
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert "ganc.bias_act.default" in called
    torch.testing.assert_close(program.module()(x, bias), 2 * twin(x, bias, "lrelu"))


def operators_of(function: Callable[..., Tensor], *inputs: Tensor) -> list[str]:
    """Return what a function dispatches to, by name."""
    called: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            called.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        function(*inputs)
    return called


@pytest.mark.usefixtures("chosen")
def test_bias_act_takes_the_operator_where_it_can() -> None:
    x, bias = noise(2, 3, 4, 4), noise(3, seed=1)
    layer = partial(bias_act, act="lrelu")
    assert operators_of(layer, x, bias) == ["ganc.bias_act.default"]
    torch.testing.assert_close(layer(x, bias), bias_act_ref(
        x, bias, dim=1, act="lrelu", alpha=None, gain=None, clamp=None))  # fmt: skip
    for others in ((x, bias.float()), (x.long(), None)):
        assert "ganc.bias_act.default" not in operators_of(bias_act, *others)
    assert "ganc.bias_act.default" not in operators_of(partial(layer, alpha=-0.1), x, bias)
    mapped = torch.func.vmap(layer, in_dims=(0, None))(x[:, None], bias)
    torch.testing.assert_close(mapped[:, 0], layer(x, bias))


@pytest.mark.usefixtures("chosen")
def test_who_computes_is_for_the_caller_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "build_obstacle", lambda device_type: None)
    x, bias = noise(2, 3, 4, 4), noise(3, seed=1)
    layer = partial(bias_act, act="lrelu")
    assert operators_of(partial(layer, impl="cuda"), x, bias) == ["ganc.bias_act.default"]
    assert "ganc.bias_act.default" not in operators_of(partial(layer, impl="ref"), x, bias)
    for found, unfit in (
        ("alpha must be 0 or more, got -0.1", {"alpha": -0.1}),
        ("all tensors must be of x's type and device", {"bias": bias.float()}),
        ("x must be of a floating type, got torch.int64", {"x": x.long()}),
    ):
        with pytest.raises(UsageError, match=f"cannot run: {found}"):
            layer(**{"x": x, "bias": bias, "impl": "cuda", **unfit})


@pytest.mark.usefixtures("chosen")
def test_a_compiler_meets_plain_torch_until_the_operators_are_there() -> None:
    x, bias = noise(2, 3, 4, 4), noise(3, seed=1)
    graphs: list[str] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(" ".join(str(node.target) for node in graph.graph.nodes))
        return graph.forward

    expected = twin(x, bias, "lrelu", gain=2**0.5)
    for is_there in (False, True):
        torch.compiler.reset()
        if is_there:
            bias_act(x, bias, act="lrelu")
        made = torch.compile(partial(bias_act, act="lrelu"), backend=keep, fullgraph=True)(x, bias)
        torch.testing.assert_close(made, expected)
        assert ("ganc.bias_act" in graphs[-1]) == is_there
    torch.compiler.reset()


def test_wrong_arguments_are_refused() -> None:
    x = noise(2, 3, 4, 4)
    with pytest.raises(RuntimeError, match="one number per channel"):
        run(x, noise(4), "lrelu")
    with pytest.raises(RuntimeError, match="unknown activation gelu"):
        run(x, None, "gelu")


# --- building ------------------------------------------------------------------------------------


def test_the_cuda_side_compiles_links_and_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but running it, which needs a GPU."""
    if shutil.which("nvcc") is None or torch.version.cuda is None:
        pytest.skip("there is no nvcc, or torch is built without CUDA")
    monkeypatch.setenv("GANC_CACHE", str(tmp_path))
    path = extension.built_library(extension.CUDA, ["90"])
    torch.ops.load_library(str(path))
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    passes = ("", "_grad", "_tangent")
    for name in ("bias_act", "bias_act_grad", "bias_act_grads", "bias_act_grad_grad",
                 *(f"filtered_lrelu{which}" for which in passes)):  # fmt: skip
        assert has_kernel(f"ganc::{name}", "CUDA")
    schema = str(torch.ops.ganc.bias_act.default._schema)
    assert schema.startswith("ganc::bias_act(Tensor x, Tensor? bias, int dim, str act")
    code = machine_code(path)
    for name, text in code.items():
        assert not re.search(r"\b(LDL|STL)\b", text), f"{name} spills registers"
        if "filtered::" in name:
            continue
        width = 16 // SIZES_OF_TYPES[re.search(r"c10::Half|c10::BFloat16|float|double", name)[0]]
        moves_vectors = re.search(rf", {width}[,>]", name) is not None
        assert ("LDG.E.128" in text and "STG.E.128" in text) == moves_vectors, name
    # Activations that are known when compiling, and the rest; types; passes; two index types.
    filtered = [name for name in code if "filtered::" in name]
    assert len(code) - len(filtered) >= 3 * 4 * 3
    # StyleGAN3's passes and the rest, of which double has the rest alone.
    assert len(filtered) == 3 * 5 + 4 * 2


SIZES_OF_TYPES = {"float": 4, "double": 8, "c10::Half": 2, "c10::BFloat16": 2}


def machine_code(library: Path) -> dict[str, str]:
    """Return kernel → its assembly, by the disassembler that Triton carries."""
    triton = pytest.importorskip("triton")
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not cuobjdump.exists() or shutil.which("c++filt") is None:
        pytest.skip("there is no disassembler")
    listing = subprocess.run([cuobjdump, "-sass", library], capture_output=True, check=True).stdout
    named = subprocess.run(["c++filt"], input=listing, capture_output=True, check=True).stdout
    _, *parts = re.split(r"\n\s*Function : ", named.decode())
    return {part.partition("\n")[0]: part for part in parts}


def build(folder: str) -> None:
    os.environ["GANC_CACHE"] = folder
    extension.built_library(extension.CPU, ())


def build_apart(folder: str) -> None:
    os.setsid()  # so that the compiler dies with this process
    build(folder)


def test_processes_that_start_together_build_once(tmp_path: Path) -> None:
    compiler, log = tmp_path / "g++", tmp_path / "log"
    compiler.write_text(
        f"#!/bin/sh\necho started >> {log}\nsleep 0.5\n"
        'while [ "$1" != -o ]; do shift; done\necho made > "$2"\n'
    )
    compiler.chmod(0o755)
    context = multiprocessing.get_context("fork")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", str(compiler))
        processes = [context.Process(target=build, args=(str(tmp_path),)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text().split() == ["started"]
    assert [path.read_text() for path in (tmp_path / "extensions").glob("*.so")] == ["made\n"]


def test_a_builder_that_was_killed_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is free at once, its half library is nowhere."""
    compiler = tmp_path / "g++"
    compiler.write_text(
        '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho half > "$2"\nsleep 60\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    context = multiprocessing.get_context("fork")
    first = context.Process(target=build_apart, args=(str(tmp_path),))
    first.start()
    while not list(tmp_path.glob("extensions/*/*.so")):
        assert first.is_alive()
    assert first.pid is not None
    os.killpg(first.pid, 9)
    first.join()
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho whole > "$2"\n')
    second = context.Process(target=build, args=(str(tmp_path),))
    second.start()
    second.join(60)
    assert second.exitcode == 0
    assert [path.read_text() for path in (tmp_path / "extensions").glob("*.so")] == ["whole\n"]


@pytest.mark.parametrize(
    ("variable", "value", "finding"),
    [("CXX", "/bin/false", "/bin/false failed"), ("GANC_CACHE", "/proc/nowhere", "/proc/nowhere")],
)
def test_what_stands_in_the_way_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    variable: str, value: str, finding: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("GANC_CACHE", str(tmp_path))
    monkeypatch.setenv(variable, value)
    extension.build_or_warn.cache_clear()
    extension._load_library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="ganc"):
            assert not extension.build_or_warn(extension.CPU)
            assert not extension.build_or_warn(extension.CPU)
    finally:
        extension.build_or_warn.cache_clear()
        extension._load_library.cache_clear()
    assert len(caplog.messages) == 1
    assert "plain torch instead" in caplog.text
    assert finding in caplog.text


def test_another_cuda_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 9.1, V9.1.85'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(extension.BuildError, match=r"is of CUDA 9, torch of CUDA 13"):
        extension.compiler_command(extension.CUDA, ["90"])
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(extension.BuildError, match="without CUDA"):
        extension.compiler_command(extension.CUDA, ["90"])
