"""The game and its judge: who is shown, what it says of the centre, what a step's losses are."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganc.adversarial import d_loss, g_loss
from ganc.models.model import Model
from ganc.scoring.density.game import Draw, Game
from ganc.scoring.density.gates import GatedNetwork, judge_alone, use_image_statistics
from ganc.scoring.density.judge import Heard, Judge, pooled_features
from ganc.scoring.density.recipe import resolve_density
from tests.conftest import make_model
from tests.families import make_unet
from tests.scoring.density.cases import (
    make_resnet_pair,
    make_search,
    make_sngan_pair,
    pictures,
)

JUDGES = {"patches": make_resnet_pair, "sngan": make_sngan_pair, "stylegan2": make_model}
EACH = pytest.mark.parametrize("name", list(JUDGES))


def judge_of(name: str) -> tuple[Judge, Tensor]:
    """Return a judge whose projection is at its start, and images for it."""
    network = JUDGES[name]().discriminator
    judge_alone(network)
    images = pictures(4, 3, network.img_resolution)
    width = pooled_features(network, images, None).shape[1]
    return Judge(GatedNetwork(network), 6, width).requires_grad_(False), images


def centers(seed: int = 0) -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))


@EACH
def test_at_first_the_judge_is_the_discriminator(name: str) -> None:
    judge, images = judge_of(name)
    expected = judge.gated.network(images)
    assert torch.equal(judge(images, None, centers(), None), expected)
    silent = Judge(judge.gated, 0, 0)
    assert torch.equal(silent(images, None, centers(), None), expected)
    assert silent.projection is None


@EACH
def test_the_centre_joins_every_logit(name: str) -> None:
    judge, images = judge_of(name)
    torch.nn.init.normal_(judge.projection.weight, generator=torch.Generator().manual_seed(0))
    plain = judge.gated.network(images)
    first, other = (judge(images, None, centers(seed), None) for seed in (0, 1))
    assert first.shape == plain.shape
    # On average over patches: the projection times what the logit layer reads.
    with Heard(judge.gated.network) as heard:
        judge.gated.network(images)
    features = heard.features
    if features.ndim == 4:
        features = F.adaptive_avg_pool2d(features, plain.shape[2:]).mean(dim=(2, 3))
    added = (features * (centers() @ judge.projection.weight.T)).sum(dim=1)
    found = (first - plain).flatten(1).mean(dim=1)
    torch.testing.assert_close(found, added, rtol=1e-4, atol=1e-3)
    assert (first - other).abs().max() > 0.01


@EACH
def test_a_closed_channel_says_nothing_of_the_centre(name: str) -> None:
    # With gates the judge is the sliced discriminator, its projection sliced with it.
    judge, images = judge_of(name)
    count, width = sum(judge.gated.widths), judge.projection.weight.shape[0]
    closed = 1 - torch.eye(count)
    heads = torch.stack([judge.gated.head_gates(gates, width) for gates in closed])
    assert (heads == 0).sum(dim=1).max() == 1  # some gate closes one channel of the logits
    (gate, channel) = torch.nonzero(heads == 0)[-1].tolist()
    torch.nn.init.normal_(judge.projection.weight)
    before = judge(images, None, centers(), closed[gate])
    judge.projection.weight[channel] += 100
    assert torch.equal(judge(images, None, centers(), closed[gate]), before)
    assert (judge(images, None, centers(), None) - before).abs().max() > 1


@EACH
def test_pooled_features(name: str) -> None:
    judge, images = judge_of(name)
    network = judge.gated.network
    found = pooled_features(network, images, None)
    assert found.shape[0] == 4
    for i in range(4):  # an image's alone
        torch.testing.assert_close(
            pooled_features(network, images[i : i + 1], None)[0], found[i], rtol=1e-4, atol=1e-5
        )
    assert not network.get_submodule(str(network.logit_layer))._forward_pre_hooks


# What is shown.


def game_of(model: Model, batch: int = 4, **settings: object) -> Game:
    recipe = resolve_density({"images": 4, "centers": 2, **settings})
    return make_search(model, recipe, batch=batch).game


def test_inputs_come_from_the_neighbourhood_of_the_centre() -> None:
    game = game_of(make_resnet_pair(), images=5)
    members = [set(game.neighbourhoods.members(i).tolist()) for i in range(8)]
    seen: Counter[int] = Counter()
    for step in range(60):
        draw = game.draw(step)
        assert game.draw(step) == draw
        assert [len(column) for column in draw] == [10, 10, 10]
        assert len(set(draw.centers[:5])) == len(set(draw.centers[5:])) == 1
        for center, fake, real in zip(*draw, strict=True):
            assert {fake, real} <= members[center]
        seen.update(draw.centers[::5])
    assert set(seen) == set(range(8))
    assert any(game.draw(i).fakes != game.draw(i).reals for i in range(5))
    assert game.draw(0) != game.draw(1)
    # With replacement, and the centre among them.
    center_drawn = sum(c == f for i in range(60) for c, f, _ in zip(*game.draw(i), strict=True))
    assert center_drawn == pytest.approx(150, abs=4 * (600 * 3 / 16) ** 0.5)


def test_shared_draws() -> None:
    draw = game_of(make_resnet_pair(), share_draw=True).draw(3)
    assert draw.fakes == draw.reals


# What a step costs.


def open_gates(game: Game) -> tuple[Tensor, Tensor]:
    return (
        torch.ones(sum(game.generator.widths)), torch.ones(sum(game.judge.gated.widths))
    )  # fmt: skip


@pytest.mark.parametrize("make", [make_resnet_pair, make_unet])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_losses_are_those_of_the_plain_networks(make: Callable[[], Model], batch: int) -> None:
    model = make()
    for _, network in model.networks():
        use_image_statistics(network)
    game = game_of(model, batch, anchor_weight=3.0, adversarial_weight=0.5)
    torch.nn.init.normal_(game.judge.projection.weight, generator=torch.Generator().manual_seed(0))
    draw, (own, other) = game.draw(0), open_gates(game)
    own[::2] = 0.5  # made images differ from the teacher's
    x, described = game.inputs.x, game.neighbourhoods.features[draw.centers]

    def judged(inputs: list[int], images: Tensor) -> Tensor:
        is_shown = model.discriminator.in_channels > images.shape[1]
        both = torch.cat([x[inputs], images], 1) if is_shown else images
        return game.judge(both, None, described, None)

    with torch.no_grad():
        real, whole = model.generator(x[draw.reals]), model.generator(x[draw.fakes])
        made = game.generator.run(lambda: model.generator(x[draw.fakes]), own)
        shown, fooled = judged(draw.reals, real), judged(draw.fakes, made)
    expected = {
        "d_loss": d_loss("lsgan", shown, fooled), "d_real": shown.mean(), "d_fake": fooled.mean(),
        "g_loss": 0.5 * g_loss("lsgan", fooled), "anchor": 3 * (made - whole).abs().mean(),
    }  # fmt: skip
    found = game.judge_step(draw, own, other.requires_grad_())
    found |= game.generator_step(draw, own.requires_grad_(), other.detach())
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("batch", [1, 3])
def test_gradients_add_up_over_parts(batch: int) -> None:
    gradients = []
    for size in (8, batch):
        game = game_of(make_resnet_pair(), size)
        own, other = open_gates(game)
        own[1::2], other[::3] = 0.5, 0.5
        game.generator_step(game.draw(1), own.requires_grad_(), other)
        game.judge_step(game.draw(1), own.detach(), other.requires_grad_())
        projection = game.judge.projection.weight.grad
        gradients.append([own.grad, other.grad, projection])
    for whole, parts in zip(*gradients, strict=True):
        assert whole.any()
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_without_an_anchor_there_is_none() -> None:
    game = game_of(make_resnet_pair(), anchor_weight=0.0)
    own, other = open_gates(game)
    assert set(game.generator_step(game.draw(0), own.requires_grad_(), other)) == {"g_loss"}


def test_parts_of_a_draw() -> None:
    draw = Draw([1, 1, 2, 2], [5, 6, 7, 8], [3, 4, 5, 6])
    assert draw.part(range(1, 4, 2)) == Draw([1, 2], [6, 8], [4, 6])
