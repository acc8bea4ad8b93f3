"""The Triton kernels against plain torch in float64: interpreted on the CPU, compiled on CUDA."""

import importlib
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ganc.ops import extension, resampling
from ganc.ops.upfirdn2d import setup_filter, upfirdn2d, upfirdn2d_ref

triton = pytest.importorskip("triton", reason="there is no Triton")
GPUTarget = triton.backends.compiler.GPUTarget

pytestmark = pytest.mark.slow

KERNELS = "ganc.ops.upfirdn2d_triton"
LAYOUTS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]

on_devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


@pytest.fixture(scope="session", autouse=True)
def operator() -> None:
    """Register the operator; on the CPU its kernels are interpreted.

    Triton decides when a kernel is defined: this module's copy of the kernels is read anew for it.
    """
    library = resampling.register()
    compiled = sys.modules.pop(KERNELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        interpreted = importlib.import_module(KERNELS)
        library.impl("upfirdn2d", interpreted.launch, "CPU")
    sys.modules[KERNELS] = compiled


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


class Case(NamedTuple):
    """The arguments of ``upfirdn2d`` that are not tensors."""

    up: int = 1
    down: int = 1
    padding: tuple[int, int] = (0, 0)
    gain: float = 1.0


def run(x: Tensor, kernel: Tensor, case: Case) -> Tensor:
    return resampling.upfirdn2d(x, kernel, **case._asdict())


def exact(x: Tensor, kernel: Tensor, case: Case) -> Tensor:
    """Return the definition, in float64: insert zeros, pad, convolve, keep every so many."""
    x, kernel = x.detach().cpu().double(), kernel.cpu().double()
    kernel = kernel.outer(kernel) if kernel.ndim == 1 else kernel
    n, channels, height, width = x.shape
    inserted = x.new_zeros(n * channels, 1, height * case.up, width * case.up)
    inserted[:, :, :: case.up, :: case.up] = x.reshape(n * channels, 1, height, width)
    before, after = case.padding
    margin = max(-before, -after, 0)  # padding that crops is a smaller margin
    padded = F.pad(inserted, [before + margin, after + margin] * 2)
    full = F.conv2d(padded, kernel.flip([0, 1])[None, None]) * case.gain
    rows, columns = (side - margin for side in full.shape[2:])
    kept = full[:, :, margin : rows : case.down, margin : columns : case.down]
    return kept.reshape(n, channels, *kept.shape[2:])


def check(x: Tensor, kernel: Tensor, case: Case) -> None:
    """Compare values, type and layout; a separable filter rounds twice, between its passes."""
    got, expected = run(x, kernel, case), exact(x, kernel, case)
    assert got.dtype == x.dtype
    # A sum of products whose factors add up to at most gain · K², in steps of its own type.
    step = torch.finfo(x.dtype).eps if x.dtype != torch.float64 else 1e-14
    scale = case.gain * kernel.abs().sum().item() ** (2 / kernel.ndim) * x.abs().max().item()
    torch.testing.assert_close(got.cpu().double(), expected, rtol=0, atol=4 * step * scale + 1e-30)
    assert got.is_contiguous(memory_format=resampling.memory_format(x))


@on_devices
@settings(deadline=None, max_examples=20)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    taps=st.integers(1, 6),
    channels=st.sampled_from([1, 3, 16]),
    up=st.sampled_from([1, 2, 4]),
    down=st.sampled_from([1, 2, 4]),
    padding=st.tuples(st.integers(-3, 5), st.integers(-3, 5)),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    is_separable=st.booleans(),
)
def test_values(
    device: str,
    size: tuple[int, int],
    taps: int,
    channels: int,
    up: int,
    down: int,
    padding: tuple[int, int],
    dtype: torch.dtype,
    layout: torch.memory_format,
    is_separable: bool,
) -> None:
    case = Case(up, down, padding, 1.3)
    assume(min(size) * up + sum(padding) >= taps)
    x = noise(1, channels, *size, dtype=dtype).to(device, memory_format=layout)
    kernel = noise(*((taps,) if is_separable else (taps, taps)), seed=1, dtype=torch.float64)
    check(x, kernel.to(device), case)


LARGE = [
    ((12,), Case(2, 1, (6, 5), 4.0)),
    ((12,), Case(1, 2, (5, 5))),
    ((24,), Case(4, 1, (12, 11), 16.0)),
    ((24,), Case(1, 4, (12, 11))),
    ((12, 12), Case(1, 2, (5, 5))),  # as StyleGAN3's radial ones; taps are read as they are used
    ((12, 12), Case(2, 1, (6, 5), 4.0)),
    ((3, 3), Case(3, 2, (2, 1))),
]


