"""What follows a layer's convolution in one compiled pass, against float64 and the twins."""

import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.models.stylegan2 import Generator
from ganc.ops import extension, layer_passes
from ganc.ops import modulated_layer as module
from ganc.ops.modulated_layer import Layer, add_upsampled, modulated_layer
from ganc.ops.upfirdn2d import setup_filter, upfirdn2d_ref, upsample2d
from tests.conftest import Outcome

# Not symmetric, so that a turned filter shows; the sum is 1.
TAPS = torch.tensor([0.1, 0.4, 0.3, 0.2])
KERNEL = TAPS.outer(torch.tensor([0.15, 0.25, 0.5, 0.1]))

# Float32 sums of 16 products and some, before they are clamped; measured are 3e-6 of the largest.
RELATIVE = 1e-5

LAYOUTS = {"nchw": torch.contiguous_format, "last": torch.channels_last}


@pytest.fixture
def built(operators: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "cpu_obstacle", lambda: None)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_near(got: Tensor, expected: Tensor) -> None:
    atol = RELATIVE * float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=atol)


def finished(
    x: Tensor, kernel: Tensor | None, scales: Tensor, noise: Tensor | None, bias: Tensor,
    clamp: float | None,
) -> Tensor:  # fmt: skip
    """Compute the same step by step in float64."""
    x = x.double()
    if kernel is not None:
        x = upfirdn2d_ref(x, kernel.double(), up=1, down=1, padding=(1, 1), gain=4.0)
    x = x * scales.double()[:, :, None, None] + bias.double()[:, None, None]
    if noise is not None:
        x = x + noise.double()
    x = F.leaky_relu(x, 0.2) * 2**0.5
    return x if clamp is None else x.clamp(-clamp, clamp)


def draw(
    batch: int, channels: int, size: tuple[int, int], *, layout: str, filtered: bool, noise: str
) -> tuple[Any, ...]:
    height, width = size
    x = rand(batch, channels, height + filtered, width + filtered)
    shapes = {"stored": (height, width), "drawn": (batch, 1, height, width)}
    return (
        x.contiguous(memory_format=LAYOUTS[layout]),
        KERNEL if filtered else None,
        rand(batch, channels, seed=1),
        rand(*shapes[noise], seed=2) if noise in shapes else None,
        rand(channels, seed=3),
    )


@pytest.mark.parametrize("layout", [*LAYOUTS])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("size", [(2, 2), (3, 5), (16, 17), (70, 9), (67, 71)])
@pytest.mark.parametrize("channels", [1, 3, 15, 16, 33])
@pytest.mark.usefixtures("built")
def test_one_pass_is_the_steps_in_float64(
    layout: str, filtered: bool, size: tuple[int, int], channels: int,
    threads: Callable[[int], None],
) -> None:  # fmt: skip
    cases = itertools.product((0, 1, 3), ("stored", "drawn", "none"), (None, 0.5))
    for batch, noise, clamp in cases:
        x, *rest = draw(batch, channels, size, layout=layout, filtered=filtered, noise=noise)
        expected = finished(x, *rest, clamp)
        results = []
        for count in (1, 3):
            threads(count)
            results.append(layer_passes.finish_layer(x.clone(), *rest, clamp))
        assert_near(results[0], expected)
        assert results[0].dtype == torch.float32
        assert batch == 0 or results[0].is_contiguous(memory_format=LAYOUTS[layout])
        assert torch.equal(*results)


@pytest.mark.parametrize("layout", [*LAYOUTS])
@pytest.mark.usefixtures("built")
def test_a_sample_does_not_depend_on_its_batch(layout: str) -> None:
    x, kernel, scales, noise, bias = draw(
        3, 33, (40, 41), layout=layout, filtered=True, noise="stored"
    )
    together = layer_passes.finish_layer(x.clone(), kernel, scales, noise, bias, 0.5)
    alone = layer_passes.finish_layer(x[1:2].clone(), kernel, scales[1:2], noise, bias, 0.5)
    assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize("layout", [*LAYOUTS])
@pytest.mark.usefixtures("built")
def test_a_view_is_taken(layout: str) -> None:
    x, *rest = draw(2, 17, (8, 9), layout=layout, filtered=True, noise="stored")
    parent = rand(2, 20, 9, 22).contiguous(memory_format=LAYOUTS[layout])
    view = parent[:, 1:18, :, ::2][:, :, :, :10]
    view.copy_(x)
    assert_near(layer_passes.finish_layer(view, *rest, None), finished(x, *rest, None))


