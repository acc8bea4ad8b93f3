"""Rebuild: its definition by hand, and channels that others can replace."""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganc.checkpoints.native import build_model
from ganc.groups import ChannelGroup
from ganc.models.model import Model
from ganc.models.network import Translator
from ganc.models.sampling import latent_inputs
from ganc.scores import Scores, kept_channels
from ganc.scoring.rebuild import RIDGE, Rebuild, left_before_pick
from ganc.scoring.request import ScoreRequest
from ganc.scoring.score import score
from tests.conftest import make_model
from tests.evaluation.witnesses import write_images
from tests.families import FAMILIES, make_cyclegan, make_stylegan3

MODELS: dict[str, Callable[[], Model]] = {
    **FAMILIES,
    "stylegan2 resnet": lambda: make_model(architecture=("resnet", "resnet")),
    "stylegan2 orig": lambda: make_model(architecture=("orig", "resnet")),
    "stylegan2 with labels": lambda: make_model(c_dim=3),
    "stylegan3-r": lambda: make_stylegan3(is_rotation_equivariant=True),
    "cyclegan": make_cyclegan,
}


@cache
def photos() -> str:
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return str(write_images(images, Path(tempfile.mkdtemp()) / "photos"))


def run(model: Model, **settings: Any) -> Scores:
    given: dict[str, Any] = {"samples": 6, "batch": 3, "device": "cpu"}
    if isinstance(model.generator, Translator):
        given["data"] = photos()
        if model.generator_b is not None:
            given["data_b"] = photos()
    return score(model, "rebuild", **given | settings)


before = cache(lambda name: run(MODELS[name]()))


def missing(moments: Tensor, weights: Tensor, picked: list[int]) -> Tensor:
    """Return Σ tr(M S): what the picked channels leave, by the pseudo-inverse."""
    total = torch.zeros((), dtype=torch.float64)
    for moment, weight in zip(moments, weights, strict=True):
        some = moment[:, picked]
        rest = moment - some @ torch.linalg.pinv(moment[picked][:, picked]) @ some.T
        total += (weight * rest).sum()
    return total


def by_hand(moments: Tensor, weights: Tensor) -> Tensor:
    """Try every channel at every pick."""
    scores, picked = torch.zeros(moments.shape[1], dtype=torch.float64), list[int]()
    for _ in range(len(scores)):
        left = {
            c: float(missing(moments, weights, [*picked, c]))
            for c in range(len(scores)) if c not in picked
        }  # fmt: skip
        best = min(left, key=left.__getitem__)
        scores[best] = missing(moments, weights, picked) / missing(moments, weights, [])
        picked.append(best)
    return scores


