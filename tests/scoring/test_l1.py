"""L1 norms of the weights that make and consume a channel, of both networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc.checkpoints.store import save
from ganc.errors import InputError, UsageError
from ganc.models.model import Model
from ganc.models.sngan import Discriminator
from ganc.pruning.plan import prune
from ganc.scoring.methods import METHODS
from ganc.scoring.score import score
from tests.conftest import Outcome, make_model, randomise
from tests.families import FAMILIES, make_cyclegan, make_resnet, make_sngan, make_unet
from tests.scoring.test_properties import permuted

Ganc = Callable[..., Outcome]
WEIGHTS_ALONE = [name for name, row in METHODS.items() if "discriminator" in row.settings]


def make_sngan_pair() -> Model:
    widths = {"block1.conv1": 5, "block1.conv2": 6, "block2.conv1": 4, "block2.conv2": 7,
              "block3.conv1": 3, "block4.conv1": 5}  # fmt: skip
    torch.manual_seed(3)
    discriminator = Discriminator(32, 3, widths=widths).eval()
    randomise(discriminator, 3)
    return Model(make_sngan().generator, discriminator)


PAIRS: dict[str, Callable[[], Model]] = {
    "stylegan2": make_model,
    "no-mbstd": lambda: make_model(mbstd_num_channels=0, architecture=("resnet", "skip")),
    "sngan": make_sngan_pair,
    "pix2pix": make_unet,
    "cyclegan": make_cyclegan,
}


def norm(weight: Tensor, *dims: int) -> Tensor:
    return weight.detach().double().abs().sum(dim=dims)


def check(found: Tensor, *norms: Tensor) -> None:
    torch.testing.assert_close(found, torch.stack(norms).mean(dim=0), rtol=1e-12, atol=0)


def test_l1_in_of_a_chain_and_of_a_constant() -> None:
    model = make_model()
    scores, synthesis = score(model, "l1-in"), model.generator.synthesis
    check(scores["b4.const"], norm(synthesis.b4.const, 1, 2))
    check(scores["b8.conv0"], norm(synthesis.b8.conv0.weight, 1, 2, 3))


def test_l1_in_of_a_residual_sum_is_the_mean_over_its_writers() -> None:
    model = make_model(architecture=("resnet", "resnet"))
    block = model.generator.synthesis.b8
    check(
        score(model, "l1-in")["b8.conv1"],
        norm(block.conv1.weight, 1, 2, 3), norm(block.skip.weight, 1, 2, 3),
    )  # fmt: skip
    generator = make_resnet().generator
    trunk = score(Model(generator), "l1-in")["trunk"]
    check(
        trunk,
        norm(generator.down2.conv.weight, 1, 2, 3),
        norm(generator.block0.conv1.conv.weight, 1, 2, 3),
    )


def test_l1_in_of_a_map_and_of_a_transposed_convolution() -> None:
    sngan = make_sngan()
    stem = sngan.generator.stem.weight.unflatten(0, (5, 16))  # 16 rows make one channel's map
    check(score(sngan, "l1-in")["stem"], norm(stem, 1, 2))
    unet = make_unet()
    check(score(unet, "l1-in")["dec1"], norm(unet.generator.dec1.conv.weight, 0, 2, 3))


def test_l1_out_of_a_concatenation() -> None:
    unet = make_unet()
    width = unet.widths["enc0"]
    scores, last = score(unet, "l1-out"), unet.generator.dec0.conv.weight
    check(scores["dec1"], norm(last[width:], 1, 2, 3))
    check(scores["enc0"], norm(last[:width], 1, 2, 3),
          norm(unet.generator.enc1.conv.weight, 0, 2, 3))  # fmt: skip


def test_norms_of_the_discriminator() -> None:
    model = make_model()
    making = score(model, "l1-in", discriminator=True)
    consuming = score(model, "l1-out", discriminator=True)
    b4 = model.discriminator.b4
    # The fully connected layer behind the 4 px map has 16 columns per channel.
    columns = b4.fc.weight.unflatten(1, (7, 16))
    check(consuming["discriminator.b4.conv"], norm(columns, 0, 2))
    check(making["discriminator.b4.conv"], norm(b4.conv.weight, 1, 2, 3))
    assert "discriminator.b8.conv1" not in making.values  # in front of minibatch stddev


@pytest.mark.parametrize("method", WEIGHTS_ALONE)
@pytest.mark.parametrize("pair", PAIRS)
def test_discriminator_is_scored_where_asked_for(pair: str, method: str) -> None:
    model = PAIRS[pair]()
    alone, both = score(model, method), score(model, method, discriminator=True)
    prunable = [group.name for group in model.groups if group.prunable]
    assert list(both.values) == prunable
    assert list(alone.values) == [n for n in prunable if not n.startswith("discriminator")]
    assert all(torch.equal(alone[name], both[name]) for name in alone.values)
    assert all(len(both[name]) == model.widths[name] for name in prunable)
    assert (alone.settings["discriminator"], both.settings["discriminator"]) == (False, True)


@pytest.mark.parametrize("method", ["l1-in", "l1-out"])
@pytest.mark.parametrize("pair", PAIRS)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_permuting_the_discriminator_s_channels_permutes_its_norms(
    pair: str, method: str, data: st.DataObject
) -> None:
    model = PAIRS[pair]()
    old = score(model, method, discriminator=True)
    own = [name for name in old.values if name.startswith("discriminator")]  # _b. as well
    name = data.draw(st.sampled_from(own))
    order = data.draw(st.permutations(range(len(old[name]))))
    new = score(permuted(model, name, order), method, discriminator=True)
    for group, values in old.values.items():
        expected = values[torch.tensor(order)] if group == name else values
        torch.testing.assert_close(new[group], expected, rtol=1e-12, atol=0, msg=group)


def judged(model: Model) -> Tensor:
    channels = getattr(model.discriminator, "in_channels", 3)
    side = model.discriminator.img_resolution
    images = torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits: Tensor = model.discriminator(images)
    return logits


@pytest.mark.parametrize("pair", PAIRS)
@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 99),
    ratio=st.floats(0.4, 0.9),
    allocation=st.sampled_from(["uniform", "global"]),
)
def test_pruning_slices_the_discriminator(
    pair: str, seed: int, ratio: float, allocation: str
) -> None:
    model = PAIRS[pair]()
    scores = score(model, "random", seed=seed, discriminator=True)
    small = prune(model, scores, prune_ratio=ratio, allocation=allocation)
    for name, values in scores.values.items():
        if allocation == "uniform":
            assert small.widths[name] == len(values) - int(ratio * len(values))
        assert 1 <= small.widths[name] <= len(values)
    untouched = set(model.widths) - set(scores.values)
    assert all(small.widths[name] == model.widths[name] for name in untouched)
    if allocation == "uniform":
        assert small.discriminator.params() < model.discriminator.params()
    assert judged(small).shape == judged(model).shape
    assert torch.isfinite(judged(small)).all()


@pytest.mark.parametrize("pair", PAIRS)
@torch.no_grad()
def test_channels_that_nobody_reads_go_first(pair: str) -> None:
    # Weights of zero behind some channels: l1-out finds them, and the logits stay what they were.
    model = PAIRS[pair]()
    dead = {}
    for group in model.discriminator.groups():
        if not group.prunable or group.width < 4:
            continue
        dead[f"discriminator.{group.name}"] = {1, group.width - 1}
        for part in group.slices:
            if part.role == "in":
                index = torch.tensor(part.indices([1, group.width - 1]))
                model.discriminator.get_parameter(part.tensor).index_fill_(part.dim, index, 0.0)
    assert dead
    scores = score(model, "l1-out", discriminator=True)
    assert all({*map(int, (scores[name] == 0).nonzero())} == gone for name, gone in dead.items())
    least = min(scores[name].numel() for name in dead)
    small = prune(model, scores, prune_ratio=1.01 / least)
    removed = {name: model.widths[name] - small.widths[name] for name in dead}
    assert sum(removed.values()) > 0
    assert all(count <= 2 for count in removed.values())
    torch.testing.assert_close(judged(small), judged(model), atol=1e-4, rtol=1e-5)


def test_effective_weights_of_the_generator_plain_ones_of_the_discriminator() -> None:
    model = make_model()
    given_: dict[str, Any] = {"effective": True, "samples": 3, "discriminator": True}
    scores, plain = score(model, "l1-out", **given_), score(model, "l1-out", discriminator=True)
    generator_only = score(model, "l1-out", effective=True, samples=3)
    for name, values in scores.values.items():
        is_discriminator = name.startswith("discriminator.")
        assert torch.equal(values, plain[name]) == is_discriminator
        assert is_discriminator or torch.equal(values, generator_only[name])


def test_what_cannot_score_a_discriminator_says_so() -> None:
    with pytest.raises(InputError, match="holds no discriminator"):
        score(make_sngan(), "l1-in", discriminator=True)
    for method in ("diversity", "activation", "l1-in:0.5,diversity:0.5"):
        with pytest.raises(UsageError, match="--discriminator"):
            score(make_model(), method, discriminator=True)
    mix = score(make_model(), "l1-in:0.5,random:0.5", discriminator=True)
    assert "discriminator.b4.fc" in mix.values
    with pytest.raises(UsageError, match="modulated weights"):
        score(make_sngan(), "l1-out", effective=True, samples=2)


def test_discriminator_from_the_command_line(ganc: Ganc, tmp_path: Path) -> None:
    path, scores, small = (tmp_path / name for name in ("m.safetensors", "s", "small.safetensors"))
    save(make_sngan_pair(), path)
    outcome = ganc("score", path, "--method", "l1-in", "--discriminator", "-o", scores)
    assert outcome.code == 0, outcome.err
    outcome = ganc("prune", path, "--scores", scores, "--speedup", "2", "-o", small, "--json")
    assert outcome.code == 0, outcome.err
    assert '"discriminator.block1.conv1": 5' not in outcome.out
    failed = ganc("score", path, "--method", "asv", "--discriminator", "-o", tmp_path / "t")
    assert failed.code == 2
    assert "takes no --discriminator" in failed.err


def test_every_family_has_makers() -> None:
    for make in FAMILIES.values():
        scores = score(make(), "l1-in")
        assert all((values > 0).all() for values in scores.values.values())