@pytest.mark.parametrize("layout", [*LAYOUTS])
@pytest.mark.usefixtures("built")
def test_the_result_goes_where_it_is_told(layout: str) -> None:
    x, *rest = draw(1, 16, (8, 8), layout=layout, filtered=True, noise="none")
    expected = finished(x, *rest, None)
    batch = torch.full((3, 16, 8, 8), 7.0).contiguous(memory_format=LAYOUTS[layout])
    before = x.clone()
    layer_passes.finish_layer(x, *rest, None, batch[1:2])
    assert_near(batch[1:2], expected)
    assert torch.equal(x, before)
    assert (batch[::2] == 7).all()


@pytest.mark.parametrize(("small", "large"), [*itertools.product(LAYOUTS, LAYOUTS)])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 5, 8), (3, 1, 33, 4), (0, 3, 4, 4)])
@pytest.mark.usefixtures("built")
def test_an_image_is_enlarged_and_added(small: str, large: str, shape: tuple[int, ...]) -> None:
    batch, channels, height, width = shape
    x = rand(*shape).contiguous(memory_format=LAYOUTS[small])
    image = rand(batch, channels, 2 * height, 2 * width, seed=1)
    image = image.contiguous(memory_format=LAYOUTS[large])
    expected = upsample2d(x.double(), KERNEL.double()) + image.double()
    with torch.no_grad():
        assert_near(add_upsampled(image, x, KERNEL), expected)


def make_layer(up: int, clamp: float | None, taps: tuple[float, ...] = (1, 3, 3, 1)) -> Layer:
    weight = rand(21, 18, 3, 3, seed=1)
    return Layer(weight, rand(21, seed=2), up, setup_filter(taps), clamp)