@on_devices
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("taps", "case"), LARGE)
def test_long_filters(
    device: str, taps: tuple[int, ...], case: Case, layout: torch.memory_format
) -> None:
    # One plane where kernels are interpreted: several are tried with short filters.
    channels = 1 if device == "cpu" and layout == torch.contiguous_format else 2
    x = noise(1, channels, 4, 3, dtype=torch.float32).to(device, memory_format=layout)
    check(x, noise(*taps, seed=1, dtype=torch.float32).to(device), case)


SHAPES = [(2, 3, 20, 67), (1, 5, 3, 300), (2, 33, 18, 17), (1, 130, 5, 6), (1, 272, 3, 2)]


STEPS = (Case(padding=(2, 1)), Case(up=2, padding=(2, 1)), Case(down=2, padding=(1, 1)))


@on_devices
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_tiles_meet(device: str, number: int, layout: torch.memory_format) -> None:
    """Images wider and higher than a tile, and channels beyond it."""
    shape, cases = SHAPES[number], STEPS
    if device == "cpu":  # where the kernels are interpreted: by turns
        cases = (STEPS[(number + LAYOUTS.index(layout)) % 3],)
        shape = (1, *shape[1:]) if layout == torch.channels_last else (1, 1, *shape[2:])
    x = noise(*shape, dtype=torch.float32).to(device, memory_format=layout)
    kernel = noise(4, 4, seed=1, dtype=torch.float32).to(device)
    for case in cases:
        check(x, kernel, case)


@on_devices
@pytest.mark.parametrize("view", ["sliced", "transposed", "shifted", "expanded", "sliced last"])
def test_views(device: str, view: str) -> None:
    base = noise(2, 6, 8, 9).to(device)
    last = base.contiguous(memory_format=torch.channels_last)
    x = {"sliced": base[:, ::2, 1:, ::3], "transposed": base.transpose(1, 3),
         "shifted": base.flatten()[1 : 1 + 2 * 3 * 16].view(2, 3, 4, 4),
         "expanded": base[:, :1, :, :1].expand(-1, 3, -1, 4),
         "sliced last": last[:, 1:4, ::2, 1:]}[view]  # fmt: skip
    kernel = noise(4, 4, seed=1).to(device).t()
    check(x, kernel, Case(padding=(2, 1)))


@on_devices
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_nothing_gives_nothing(device: str, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, device=device)
    got = run(x, torch.ones(2, 2, device=device), Case(up=2, padding=(1, 0)))
    assert got.shape == (*shape[:2], 8, 8)


@on_devices
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("taps", [(3, 3), (4,)])
@pytest.mark.parametrize("case", [Case(1, 1, (2, 1)), Case(1, 2, (1, -1)), Case(2, 3, (3, 2))])
def test_derivatives(
    device: str, case: Case, taps: tuple[int, ...], layout: torch.memory_format
) -> None:
    """First and second ones against plain torch's, in one go: they are linear."""
    x = noise(1, 2, 4, 5).to(device, memory_format=layout).requires_grad_()
    kernel = noise(*taps, seed=1).to(device)
    y = run(x, kernel, case)
    expected = upfirdn2d_ref(x, kernel, **case._asdict())
    weight = noise(*y.shape, seed=2).to(device).requires_grad_()
    (first,) = torch.autograd.grad(y, x, weight, create_graph=True)
    (twin,) = torch.autograd.grad(expected, x, weight, create_graph=True)
    torch.testing.assert_close(first, twin)
    other = noise(*first.shape, seed=3).to(device)
    torch.testing.assert_close(
        torch.autograd.grad(first, weight, other), torch.autograd.grad(twin, weight, other)
    )


@on_devices
@pytest.mark.parametrize("case", [Case(2, 1, (1, 0), 4.0), Case(1, 2, (0, 1))])
def test_derivatives_against_finite_differences(device: str, case: Case) -> None:
    x = noise(1, 1, 2, 2).to(device).requires_grad_()
    kernel = noise(2, 2, seed=1).to(device)
    assert torch.autograd.gradcheck(lambda x: run(x, kernel, case), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: run(x, kernel, case), x, fast_mode=True)


