"""Diversity in other ways: several directions at once, other arithmetic; the same scores."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ganc import seeds
from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.models.style import StyleGenerator
from ganc.scores import Scores
from ganc.scoring import scorer
from ganc.scoring.diversity import Diversity
from ganc.scoring.precision import arithmetic
from ganc.scoring.request import ScoreRequest
from ganc.scoring.score import score
from ganc.scoring.scorer import overlap
from tests.conftest import make_model
from tests.families import make_sngan, make_stylegan3

DIRECTIONS = 5


MODELS: dict[str, Callable[[], Model]] = {
    "stylegan2": make_model,
    "stylegan2 orig": lambda: make_model(architecture=("orig", "resnet")),
    "stylegan2 resnet": lambda: make_model(architecture=("resnet", "resnet")),
    "stylegan3-t": make_stylegan3,
    "stylegan3-r": lambda: make_stylegan3(is_rotation_equivariant=True),
    "sngan": make_sngan,
}
every_model = pytest.mark.parametrize("family", MODELS)


def run(model: Model, **settings: Any) -> Scores:
    chosen = {"samples": 5, "batch": 2, "num_directions": DIRECTIONS, "device": "cpu", **settings}
    return score(model, "diversity", **chosen)


def in_double(family: str, **settings: Any) -> dict[str, Tensor]:
    """Return scores in double precision, where no pixel's sign hangs by a rounding."""
    model = Model(generator=copy.deepcopy(MODELS[family]().generator).double())
    generator = model.generator
    dim = generator.w_dim if isinstance(generator, StyleGenerator) else generator.z_dim
    random = torch.Generator().manual_seed(0)
    points = torch.randn(5, dim, dtype=torch.float64, generator=random)
    directions = torch.randn(2, DIRECTIONS, dim, dtype=torch.float64, generator=random)
    return dict(run(model, latents=points, directions=directions, **settings).values)


def recorded_noise(model: Model) -> list[Any]:
    """Return noise of its own for every batch, direction and image."""
    shapes = model.generator.noise_shapes()

    def maps(*key: int) -> list[Tensor]:
        samples = range(2 + key[0])  # the second batch takes the remainder
        return [m.double() for m in seeds.noise_maps(0, f"test{key}", samples, shapes)]

    return [[[maps(b, i, j) for j in range(2)] for i in range(DIRECTIONS)] for b in range(2)]


@every_model
@pytest.mark.parametrize("gradient", ["both", "base"])
def test_directions_at_once_give_the_same_scores(family: str, gradient: str) -> None:
    one_by_one = in_double(family, gradient=gradient)
    for size in (2, DIRECTIONS):  # with a remainder, and all of them
        at_once = in_double(family, gradient=gradient, direction_batch=size)
        for group, values in one_by_one.items():
            torch.testing.assert_close(at_once[group], values, rtol=1e-10, atol=0, msg=group)


@every_model
def test_directions_at_once_in_single_precision(family: str) -> None:
    model = MODELS[family]()
    one_by_one, at_once = run(model), run(model, direction_batch=DIRECTIONS)
    for group, values in one_by_one.values.items():
        torch.testing.assert_close(at_once[group], values, rtol=1e-4, atol=0, msg=group)
    assert at_once.settings == {**one_by_one.settings, "direction_batch": DIRECTIONS}


def test_directions_at_once_with_recorded_noise() -> None:
    noise = recorded_noise(make_model())
    one_by_one = in_double("stylegan2", noise=noise)
    at_once = in_double("stylegan2", noise=noise, direction_batch=3)
    other = in_double("stylegan2", noise=[noise[0], noise[1][::-1]])
    for group, values in one_by_one.items():
        torch.testing.assert_close(at_once[group], values, rtol=1e-10, atol=0, msg=group)
        assert not torch.allclose(other[group], values, rtol=1e-3)


