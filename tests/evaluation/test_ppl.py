"""Path lengths: closed forms on linear generators, the percentile rule, what the noise does."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ganc import seeds
from ganc.checkpoints.store import load
from ganc.errors import InputError, UsageError
from ganc.evaluation.evaluate import evaluate
from ganc.evaluation.ppl import EPSILON, shrunk, steps, trimmed
from ganc.groups import ChannelGroup
from ganc.models.model import Model
from ganc.models.style import StyleGenerator
from ganc.perceptual.distance import PerceptualDistance
from tests.conftest import GOLDEN, make_model
from tests.families import make_resnet, make_sngan, make_stylegan3
from tests.weights.random_weights import random_lpips


class Identity(nn.Module):
    """ws that are z, truncated towards nothing."""

    def forward(self, z: Tensor, c: Tensor | None = None, *, truncation_psi: float = 1.0) -> Tensor:
        return truncation_psi * z[:, None]


class Linear(nn.Module):
    """Images that are linear in w, and in the noise of their one layer."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, ws: Tensor, *, noise_mode: str, noise: list[Tensor] | None) -> Tensor:
        images = (ws[:, 0] @ self.matrix.T).reshape(len(ws), 3, 4, 4)
        return images if noise is None else images + noise[0]


class LinearGenerator(StyleGenerator):
    architecture = "stylegan2"

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.z_dim = self.w_dim = matrix.shape[1]
        self.c_dim, self.num_ws, self.img_resolution, self.img_channels = 0, 1, 4, 3
        self.config: dict[str, Any] = {}
        self.mapping: Any = Identity()
        self.synthesis = Linear(matrix)

    def noise_shapes(self) -> list[tuple[int, ...]]:
        return [(1, 4, 4)]

    def modulated_layers(self) -> list[Any]:
        return []

    def feature_affines(self) -> list[Any]:
        return []

    def groups(self) -> tuple[ChannelGroup, ...]:
        return ()

    def mac_positions(self) -> dict[str, int]:
        return {}


class SquaredDifference(PerceptualDistance):
    """Mean squared difference, under LPIPS's name."""

    def __init__(self) -> None:
        super().__init__("squared", sha256="0" * 64, stages=nn.Identity(), channel_weights=[],
                         resolution=None, smallest_side=1)  # fmt: skip

    def forward(self, a: Tensor, b: Tensor, *, checked: bool = False) -> Tensor:
        return (a - b).square().flatten(1).mean(dim=1)