@on_devices
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck looks at it
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_operator_is_what_torch_expects(device: str, layout: torch.memory_format) -> None:
    """Schema, fake tensors, autograd registration, and tracing with AOT autograd."""
    x = noise(1, 3, 4, 5).to(device, memory_format=layout).requires_grad_()
    kernel = noise(3, 3, seed=1).to(device)
    torch.library.opcheck(
        torch.ops.ganc.upfirdn2d.default,
        (x, kernel, (2, 1), (1, 2), (1, 2), (9, 3), False, 1.5),
    )


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_elements_than_an_int_counts(layout: torch.memory_format) -> None:
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("there is not enough memory")
    shape = (5, 2**13, 2**8, 2**8)
    x = torch.empty(shape, dtype=torch.float16, device="cuda", memory_format=layout)
    assert x.numel() > 2**31
    x.zero_()[-1, -1, -4:, -4:] = 1
    got = run(x, torch.ones(2, 2, device="cuda"), Case(down=2))
    assert got[-1, -1, -3:, -3:].tolist() == [[0, 0, 0], [0, 4, 4], [0, 4, 4]]
    assert got.sum(dtype=torch.float32).item() == 16


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("layout", LAYOUTS)
def test_upfirdn2d_is_the_kernel_on_a_gpu_eager_and_compiled(
    layout: torch.memory_format, caplog: pytest.LogCaptureFixture
) -> None:
    x = noise(2, 32, 9, 10, dtype=torch.float32).to("cuda", memory_format=layout)
    x.requires_grad_()
    kernel = setup_filter((1, 3, 3, 1)).cuda()
    case = Case(2, 1, (2, 1), 4.0)
    assert calls(x, kernel, **case._asdict()) == 1
    assert not caplog.messages

    def enlarge(x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return upfirdn2d(x, kernel, **case._asdict())

    found = []
    for function in (enlarge, torch.compile(enlarge, fullgraph=True)):
        y = function(x)
        assert (y.dtype, y.is_contiguous(memory_format=layout)) == (torch.bfloat16, True)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        found.append((y, dx))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    expected = exact(x, kernel, case)
    torch.testing.assert_close(found[0][0].cpu().double(), expected, rtol=1e-2, atol=3e-2)
    torch.compiler.reset()


# --- compiling, without a GPU -------------------------------------------------------------------


class Compiler:
    """Takes a kernel's place, and compiles instead of launching."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int]) -> Any:
        def make(*arguments: Any, **options: Any) -> None:
            self.made = self.kernel.warmup(*arguments, grid=grid, **options)

        return make


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    compiler = Compiler(sys.modules[KERNELS]._filter_rows)
    monkeypatch.setattr(sys.modules[KERNELS], "_filter_rows", compiler)
    return compiler


@pytest.mark.parametrize(
    ("up", "dtype", "layout", "access"),
    [
        (1, torch.bfloat16, torch.channels_last, "global.v4.b32"),  # eight channels
        (2, torch.bfloat16, torch.channels_last, "global.v4.b32"),
        (2, torch.float32, torch.channels_last, "global.v4.b32"),
        (2, torch.float32, torch.contiguous_format, "global.b32"),
    ],
)
def test_code_for_a_gpu_moves_16_bytes_at_once_where_channels_allow(
    compiler: Compiler, up: int, dtype: torch.dtype, layout: torch.memory_format, access: str
) -> None:
    rule = ((up, up), (1, 1), (2, 2))
    launch = sys.modules[KERNELS].launch
    x = torch.zeros(1, 32, 9, 10, dtype=dtype).contiguous(memory_format=layout)
    launch(x, torch.ones(4, 4), *rule, (9 * up, 10 * up), False, 1.0)
    code, made = compiler.made.asm["ptx"], compiler.made
    assert f"ld.{access}" in code
    assert f"st.{access}" in code
    # Another image, batch, place and factor: the same code.
    x = torch.zeros(3, 32, 11, 12, dtype=dtype).contiguous(memory_format=layout)
    launch(x, torch.ones(4, 4), *rule, (11 * up, 12 * up), False, 4.0)
    assert compiler.made is made


# --- choosing -----------------------------------------------------------------------------------


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``upfirdn2d`` choose the operator on the CPU, as it does on CUDA."""
    monkeypatch.setattr(extension, "CUDA", extension.CPU)
    monkeypatch.setattr(resampling, "build_obstacle", lambda: None)
    monkeypatch.setattr(resampling.OPERATORS, "working", {})


class Watch(TorchDispatchMode):
    """Count the calls of the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += str(func) == "ganc.upfirdn2d.default"
        return func(*args, **(kwargs or {}))


def calls(x: Tensor, kernel: Tensor, **rule: Any) -> int:
    with Watch() as watch:
        upfirdn2d(x, kernel, **rule)
    return watch.calls


@pytest.mark.usefixtures("chosen")
def test_upfirdn2d_takes_the_operator_where_it_can() -> None:
    x, kernel = noise(1, 2, 4, 4, dtype=torch.float32), setup_filter((1, 3, 3, 1))
    assert calls(x, kernel, padding=(2, 1)) == 1
    assert calls(x, kernel[0], padding=(2, 1)) == 2
    assert calls(x, kernel.clone().requires_grad_(), padding=(2, 1)) == 0
    assert calls(x.int(), kernel.int(), padding=(2, 1)) == 0
    with pytest.raises(RuntimeError):  # plain torch's own
        upfirdn2d(x, kernel, padding=(-1, 0))


@pytest.mark.usefixtures("chosen")
def test_mapped_functions_meet_plain_torch() -> None:
    x, kernel = noise(3, 1, 2, 4, 4), setup_filter((1, 3, 3, 1))
    mapped = torch.func.vmap(lambda x: upfirdn2d(x, kernel, padding=(2, 1)))(x)
    torch.testing.assert_close(mapped[:, 0], exact(x[:, 0], kernel, Case(padding=(2, 1))))


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast_lowers_as_a_convolution_does(dtype: torch.dtype) -> None:
    x, kernel = noise(1, 2, 4, 4, dtype=dtype), setup_filter((1, 3, 3, 1))
    rule = {"up": 1, "down": 1, "padding": (2, 1), "gain": 1.0}
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = upfirdn2d(x, kernel, **rule), upfirdn2d_ref(x, kernel, **rule)
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.usefixtures("chosen")
def test_compilers_see_one_operator_once_it_is_there() -> None:
    x, kernel = noise(1, 2, 4, 4, dtype=torch.float32), setup_filter((1, 3, 3, 1))
    graphs: list[str] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(" ".join(str(node.target) for node in graph.graph.nodes))
        return graph.forward

    def blur(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return upfirdn2d(x, kernel, padding=(2, 1))

    for is_there in (False, True):
        torch.compiler.reset()
        if is_there:
            blur(x)
        made = torch.compile(blur, backend=keep, fullgraph=True)(x)
        torch.testing.assert_close(made, blur(x), rtol=2e-2, atol=2e-2)
        assert ("ganc.upfirdn2d" in graphs[-1]) == is_there
    torch.compiler.reset()


class Blur(torch.nn.Module):
    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
        return upfirdn2d(x, kernel, padding=(2, 1))


@pytest.mark.usefixtures("chosen")
def test_export_sees_one_operator_for_any_batch() -> None:
    x, kernel = noise(2, 3, 4, 4), noise(4, 4, seed=1)
    upfirdn2d(x, kernel, padding=(2, 1))  # from here on it is there
    program = torch.export.export(
        Blur(), (x, kernel), dynamic_shapes=({0: torch.export.Dim("batch")}, None)
    )
    assert "ganc.upfirdn2d.default" in [str(node.target) for node in program.graph.nodes]
    x = noise(3, 3, 4, 4, seed=2)
    torch.testing.assert_close(program.module()(x, kernel), exact(x, kernel, Case(padding=(2, 1))))


def test_tensors_without_data_have_the_layout_of_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a pretended GPU, as when a model is traced for one."""
    monkeypatch.setattr(resampling, "build_obstacle", lambda: None)
    monkeypatch.setattr(resampling.OPERATORS, "working", {})
    with FakeTensorMode():
        x = torch.empty(2, 3, 8, 9, device="cuda", dtype=torch.bfloat16)
        kernel = torch.empty(4, 4, device="cuda")
        for layout in LAYOUTS:
            leaf = x.contiguous(memory_format=layout).requires_grad_()
            y = upfirdn2d(leaf, kernel, up=2, padding=(2, 1), gain=4)
            assert (y.shape, y.dtype) == ((2, 3, 16, 18), torch.bfloat16)
            assert y.is_contiguous(memory_format=layout)


class Driver:
    """Stands in for Triton's, which compiles its helper when a GPU is first looked at."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def get_current_target(self) -> Any:
        if self.error:
            raise self.error
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 99  # no real one's compiled kernels are mixed with these

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.mark.parametrize(
    ("driver", "capability", "found"),
    [
        (Driver(), (7, 5), "found sm_75"),
        (Driver(RuntimeError("Failed to find C compiler")), (9, 0), "Failed to find C compiler"),
        (Driver(subprocess.CalledProcessError(1, "gcc")), (9, 0), "gcc"),
        (None, (9, 0), "triton"),
    ],
)
def test_what_stands_in_the_way_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    driver: Driver | None,
    capability: tuple[int, int],
    found: str,
) -> None:
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if driver is None:
        monkeypatch.setitem(sys.modules, "triton", None)  # as if it was not installed
    monkeypatch.setattr(resampling.OPERATORS, "working", {})
    with caplog.at_level(logging.WARNING, logger="ganc"):
        assert not resampling.OPERATORS.build_on(extension.CUDA)
        assert not resampling.OPERATORS.build_on(extension.CUDA)
    assert len(caplog.messages) == 1
    assert "plain torch instead" in caplog.text
    assert found in caplog.text
    assert found in resampling.state(extension.CUDA)


def test_whoever_wants_plain_torch_gets_it_in_silence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GANC_EXTENSION", "off")
    monkeypatch.setattr(resampling.OPERATORS, "working", {})
    assert not resampling.OPERATORS.build_on(extension.CUDA)
    assert not caplog.messages
    assert extension.OFF in resampling.state(extension.CUDA)
