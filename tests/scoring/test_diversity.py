"""Diversity scores: the recorded numbers of the published code, and the definition."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ganc import seeds
from ganc.checkpoints.store import load
from ganc.errors import ShapeError, UsageError
from ganc.models.model import Model
from ganc.scores import Scores
from ganc.scoring.score import score
from ganc.scoring.scorer import batch_ranges
from ganc.scoring.space import principal_components
from tests.conftest import GOLDEN

Golden = Mapping[str, Tensor]

VARIANTS = [
    "official", "detached", "official_sharednoise", "detached_sharednoise",
    "official_trunc07", "detached_trunc07",
]  # fmt: skip


def recorded_noise(io: Golden, shared: bool) -> Sequence[Any]:
    branches = ("img", "img") if shared else ("img", "pca")
    return [
        [
            [[io[f"b{b}_d{d}_noise_{branch}_{layer}"] for layer in range(7)] for branch in branches]
            for d in range(4)
        ]
        for b in range(2)
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_recorded_scores(variant: str, golden: Callable[[str], Golden]) -> None:
    io = golden("diversity-scores")
    model = load(GOLDEN / "files" / "rosinality" / "networks.pt")
    model.generator.w_avg = io["mean_w"]
    scores = score(
        model,
        "diversity",
        samples=9,
        batch=4,
        latents=torch.cat([io["b0_w"], io["b1_w"]]),
        directions=torch.stack([io["b0_directions"], io["b1_directions"]]),
        noise=recorded_noise(io, "sharednoise" in variant),
        gradient="base" if "detached" in variant else "both",
        truncation_psi=0.7 if "trunc" in variant else 1.0,
    )
    for layer, (name, values) in enumerate(scores.values.items()):
        expected = io[f"score.{variant}.{layer}"].double()
        # The gradient of |x| jumps at 0: one pixel's sign moves a score by up to 6e-4.
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=0, msg=name)
        kept = len(expected) - int(0.7 * len(expected))
        top = values.topk(kept).indices.sort().values
        assert torch.equal(top, expected.topk(kept).indices.sort().values), name
    if variant == "official":
        assert all(
            torch.equal(v.topk(len(io[f"prune.official.kept_{i}"])).indices.sort().values,
                        io[f"prune.official.kept_{i}"].long())
            for i, v in enumerate(scores.values.values())
        )  # fmt: skip


def run(model: Model, **settings: Any) -> Scores:
    return score(model, "diversity", **{"samples": 6, "batch": 3, "num_directions": 3, **settings})


def test_definition_by_finite_differences(model: Model) -> None:
    # One batch, two directions: s_i is the mean |∂L_i/∂W| and the score (s_1 - s_2)² / 2.
    generator = model.generator.double()
    for buffer in (generator.mapping.w_avg,):
        buffer.data = buffer.data.double()
    w = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions = torch.eye(8, dtype=torch.float64)[None, :2]
    scores = score(
        model, "diversity", batch=2, latents=w, directions=directions, noise_mode="const"
    )
    weight = generator.synthesis.b16.torgb.weight  # [3, 3, 1, 1], consumes b16.conv1

    @torch.no_grad()
    def loss(direction: int) -> float:
        def image(latent: Tensor) -> Tensor:
            return generator.synthesis(latent[:, None].expand(-1, 6, -1))

        moved = w + 5.0 * directions[0, direction]
        return (image(moved) - image(w)).abs().sum().item()

    sensitivity = torch.zeros(2, 3, dtype=torch.float64)
    for direction in range(2):
        for out in range(3):
            for channel in range(3):
                with torch.no_grad():
                    weight[out, channel] += 1e-6
                    up = loss(direction)
                    weight[out, channel] -= 2e-6
                    down = loss(direction)
                    weight[out, channel] += 1e-6
                sensitivity[direction, channel] += abs(up - down) / 2e-6 / 3
    expected = (sensitivity[0] - sensitivity[1]).square() / 2
    torch.testing.assert_close(scores.values["b16.conv1"], expected, rtol=1e-4, atol=0)


def test_seed_fixes_everything(model: Model) -> None:
    first, second, other = run(model), run(model), run(model, seed=1)
    assert all(torch.equal(first.values[n], second.values[n]) for n in first.values)
    assert not all(torch.equal(first.values[n], other.values[n]) for n in first.values)


def test_batches_add_up(model: Model) -> None:
    # Sample 3 … 5 alone, with their own directions and noise, add what the second batch added.
    whole = run(model)
    first = run(model, samples=3)
    assert all((whole.values[n] >= first.values[n] - 1e-12).all() for n in whole.values)
    assert not all(torch.equal(whole.values[n], first.values[n]) for n in whole.values)


def test_model_is_untouched(model: Model) -> None:
    before = model.content_hash()
    run(model)
    assert model.content_hash() == before
    assert all(p.grad is None for p in model.generator.parameters())


def test_channel_that_nothing_reads_scores_zero(model: Model) -> None:
    with torch.no_grad():
        # Features of b16.conv1's channel 2 vanish, so its consumer's weight has no gradient.
        model.generator.synthesis.b16.conv1.weight[2] = 0
        model.generator.synthesis.b16.conv1.bias[2] = 0
        model.generator.synthesis.b16.conv1.noise_strength.zero_()
    assert run(model).values["b16.conv1"][2] == 0


def test_last_batch_takes_the_remainder() -> None:
    assert batch_ranges(9, 4) == [range(4), range(4, 9)]
    assert batch_ranges(4, 4) == [range(4)]
    for bad in (0, 5):
        with pytest.raises(UsageError, match="--batch"):
            batch_ranges(4, bad)


def test_principal_directions_are_the_covariance_eigenvectors() -> None:
    spread = torch.tensor([3.0, 1.0, 0.1, 2.0])
    w = seeds.normal(0, "test", range(20_000), (4,)) * spread
    components, share = principal_components(w)
    assert components.abs().argmax(dim=1).tolist() == [0, 3, 1, 2]
    assert (components.gather(1, components.abs().argmax(dim=1, keepdim=True)) > 0).all()
    expected = torch.tensor([9, 4, 1, 0.01], dtype=torch.float64) / 14.01
    torch.testing.assert_close(share, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(components @ components.T, torch.eye(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "error", "finding"),
    [
        ({"latents": torch.zeros(6, 3)}, ShapeError, "w vectors"),
        ({"directions": torch.zeros(3, 2, 8)}, ShapeError, r"\[2, N, 8\]"),
        ({"gradient": "bth"}, UsageError, "--gradient"),
        ({"batch": 9}, UsageError, "--batch 9"),
        ({"samples": 0}, UsageError, "at least 1"),
        ({"effective": True}, UsageError, "takes no --effective"),
    ],
)
def test_bad_settings_are_named(
    model: Model, settings: dict[str, Any], error: type[Exception], finding: str
) -> None:
    with pytest.raises(error, match=finding):
        run(model, **settings)