def gram(rows: int, width: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(2, rows, width, dtype=torch.float64, generator=random)
    return x.mT @ x


@pytest.mark.parametrize("seed", range(4))
def test_picks_are_those_of_trying_every_channel(seed: int) -> None:
    moments, weights = gram(40, 9, seed), gram(6, 9, seed + 10)
    expected = by_hand(moments, weights)
    torch.testing.assert_close(left_before_pick(moments, weights), expected, rtol=1e-9, atol=0)
    assert expected.max() == 1


def test_silent_channels_come_last_and_alike() -> None:
    moments, weights = gram(40, 6, 0), gram(8, 6, 1)
    moments[:, [1, 4]] = 0
    moments[:, :, [1, 4]] = 0
    scores = left_before_pick(moments, weights)
    assert set(scores.argsort()[:2].tolist()) == {1, 4}
    assert scores[[1, 4]].max() < 1e-12
    assert not left_before_pick(torch.zeros(2, 6, 6).double(), weights).any()


@torch.no_grad()
def test_moments_are_of_modulated_features() -> None:
    """b8.conv0 is read by b8.conv1 alone, at 64 pixels: all of them are looked at."""
    model = make_model()
    generator = model.generator
    inputs = latent_inputs(generator, range(6), 0)
    ws, layer = generator.mapping(inputs.z), generator.synthesis.b8.conv1
    _, features = generator.synthesis.run(ws, noise=inputs.noise)
    read = generator.synthesis.b8.conv0(features[0], ws[:, 1], inputs.noise[1], "none")
    weight = layer.weight.double()
    styles = layer.affine(ws[:, 2]).double()
    kernels = weight * styles[:, None, :, None, None]
    kernels = kernels / kernels.square().sum(dim=(2, 3, 4), keepdim=True).sqrt()
    factor = (kernels * weight).sum(dim=(1, 3, 4)) / weight.square().sum(dim=(0, 2, 3))
    scaled = (read.double() * factor[:, :, None, None]).transpose(0, 1).flatten(1)
    moment = scaled @ scaled.T
    moment.diagonal().mul_(1 + RIDGE)
    importance = torch.zeros_like(moment)
    for row in weight:  # an output channel counts 1
        own = sum(tap[:, None] * tap for tap in row.flatten(1).T)
        importance += own / (own * moment).sum()
    expected = by_hand(moment[None], importance[None])
    torch.testing.assert_close(run(model)["b8.conv0"], expected, rtol=1e-4, atol=1e-8)


def doubled(model: Model, group: ChannelGroup, channel: int, place: int) -> Model:
    """Return the model that has one of a group's channels twice, in place of another one."""
    tensors = model.tensors()
    for part in group.slices:
        if part.role == "in":
            continue
        tensor = tensors[part.tensor].clone()
        old, new = (torch.tensor(part.indices([c])) for c in (place, channel))
        tensor.index_copy_(part.dim, old, tensor.index_select(part.dim, new))
        tensors[part.tensor] = tensor
    return build_model(model.architecture, model.config, tensors, [])


GROUPS = [
    (name, group.name) for name, make in MODELS.items() for group in make().groups
    if group.name.partition(".")[0] not in ("discriminator", "discriminator_b")
]  # fmt: skip


@pytest.mark.parametrize(("name", "group"), GROUPS)
def test_of_two_equal_channels_one_is_left_to_the_end(name: str, group: str) -> None:
    model, scores = MODELS[name](), before(name)[group]
    (chosen,) = (g for g in model.groups if g.name == group)
    first, last = int(scores.argmax()), int(scores.argmin())
    twins = run(doubled(model, chosen, first, last))[group][[first, last]]
    # What the ridge leaves, over what is left of an output whose parts nearly cancel.
    assert twins.min() < 2e-3
    assert twins.max() > 100 * twins.min()


def mixed(model: Model, tensor: str, affine: str) -> Model:
    """Return the model whose later half of a linear layer's channels are sums of the first half's.

    What reads them scales all of them alike, and the same in every image: sums stay sums.
    """
    tensors = {name: value.clone() for name, value in model.tensors().items()}
    made = tensors[f"generator.{tensor}"]
    half = (len(made) + 1) // 2
    mix = torch.randn(len(made) - half, half, generator=torch.Generator().manual_seed(0))
    made[half:] = torch.tensordot(mix, made[:half], dims=1)
    tensors[f"generator.{affine}.weight"].zero_()
    tensors[f"generator.{affine}.bias"].fill_(1)
    return build_model(model.architecture, model.config, tensors, [])


@pytest.mark.parametrize(
    ("make", "group", "tensor", "reader"),
    [
        (make_model, "b4.const", "synthesis.b4.const", "synthesis.b4.conv1"),
        (make_stylegan3, "input", "synthesis.input.weight", "synthesis.L0"),
    ],
)
def test_what_is_kept_of_a_mix_is_a_basis(
    make: Callable[[], Model], group: str, tensor: str, reader: str
) -> None:
    model = mixed(make(), tensor, f"{reader}.affine")
    scores, made = run(model)[group], model.generator.get_parameter(tensor).detach().flatten(1)
    half = (len(made) + 1) // 2
    kept = list(kept_channels(scores, 1 - half / len(made)))
    assert len(kept) == half
    assert torch.linalg.matrix_rank(made[kept]) == torch.linalg.matrix_rank(made) == half
    rest = [c for c in range(len(made)) if c not in kept]
    assert scores[rest].max() < 1e-4 < scores[kept].min()


@pytest.mark.parametrize("reader", ["b8.torgb", "b16.skip"])
def test_all_that_read_a_channel_count(reader: str) -> None:
    is_residual = reader.endswith("skip")
    model = make_model(architecture=("resnet" if is_residual else "skip", "resnet"))
    tensors = dict(model.tensors())
    name = f"generator.synthesis.{reader}.weight"
    random = torch.Generator().manual_seed(5)
    tensors[name] = torch.randn(tensors[name].shape, generator=random)
    other = build_model(model.architecture, model.config, tensors, [])
    assert not torch.equal(run(model)["b8.conv1"], run(other)["b8.conv1"])


def test_sums_do_not_grow_with_samples_or_pixels() -> None:
    sizes = []
    for samples in (4, 4000):
        state = Rebuild(make_model(), ScoreRequest(samples=samples, batch=4)).empty()
        assert all(tensor.dtype == torch.float64 for tensor in state.values())
        sizes.append(sum(tensor.numel() for tensor in state.values()))
    # b4.conv1 and b8.conv1 are read by toRGB as well.
    assert sizes == [8**2 + 2 * 7**2 + 6**2 + 2 * 5**2 + 4**2 + 3**2] * 2


def test_it_stops_where_two_halves_agree() -> None:
    scores = run(make_model(), samples="auto", batch=5, prune_ratio=0.5)
    taken = scores.settings["samples"]
    assert 80 <= taken <= 256
    again = run(make_model(), samples=taken, batch=5)
    for group, values in scores.values.items():
        torch.testing.assert_close(again[group], values, rtol=1e-9, atol=0)