@pytest.fixture
def matrix(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Weights of a linear generator, whose images are compared by squares."""
    monkeypatch.setattr(
        "ganc.evaluation.task.load_perceptual", lambda *_, **__: SquaredDifference()
    )
    # Images of 4 px are too small for the trunk whose place the squares take.
    monkeypatch.setattr("ganc.evaluation.task.check_side", lambda *_, **__: None)
    return torch.randn(48, 5, generator=torch.Generator().manual_seed(3))


def path_lengths(matrix: Tensor, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the exact squared speeds of straight lines: |A (z1 - z0)|² / pixels."""
    z = seeds.normal(0, "latents", range(2 * count), (5,)).double()
    return ((z[1::2] - z[::2]) @ matrix.double().T).square().mean(dim=1).numpy()


def test_ppl_of_a_linear_generator(matrix: Tensor) -> None:
    exact = np.sort(path_lengths(matrix, 400))
    # Positions 3.99 and 395.01 of 0 … 399, outwards: 3 and 396.
    expected = exact[3:397].mean()
    result = evaluate(Model(generator=LinearGenerator(matrix)), ["ppl"], samples=400)
    # float32 images near 1 and steps near 3e-4: three digits each, averaged over 394 pairs.
    assert result["metrics"]["ppl"] == pytest.approx(expected, rel=5e-5)
    assert result["metrics"]["ppl-undivided"] == pytest.approx(expected * 1e-8, rel=1e-4)
    protocol = result["settings"]["protocols"]["ppl"]
    assert (protocol["pairs"], protocol["epsilon"], protocol["seed"]) == (400, 1e-4, 0)
    # Over all z the mean is 2 |A|² / pixels; 400 pairs come within a tenth, the trimming included.
    assert expected == pytest.approx(2 * float(matrix.square().sum()) / 48, rel=0.1)


def test_truncation_shortens_paths_by_its_square(matrix: Tensor) -> None:
    model = Model(generator=LinearGenerator(matrix))
    whole, half = (
        evaluate(model, ["ppl"], samples=8, truncation_psi=psi)["metrics"]["ppl"]
        for psi in (1.0, 0.5)
    )
    assert half == pytest.approx(whole / 4, rel=1e-3)


def test_fresh_noise_is_most_of_what_the_published_code_prints(matrix: Tensor) -> None:
    """Two unit normal maps differ by 2 on average, whatever the generator does."""
    model = Model(generator=LinearGenerator(matrix))
    values = evaluate(model, ["ppl-fresh-noise"], samples=200)["metrics"]
    assert values["ppl-fresh-noise"] == pytest.approx(2.0, rel=0.1)
    with pytest.raises(UsageError, match="--noise-mode const does not"):
        evaluate(model, ["ppl-fresh-noise"], noise_mode="const")


def test_trimmed_is_the_sources_rule() -> None:
    """numpy's percentiles with "lower" below and "higher" above, both ends kept."""
    values = np.random.default_rng(0).permutation(1000).astype(np.float64)
    kept = trimmed(values)
    assert (kept.min(), kept.max(), len(kept)) == (9, 990, 982)
    assert list(trimmed(np.array([3.0, 1.0, 2.0]))) == [3.0, 1.0, 2.0]


def test_steps_are_exact_in_float32() -> None:
    start, end = torch.randn(2, 64, 1, 16)
    near, far = steps(start, end, torch.linspace(0, 1, 64, dtype=torch.float64))
    assert near.dtype == far.dtype == torch.float32
    torch.testing.assert_close(near[0], start[0])
    torch.testing.assert_close(near[-1], end[-1])
    torch.testing.assert_close(far - near, EPSILON * (end - start), atol=5e-7, rtol=0)


def test_large_images_are_scaled_to_256() -> None:
    assert shrunk(torch.zeros(1, 3, 256, 256)).shape == (1, 3, 256, 256)
    image = torch.randn(1, 3, 512, 512)
    torch.testing.assert_close(shrunk(image), nn.functional.avg_pool2d(image, 2))


@pytest.mark.parametrize("make", [lambda: make_model(c_dim=4), make_stylegan3])
def test_pairs_depend_on_seed_and_number_alone(make: Callable[[], Model]) -> None:
    model = make()
    values = [
        evaluate(model, ["perceptual-ppl"], samples=5, batch=batch, seed=seed)["metrics"]
        for batch, seed in [(2, 0), (32, 0), (32, 1)]
    ]
    assert values[0]["perceptual-ppl"] > 0
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert values[2]["perceptual-ppl"] != pytest.approx(values[0]["perceptual-ppl"], rel=1e-2)


def test_the_distance_grows_with_the_square_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """So dividing by the step's square gives a number of the path and not of the step."""
    model = make_stylegan3()
    values = []
    for epsilon in (1e-4, 1e-3):
        monkeypatch.setattr("ganc.evaluation.ppl.EPSILON", epsilon)
        values.append(evaluate(model, ["perceptual-ppl"], samples=8)["metrics"])
    assert values[0]["perceptual-ppl"] == pytest.approx(values[1]["perceptual-ppl"], rel=0.05)


@pytest.mark.parametrize("make", [make_sngan, make_resnet])
def test_a_model_without_w_is_refused(make: Callable[[], Model]) -> None:
    with pytest.raises(InputError, match="ppl needs a model with a mapping network"):
        evaluate(make(), ["ppl"])


# --- NVIDIA's sampler, with every draw recorded --------------------------------------------------

RECORDED = GOLDEN / "ppl"


def recorded_network() -> nn.Module:
    """Return LPIPS on the recorded random weights, linear layers included."""
    tensors = load_file(GOLDEN / "lpips-squeeze" / "lpips.weights.safetensors")
    network = random_lpips("squeeze")
    # `lins` are `lin0` … under a second name.
    network.load_state_dict(
        {name: tensors[re.sub(r"^lins\.(\d)", r"lin\1", name)] for name in network.state_dict()}
    )
    return network


@torch.no_grad()
def test_recorded_path_lengths() -> None:
    """The same pairs, positions and noise give NVIDIA's distances, as far as float32 has them."""
    io = load_file(RECORDED / "io.safetensors")
    results = json.loads((RECORDED / "meta.json").read_text())["results"]
    generator = load(GOLDEN / "files" / "nvidia" / "nvidia-stylegan2-32.pkl").generator
    generator, network = generator.double(), recorded_network().double()
    ws = [generator.mapping(io[f"nv_w_full_z{end}"].double()) for end in (0, 1)]
    ends = steps(*ws, io["nv_w_full_t"].double())
    layers = [name for name, _, _ in generator.modulated_layers() if not name.endswith("torgb")]
    maps = [[io[f"nv_batch{b}_noise.{name}.noise_const"] for b in range(3)] for name in layers]
    noise = [torch.stack(m)[:, None].double().repeat_interleave(16, dim=0) for m in maps]
    near, far = (generator.synthesis(end, noise=noise) for end in ends)
    distances = (network(near, far).flatten() / EPSILON**2).numpy()
    np.testing.assert_allclose(distances, io["nv_w_full_dist"].double().numpy(), rtol=0.03)
    expected = results["nvidia_w_full"]["ppl"]
    assert trimmed(distances).mean() == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("count", [5, 100, 101, 250])
def test_recorded_percentiles(count: int) -> None:
    distances = load_file(RECORDED / "io.safetensors")[f"pct_dist_{count}"].numpy()
    results = json.loads((RECORDED / "meta.json").read_text())["results"]
    recorded = results[f"percentile_n{count}"]
    kept = trimmed(distances)
    assert len(kept) == recorded["n_kept"]
    assert float(kept.astype(np.float64).mean()) == pytest.approx(recorded["ppl"], rel=1e-6)
