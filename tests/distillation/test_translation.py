"""Training of translators: the published losses, who is trained when, what a run starts from."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganc.distillation import kinds
from ganc.distillation.draws import Draws
from ganc.distillation.execution import Execution
from ganc.distillation.networks import new_student, starting_model
from ganc.distillation.pair_batches import SideBatch
from ganc.distillation.recipes import resolve_recipe
from ganc.distillation.trainers.dropout import DropoutDraws, KeyedDropout, key_dropout
from ganc.distillation.trainers.features import FeatureDistance, watch
from ganc.distillation.trainers.one_way import OneWayTrainer
from ganc.distillation.trainers.pool import ImagePool
from ganc.distillation.trainers.translation import TranslationTrainer
from ganc.errors import InputError, UsageError
from ganc.models import patchgan, resnet_translator
from ganc.models.model import Model
from ganc.progress import ignore
from tests.distillation.parts import make_parts
from tests.families import make_cyclegan, make_patchgan, make_resnet, make_unet

CPU = torch.device("cpu")


def make_trainer(
    student: Model,
    teacher: Model | None = None,
    *,
    unpaired: bool | None = None,
    execution: Execution | None = None,
    **numbers: Any,
) -> Any:
    recipe = resolve_recipe("i2i", {"batch": 2, **numbers})
    parts = make_parts(student, teacher, recipe, execution, unpaired=unpaired)
    return kinds.ROWS[recipe.kind].trainer(parts)


def sides(channels_a: int = 3, channels_b: int = 3, size: int = 16) -> SideBatch:
    random = torch.Generator().manual_seed(0)
    shapes = ((2, channels_a, size, size), (2, channels_b, size, size))
    return SideBatch(*(torch.rand(shape, generator=random) * 2 - 1 for shape in shapes))


def changed(trainer: TranslationTrainer, phase: Callable[[], object]) -> set[str]:
    """Return the networks whose weights a phase moves."""
    networks = trainer.student.networks

    def weights() -> dict[str, Tensor]:
        return {n: nn.utils.parameters_to_vector(g.parameters()).clone() for n, g in networks()}

    before = weights()
    phase()
    return {name for name, after in weights().items() if not torch.equal(after, before[name])}


# --- pix2pix


def test_pix2pix_has_the_published_losses() -> None:
    trainer, batch = make_trainer(make_unet()), sides(1)
    assert isinstance(trainer, OneWayTrainer)
    judge = copy.deepcopy(trainer.way.discriminator)
    fake = copy.deepcopy(trainer.way.generator)(batch.a).detach()
    found = trainer.step(0, batch)
    # The discriminator's loss is the mean of its halves, in the binary cross entropy of the paper.
    real_logits = judge(torch.cat([batch.a, batch.b], dim=1))
    fake_logits = judge(torch.cat([batch.a, fake], dim=1))
    cross_entropy = F.binary_cross_entropy_with_logits
    halves = cross_entropy(real_logits, torch.ones_like(real_logits)) + cross_entropy(
        fake_logits, torch.zeros_like(fake_logits)
    )
    torch.testing.assert_close(found["d_loss"], halves.detach() / 2)
    torch.testing.assert_close(found["paired_l1"], F.l1_loss(fake, batch.b))
    torch.testing.assert_close(found["g_loss"], found["g_adversarial"] + 100 * found["paired_l1"])


def test_the_generator_meets_the_discriminator_that_just_learned() -> None:
    trainer, batch = make_trainer(make_unet()), sides(1)
    fake = copy.deepcopy(trainer.way.generator)(batch.a).detach()
    found = trainer.step(0, batch)
    logits = trainer.way.discriminator(torch.cat([batch.a, fake], dim=1))
    expected = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    torch.testing.assert_close(found["g_adversarial"], expected.detach())


def test_each_phase_of_pix2pix_trains_its_network_alone() -> None:
    trainer, batch = make_trainer(make_unet()), sides(1)
    made = trainer.translate(trainer.way, batch.a)
    fake = made.images.detach()
    assert changed(trainer, lambda: trainer.d_main(batch, fake)) == {"discriminator"}
    assert changed(trainer, lambda: trainer.g_main(batch, made)) == {"generator"}


def test_unpaired_the_teachers_image_is_the_goal() -> None:
    there = make_cyclegan()
    teacher = Model(there.generator, there.discriminator)
    trainer, batch = make_trainer(teacher, teacher), sides()
    assert not trainer.is_paired
    found = trainer.step(0, batch)
    assert found["paired_l1"].item() == 0  # a copy of the teacher
    judge, fake = teacher.discriminator.train(), teacher.generator(batch.a).detach()
    logits = torch.stack([judge(batch.b), judge(fake)]).detach()  # least squares, halved
    expected = ((logits[0] - 1).square().mean() + logits[1].square().mean()) / 2
    torch.testing.assert_close(found["d_loss"], expected)


def test_one_direction_needs_pairs_or_a_teacher() -> None:
    alone = Model(make_resnet().generator, make_patchgan().discriminator)
    with pytest.raises(UsageError, match="from a teacher only"):
        make_trainer(alone)
    with pytest.raises(UsageError, match="gives the student no loss"):
        make_trainer(make_unet(), adversarial_weight=0.0, paired_l1_weight=0.0)


# --- CycleGAN


class Identity(nn.Module):
    """A translator that hands images through."""

    in_channels = img_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


def test_identities_lose_nothing_on_their_way_round() -> None:
    trainer = make_trainer(make_cyclegan())
    trainer.ways = [
        type(way)(way.suffix, Identity(), way.discriminator, None, None) for way in trainer.ways
    ]
    found, fakes = trainer.g_main(sides())
    assert [found[n].item() for n in ("cycle", "cycle_b", "identity", "identity_b")] == [0] * 4
    assert torch.equal(fakes[0], sides().a)


def test_cyclegan_has_the_published_losses() -> None:
    trainer, batch = make_trainer(make_cyclegan()), sides()
    there, back = (copy.deepcopy(way.generator) for way in trainer.ways)
    judge, judge_b = (copy.deepcopy(way.discriminator) for way in trainer.ways)
    found, fakes = trainer.g_main(batch)
    fake_b, fake_a = there(batch.a), back(batch.b)
    close = torch.testing.assert_close
    close(fakes, [fake_b.detach(), fake_a.detach()])
    close(found["g_adversarial"], (judge(fake_b) - 1).square().mean().detach())
    close(found["g_adversarial_b"], (judge_b(fake_a) - 1).square().mean().detach())
    close(found["cycle"], F.l1_loss(back(fake_b), batch.a).detach())
    close(found["cycle_b"], F.l1_loss(there(fake_a), batch.b).detach())
    close(found["identity"], F.l1_loss(there(batch.b), batch.b).detach())
    names = ("g_adversarial", "cycle", "identity")
    sums = [found[n] + found[f"{n}_b"] for n in names]
    close(found["g_loss"], sums[0] + 10 * sums[1] + 5 * sums[2])
    found = trainer.d_main(0, batch, fakes)
    halves = [(judge(batch.b) - 1).square().mean(), judge(fakes[0]).square().mean()]
    close(found["d_adversarial"], torch.stack(halves).mean().detach())
    close(found["d_loss"], found["d_adversarial"] + found["d_adversarial_b"])


def test_each_phase_of_cyclegan_trains_its_networks_alone() -> None:
    trainer, batch = make_trainer(make_cyclegan()), sides()
    fakes = [batch.b, batch.a]
    assert changed(trainer, lambda: trainer.g_main(batch)) == {"generator", "generator_b"}
    judges = {"discriminator", "discriminator_b"}
    assert changed(trainer, lambda: trainer.d_main(0, batch, fakes)) == judges


def test_sides_of_other_channels_have_no_identity_loss() -> None:
    there, back = (
        make_resnet(seed, in_channels=a, img_channels=b).generator
        for seed, (a, b) in enumerate([(1, 3), (3, 1)])
    )
    found, _ = make_trainer(Model(there, generator_b=back)).g_main(sides(1, 3))
    assert "cycle_b" in found
    assert not any(name.startswith("identity") for name in found)


def test_both_directions_are_averaged() -> None:
    trainer = make_trainer(make_cyclegan())
    before = {n: g.state_dict() for n, g in copy.deepcopy(trainer.ema).networks()}
    trainer.step(0, sides())
    for name, network in trainer.ema.networks():
        assert not network.training
        key = "stem.conv.weight"
        assert not torch.equal(network.state_dict()[key], before[name][key])


# --- the teacher's terms


def test_a_copy_of_the_teacher_has_nothing_to_learn_from_it() -> None:
    teacher = make_cyclegan()
    trainer = make_trainer(teacher, teacher, l1_weight=1.0, feature_weight=1.0)
    found, _ = trainer.g_main(sides())
    names = ("pixel_l1", "pixel_l1_b", "features", "features_b")
    assert [found[name].item() for name in names] == [0] * 4


def narrow(widths: dict[str, int]) -> dict[str, int]:
    return {name: max(1, width - 2) for name, width in widths.items()}


@pytest.mark.parametrize("make", [make_resnet, make_unet])
def test_features_of_other_widths_are_compared_through_trained_layers(
    make: Callable[[], Model],
) -> None:
    teacher = make()
    config = teacher.generator.config
    student = type(teacher.generator)(**config | {"widths": narrow(config["widths"])})
    trainer = make_trainer(
        Model(student), Model(teacher.generator), feature_weight=1.0, paired_l1_weight=0.0,
        adversarial_weight=0.0,
    )  # fmt: skip
    distance = trainer.way.distance
    start = copy.deepcopy(distance.state_dict())
    batch = sides(config["in_channels"])
    series = [trainer.step(step, batch)["features"].item() for step in range(60)]
    assert series[-1] < series[0]
    other = make_trainer(Model(student), Model(teacher.generator), feature_weight=1.0)
    other.restore(trainer.state())
    assert not torch.equal(other.way.distance.adapters[0].weight, start["adapters.0.weight"])
    assert all(torch.equal(a, b) for a, b in zip(
        other.way.distance.parameters(), distance.parameters(), strict=True
    ))  # fmt: skip
    assert not any(m._forward_hooks for m in trainer.way.generator.modules())


def test_the_published_layers_of_nine_blocks_are_compared() -> None:
    network = resnet_translator.Generator(3, 3, base_width=2)
    layers = FeatureDistance(network, network).layers
    assert layers == ["down2", "block2", "block5", "block8"]


def test_watching_ends_with_an_error() -> None:
    layer = nn.Sequential(nn.Linear(1, 1))

    def fail() -> None:
        with watch(layer, ["0"]) as found:
            layer(torch.zeros(1, 1))
            assert len(found) == 1
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert not layer[0]._forward_hooks


# --- the pool


def numbered(first: int, count: int = 2) -> Tensor:
    return torch.arange(first, first + count).float()[:, None, None, None]


def test_the_pool_fills_then_swaps_half() -> None:
    pool = ImagePool(6, Draws(0, 2, CPU), "pool")
    for step in range(3):  # until it is full everything passes
        assert torch.equal(pool.exchange(step, numbered(2 * step)), numbered(2 * step))
    shown = torch.cat([pool.exchange(step, numbered(2 * step)) for step in range(3, 300)]).flatten()
    given = torch.arange(6, 600)
    swapped = shown != given
    assert 0.4 < swapped.float().mean() < 0.6
    assert (shown[swapped] < given[swapped]).all()
    assert len(pool.images) == 6
    # Whatever came is kept, was handed on, or was swapped out later: nothing is lost or doubled.
    everything = shown.tolist() + [image.item() for image in pool.images]
    assert sorted(everything) == sorted([*range(6, 600), *range(6)])


def test_the_pool_is_kept() -> None:
    pool, other = (ImagePool(2, Draws(0, 2, CPU), "pool") for _ in range(2))
    assert pool.state() == {}
    other.restore({})
    for step in range(5):
        pool.exchange(step, numbered(2 * step))
    other.restore(pool.state())
    for step in range(5, 20):
        again = other.exchange(step, numbered(2 * step))
        assert torch.equal(pool.exchange(step, numbered(2 * step)), again)


def test_no_pool_hands_images_through() -> None:
    pool = ImagePool(0, Draws(0, 2, CPU), "pool")
    assert torch.equal(pool.exchange(9, numbered(3)), numbered(3))
    assert pool.state() == {}


# --- dropout


def test_dropout_is_keyed_by_step_and_sample() -> None:
    x = torch.ones(4, 3, 40, 40)

    def dropped(step: int, rank: int = 0, world: int = 1) -> Tensor:
        source = DropoutDraws(Draws(0, 4, CPU, rank, world))
        source.start(step)
        return torch.stack([KeyedDropout(0.5, source)(x[rank::world]) for _ in range(2)])

    assert torch.equal(dropped(3), dropped(3))
    assert not torch.equal(dropped(3), dropped(4))
    assert not torch.equal(*dropped(3).unbind())
    assert torch.equal(dropped(3, 1, 2), dropped(3)[:, 1::2])
    assert set(dropped(3).unique().tolist()) == {0, 2}
    assert dropped(3).mean().item() == pytest.approx(1, abs=0.03)


def test_every_dropout_of_a_network_is_keyed() -> None:
    network = resnet_translator.Generator(3, 3, num_blocks=2, base_width=2, use_dropout=True)
    before = list(network.state_dict())
    key_dropout(network, DropoutDraws(Draws(0, 1, CPU)))
    assert sum(isinstance(m, KeyedDropout) for m in network.modules()) == 2
    assert not any(isinstance(m, nn.Dropout) for m in network.modules())
    assert list(network.state_dict()) == before
    x = torch.zeros(1, 3, 8, 8)
    network.eval()
    assert torch.equal(network(x), network(x))


# --- what a run starts from


def test_a_new_discriminator_sees_what_the_task_shows() -> None:
    unet, resnet = Model(make_unet().generator), make_resnet()

    def judge(student: Model, **other: Any) -> patchgan.Discriminator:
        made = starting_model(student, None, 0, "pruned", ignore, **other).discriminator
        assert isinstance(made, patchgan.Discriminator)
        return made

    assert judge(unet).in_channels == 4
    assert judge(unet, unpaired=True).in_channels == 3
    assert judge(resnet).in_channels == 3
    assert judge(resnet, unpaired=False).in_channels == 6
    assert judge(resnet).config["norm"] == "instance"
    assert judge(resnet).config["widths"]["conv0"] == 5  # as wide as the stem
    assert judge(resnet).num_layers == 2  # three layers leave nothing of 16 px to judge


def test_new_students_have_the_directions_of_their_task() -> None:
    small = {"img_resolution": 16, "base_width": 2, "in_channels": 1}
    unet = {**small, "num_downs": 3}
    resnet = new_student("resnet_translator", small, None, 0)
    assert (resnet.generator_b.in_channels, resnet.generator_b.img_channels) == (3, 1)
    assert new_student("unet_translator", unet, None, 0).generator_b is None
    assert new_student("unet_translator", unet, None, 0, unpaired=True).generator_b is not None
    assert new_student("resnet_translator", small, None, 0, unpaired=False).generator_b is None
    assert new_student("resnet_translator", {}, make_resnet(), 0).generator_b is None
    assert new_student("resnet_translator", {}, make_cyclegan(), 0).generator_b is not None


@pytest.mark.parametrize(
    ("student", "unpaired", "error", "message"),
    [
        (make_unet(), True, UsageError, "--unpaired does not go .* a discriminator of pairs"),
        (make_cyclegan(), False, UsageError, "--no-unpaired does not .* both directions"),
        (
            Model(make_resnet().generator, make_patchgan(in_channels=5).discriminator),
            None, InputError, r"takes 5 channels, 3 \(image\) or 6 \(input and image\)",
        ),
        (
            Model(
                make_resnet(0).generator, make_patchgan(in_channels=6).discriminator,
                make_resnet(1).generator,
            ),
            None, InputError, "CycleGAN's judge the image alone",
        ),
    ],
)  # fmt: skip
def test_networks_that_do_not_fit_the_task_are_refused(
    student: Model, unpaired: bool | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        starting_model(student, None, 0, "pruned", ignore, unpaired=unpaired)