@pytest.mark.parametrize("own_kernels", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("taps", [(1, 3, 3, 1), (1, 2, 1), (1, 5, 10, 10, 5, 1)])
@pytest.mark.parametrize(("up", "clamp"), [(1, None), (2, None), (2, 0.5)])
@pytest.mark.usefixtures("built")
def test_a_layer_is_what_training_computes(
    own_kernels: bool,
    batch: int,
    taps: tuple[float, ...],
    up: int,
    clamp: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_takes_own_kernels", lambda x, layer: own_kernels)
    layer = make_layer(up, clamp, taps)
    x, styles, noise = rand(batch, 18, 8, 9), rand(batch, 18, seed=3), rand(8 * up, 9 * up)
    given = [t.clone() for t in (x, styles, noise, *layer[:2], layer.resample_filter)]
    expected = modulated_layer(x.requires_grad_(), styles, noise, layer).detach()
    with torch.no_grad():
        got = modulated_layer(x, styles, noise, layer)
    assert_near(got, expected)
    now = (x, styles, noise, *layer[:2], layer.resample_filter)
    assert all(map(torch.equal, given, now))


@pytest.mark.usefixtures("built")
def test_images_are_those_of_the_training_path() -> None:
    torch.manual_seed(0)
    generator = Generator(
        8, 0, 8, 128, 3, channel_base=2048, channel_max=20, conv_clamp=256,
        mapping_kwargs={"num_layers": 2},
    ).eval()  # fmt: skip
    z = rand(2, 8, seed=5)
    expected = generator(z).detach()
    with torch.no_grad():
        assert_near(generator(z), expected)


@pytest.mark.usefixtures("built")
def test_what_is_trained_traced_or_in_another_type_takes_plain_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> Tensor:
        raise AssertionError("a compiled pass was taken")

    layer = make_layer(2, None)
    x, styles = rand(1, 18, 8, 8), rand(1, 18, seed=3)

    class Network(torch.nn.Module):
        def forward(self, x: Tensor, styles: Tensor) -> Tensor:
            return modulated_layer(x, styles, None, layer)

    monkeypatch.setattr(layer_passes, "finish_layer", refuse)
    modulated_layer(x.requires_grad_(), styles, None, layer).sum().backward()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            modulated_layer(x, styles, None, layer)
        double = layer._replace(weight=layer.weight.double(), bias=layer.bias.double())
        modulated_layer(x.double(), styles.double(), None, double)
        program = torch.export.export(Network(), (x.detach(), styles))
        with warnings.catch_warnings(action="ignore"):
            traced = torch.jit.trace(Network(), (x, styles), check_trace=False)
        assert "finish_layer" not in str(program.graph) + str(traced.graph)
        with pytest.raises(AssertionError, match="was taken"):
            modulated_layer(x, styles, None, layer)


@pytest.mark.usefixtures("built")
def test_torch_knows_what_the_operators_write() -> None:
    layer_passes.are_there()
    x, *rest = draw(2, 17, (6, 6), layout="last", filtered=True, noise="stored")
    out = torch.empty(2, 17, 6, 6).contiguous(memory_format=torch.channels_last)
    utils = ("test_schema", "test_faketensor")
    operators: Any = torch.ops.ganc
    torch.library.opcheck(
        operators.finish_layer.default, (x, out, *rest, 0.2, 1.4, None), test_utils=utils
    )
    image = (rand(1, 3, 8, 8), rand(1, 3, 4, 4), KERNEL)
    torch.library.opcheck(operators.add_upsampled.default, image, test_utils=utils)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({0: rand(1, 4, 9, 8)}, "x and out disagree"),
        ({0: rand(1, 4, 9, 9).double()}, "every tensor must be float32"),
        ({2: rand(4, 4)}, "outer product of sum 1"),
        ({3: rand(1, 5)}, "scales must be"),
        ({5: rand(5)}, r"bias \[C\]"),
    ],
)
@pytest.mark.usefixtures("built")
def test_operators_refuse_what_they_would_misread(change: dict[int, Any], finding: str) -> None:
    arguments = [
        rand(1, 4, 9, 9),
        rand(1, 4, 8, 8),
        KERNEL,
        rand(1, 4),
        None,
        rand(4),
        0.2,
        1,
        None,
    ]
    for at, value in change.items():
        arguments[at] = value
    with pytest.raises(RuntimeError, match=finding):
        torch.ops.ganc.finish_layer(*arguments)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Let the CPU's operators be looked for anew, in this test and after it."""
    extension.cpu_obstacle.cache_clear()
    yield
    extension.cpu_obstacle.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_nothing_is_compiled_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANC_CACHE", str(tmp_path))
    assert not layer_passes.are_there()
    assert extension.state(extension.CPU) == (
        "plain torch; `ganc doctor --build` compiles faster operators"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("forgotten")
def test_a_broken_library_leaves_plain_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANC_CACHE", str(tmp_path))
    monkeypatch.setattr(extension, "_load_library", extension._load_library.__wrapped__)
    path = extension.library_path(extension.CPU, ())
    path.parent.mkdir()
    path.write_text("no library")
    assert not layer_passes.are_there()
    assert "cannot be loaded" in extension.state(extension.CPU)
    assert "delete it" in extension.state(extension.CPU)


@pytest.mark.usefixtures("forgotten")
def test_doctor_builds_and_says_so(
    operators: Path, ganc: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library is there already, so nothing is compiled a second time."""
    monkeypatch.setenv("GANC_CACHE", str(operators))
    outcome = ganc("doctor", "--device", "cpu", "--build", "--json")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert report["kernels"] == "compiled operators"
    assert Path(report["built"]["library"]).parent == operators / "extensions"
    assert report["built"]["sec"] < 10
    assert "in one pass" in report["built"]["for"]
    assert "built" not in ganc("doctor", "--device", "cpu").out


@pytest.mark.parametrize(
    ("variable", "value", "finding"),
    [
        ("CXX", "/bin/false", "/bin/false failed"),
        ("CXX", "/nowhere/g++", "/nowhere/g++"),
        ("GANC_EXTENSION", "off", "GANC_EXTENSION=off"),
    ],
)
@pytest.mark.usefixtures("forgotten")
def test_doctor_says_why_nothing_is_built(
    variable: str, value: str, finding: str,
    ganc: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("GANC_CACHE", str(tmp_path))
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(extension, "_load_library", extension._load_library.__wrapped__)
    outcome = ganc("doctor", "--device", "cpu", "--build")
    assert outcome.code == 3
    assert finding in outcome.err
    assert not outcome.out