class Calls(TorchDispatchMode):
    """Counts the operations that reach the backend, and what they multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.pixels: Counter[str] = Counter()
        self.dtypes: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket).removeprefix("aten.")
        tensors = [a for a in args if isinstance(a, Tensor)]
        self.counts[name] += 1
        self.pixels[name] += sum(t.numel() for t in tensors[:1])
        self.dtypes.setdefault(name, set()).update(t.dtype for t in tensors)
        return func(*args, **(kwargs or {}))


@contextmanager
def one_step(model: Model, **settings: Any) -> Iterator[tuple[Diversity, Calls]]:
    """Run one batch of one sample and count."""
    request = ScoreRequest(samples=1, batch=1, alpha=5.0, **{"gradient": "both", **settings})
    scorer = Diversity(copy.deepcopy(model), request)
    with Calls() as calls:
        scorer.step(0, range(1))
    yield scorer, calls


def test_directions_at_once_take_one_pass() -> None:
    found = {}
    for num in (3, 6, 12):
        with one_step(make_model(), num_directions=num, direction_batch=num) as (_, calls):
            found[num] = calls
    forward, backward = "convolution", "convolution_backward"
    for name in (forward, backward):
        assert found[3].counts[name] == found[12].counts[name] > 0
    # The work grows in proportion: not N passes over a batch of N.
    grown = found[12].pixels[backward] - found[6].pixels[backward]
    assert grown == 2 * (found[6].pixels[backward] - found[3].pixels[backward])


@every_model
def test_nothing_but_the_weights_read_is_differentiated(family: str) -> None:
    with one_step(MODELS[family](), num_directions=2) as (scorer, _):
        assert not any(p.requires_grad for p in scorer.space.parameters())
        read = {f"generator.{s.tensor}" for g in scorer.groups for s in g.scored_by}
        assert set(scorer.weights) == read
        assert len(read) < len(list(scorer.space.parameters()))


def test_base_gradient_keeps_no_graph_of_the_moved_image() -> None:
    found = {}
    for gradient in ("base", "both"):
        with one_step(make_model(), num_directions=4, gradient=gradient) as (_, calls):
            found[gradient] = calls.counts
    assert found["base"]["convolution"] == found["both"]["convolution"]
    assert 2 * found["base"]["convolution_backward"] == found["both"]["convolution_backward"]


@every_model
def test_bfloat16_is_close_and_stored(family: str) -> None:
    model = MODELS[family]()
    exact = run(model)
    for size in (1, DIRECTIONS):
        rounded = run(model, precision="bf16", direction_batch=size)
        assert rounded.settings["precision"] == "bf16"
        assert overlap(dict(rounded.values), dict(exact.values), 0.5) > 0.7
        for group, values in exact.values.items():
            assert not torch.equal(rounded[group], values)
            # Eight bits of mantissa, and a score is a difference of sensitivities, squared.
            deviation = (rounded[group] - values).norm() / values.norm()
            assert deviation < 0.5, group


def test_bfloat16_reaches_the_convolutions() -> None:
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with one_step(make_model(), num_directions=2, precision=precision) as (_, calls):
            assert calls.dtypes["convolution"] == calls.dtypes["convolution_backward"] == {dtype}


def scored_directly(model: Model, **settings: Any) -> dict[str, Tensor]:
    """Return scores of 3 batches, the last one larger, under settings that ``score`` has not."""
    chosen: dict[str, Any] = {
        "samples": 7, "batch": 2, "num_directions": DIRECTIONS, "alpha": 5.0, "gradient": "both",
    }  # fmt: skip
    request = ScoreRequest(**{**chosen, **settings})
    placed = copy.deepcopy(model).to(request.device)
    return scorer.run(Diversity(placed, request), request).values


@pytest.mark.parametrize(
    ("family", "size"), [*((family, DIRECTIONS) for family in MODELS), ("stylegan2", 1)]
)
def test_channels_last_gives_the_same_scores(family: str, size: int) -> None:
    model = MODELS[family]()
    laid_out = scored_directly(model, direction_batch=size, channels_last=True)
    for group, values in scored_directly(model, direction_batch=size).items():
        torch.testing.assert_close(laid_out[group], values, rtol=1e-4, atol=0, msg=group)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1, DIRECTIONS])
@pytest.mark.parametrize("noise_mode", ["const", "random"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_kernels_give_the_same_scores(precision: str, noise_mode: str, size: int) -> None:
    settings: dict[str, Any] = {
        "device": torch.device("cuda"), "direction_batch": size, "noise_mode": noise_mode,
        "precision": precision,
    }  # fmt: skip
    launched = scored_directly(make_model(), **settings)
    replayed = scored_directly(make_model(), cuda_graphs=True, **settings)
    for group, values in launched.items():
        # The same arithmetic, but cuDNN may choose another kernel, with sums in another order; in
        # bfloat16 that moves signs of pixels. Stale inputs would be off by all of the score.
        deviation = (replayed[group] - values).norm() / values.norm()
        assert deviation < (0.05 if precision == "bf16" else 1e-3), group


@pytest.mark.parametrize("family", ["stylegan2", "sngan"])
def test_replays_are_refused_where_they_cannot_be(family: str) -> None:
    with pytest.raises(UsageError, match="needs CUDA and a style-based generator, got cpu and"):
        scored_directly(MODELS[family](), cuda_graphs=True)


def test_arithmetic_is_restored() -> None:
    cudnn: Any = torch.backends.cudnn

    def switches() -> list[str]:
        return [torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision]

    def fail_inside(name: str) -> None:
        with arithmetic(name):
            found.extend(switches())
            raise ZeroDivisionError

    before = switches()
    for name, inside in (("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")):
        found: list[str] = []
        with pytest.raises(ZeroDivisionError):
            fail_inside(name)
        assert found == [inside, inside]
        assert switches() == before


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        ({"precision": "tf32"}, "--precision tf32 is for CUDA devices, the device is cpu"),
        ({"precision": "fp16"}, "fp16.*bf16"),
        ({"direction_batch": 0}, "--direction-batch 0 is below 1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], finding: str) -> None:
    with pytest.raises(UsageError, match=finding):
        run(make_model(), **settings)
    with pytest.raises(UsageError, match=rf"method l1-out takes no --|{finding}"):
        score(make_model(), "l1-out", **settings)
