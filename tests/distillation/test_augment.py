"""Augmentation: each operation against another library's, how often it happens, how p moves."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
import torchvision.transforms.functional as tv
from scipy.spatial.transform import Rotation
from torch import Tensor

from ganc.distillation.distill import DistillResult
from ganc.distillation.draws import Draws
from ganc.distillation.recipes import Recipe, resolve_recipe
from ganc.distillation.trainers.augment import Augmentation, Colour, Geometry
from ganc.distillation.trainers.losses import r1_penalty
from ganc.models.model import Model
from ganc.ops.affine_warp import affine_warp
from tests.conftest import make_model
from tests.distillation import test_sngan
from tests.distillation.test_loop import metrics, tensors
from tests.distillation.test_processes import assert_same, series, together, write_models
from tests.distillation.test_trainer import make_trainer, real_images

CPU = torch.device("cpu")
Train = Callable[..., DistillResult]


def rand(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def make_augmentation(batch: int = 4, **numbers: Any) -> Augmentation:
    recipe = resolve_recipe("gan", {"augment": "ada", "batch": batch} | numbers)
    return Augmentation(recipe, Draws(0, batch, CPU))


def geometry(count: int, **fields: float) -> Geometry:
    """Return movements that are neutral but for the given ones."""
    values = (fields.get(name, 0.0) for name in Geometry._fields)
    return Geometry(*(torch.full((count,), value, dtype=torch.float64) for value in values))


def colour(count: int, **fields: float) -> Colour:
    values = (fields.get(name, 0.0) for name in Colour._fields)
    return Colour(*(torch.full((count,), value, dtype=torch.float64) for value in values))


def moved(images: Tensor, **fields: float) -> Tensor:
    return affine_warp(images, geometry(len(images), **fields).maps().to(images.dtype))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_without_probability_nothing_changes(channels: int) -> None:
    images = rand(4, channels, 16, 16, dtype=torch.float32)
    augmentation = make_augmentation()
    assert torch.equal(augmentation(images, "d.real", 5), images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augmentation(images, "d.real", 5), images)


def test_flips_and_quarter_turns_are_exact() -> None:
    images = rand(2, 3, 9, 9, dtype=torch.float32)
    assert torch.equal(moved(images, flip=1), images.flip(3))
    for turns in range(4):
        assert torch.equal(moved(images, quarter_turns=turns), images.rot90(turns, (2, 3)))


def test_shifts_are_exact() -> None:
    images = rand(2, 3, 8, 8, dtype=torch.float32)
    expected = torch.nn.functional.pad(images, (3, 0, 0, 2), mode="reflect")[:, :, 2:, :8]
    assert torch.equal(moved(images, shift_x=3, shift_y=-2), expected)


@pytest.mark.parametrize(
    ("fields", "angle", "scale"),
    [
        ({"first_turn": math.radians(25)}, -25, 1),  # torchvision's affine turns clockwise
        ({"last_turn": math.radians(-70)}, 70, 1),
        ({"log2_scale": 0.7}, 0, 2**0.7),
        ({"log2_scale": 1, "last_turn": 0.5}, -math.degrees(0.5), 2),
    ],
)
def test_turns_and_scales_are_torchvisions(
    fields: dict[str, float], angle: float, scale: float
) -> None:
    images = rand(2, 3, 17, 17)
    bilinear = tv.InterpolationMode.BILINEAR
    expected = tv.affine(images, angle, [0, 0], scale, [0.0], interpolation=bilinear)
    middle = slice(4, 13)  # torchvision shows black beyond the border
    # torchvision computes its grid in float32.
    torch.testing.assert_close(
        moved(images, **fields)[..., middle, middle], expected[..., middle, middle],
        rtol=0, atol=1e-5,
    )  # fmt: skip


def test_slides_and_stretches_are_scipys() -> None:
    images = rand(1, 1, 12, 12)
    slid = scipy.ndimage.shift(images[0, 0], (-1.75, 2.3), order=1, mode="mirror")
    found = moved(images, slide_x=2.3, slide_y=-1.75)
    np.testing.assert_allclose(found[0, 0], slid, atol=1e-12)
    width = 2**0.4
    matrix, centre = np.diag([width, 1 / width]), np.full(2, 5.5)
    stretched = scipy.ndimage.affine_transform(
        images[0, 0], matrix, centre - matrix @ centre, order=1, mode="mirror"
    )
    np.testing.assert_allclose(moved(images, log2_stretch=0.4)[0, 0], stretched, atol=1e-12)


def test_operations_follow_each_other_in_the_published_order() -> None:
    images = rand(2, 3, 16, 16)
    whole = {"flip": 1.0, "quarter_turns": 1.0, "shift_x": 2.0, "shift_y": -1.0}
    step_by_step = images
    for names in (("flip",), ("quarter_turns",), ("shift_x", "shift_y")):
        step_by_step = moved(step_by_step, **{name: whole[name] for name in names})
    middle = slice(3, 13)  # beyond, the mirrored border was moved as well
    assert torch.equal(moved(images, **whole)[..., middle, middle],
                       step_by_step[..., middle, middle])  # fmt: skip
    free = {"log2_scale": 0.3, "first_turn": 0.5, "log2_stretch": -0.4, "last_turn": 1.1,
            "slide_x": 1.5, "slide_y": 0.5}  # fmt: skip
    one_by_one = [geometry(1, **{name: value}).maps()[0] for name, value in (whole | free).items()]
    expected = torch.linalg.multi_dot(one_by_one)
    torch.testing.assert_close(geometry(1, **whole, **free).maps()[0], expected)


CHANGES = {
    "brightness": 0.3, "log2_contrast": -0.6, "invert": 1.0, "hue": 2.0, "log2_saturation": 0.8,
}  # fmt: skip
GREY = np.full(3, 3**-0.5)


def matrix(name: str, value: float) -> np.ndarray:
    """Return an operation on homogeneous colours, [4, 4], as the paper writes it."""
    along, found = np.outer(GREY, GREY), np.eye(4)
    if name == "brightness":
        found[:3, 3] = value
    elif name == "log2_contrast":
        found[:3, :3] *= 2**value
    elif name == "invert":
        found[:3, :3] -= 2 * value * along
    elif name == "hue":
        found[:3, :3] = Rotation.from_rotvec(value * GREY).as_matrix()
    else:
        found[:3, :3] = along + (np.eye(3) - along) * 2**value
    return found


@pytest.mark.parametrize("names", [*((name,) for name in CHANGES), tuple(CHANGES)])
def test_colours_change_as_the_published_matrices_say(names: tuple[str, ...]) -> None:
    images = rand(2, 4, 5, 5)
    changes = {name: CHANGES[name] for name in names}
    product = np.eye(4)
    for name, value in changes.items():
        product = matrix(name, value) @ product
    found = colour(2, **changes).apply(images)
    expected = np.einsum("ij,njhw->nihw", product[:3, :3], images[:, :3].numpy())
    np.testing.assert_allclose(found[:, :3], expected + product[:3, 3, None, None], atol=1e-12)
    assert torch.equal(found[:, 3], images[:, 3])  # alpha is no colour
    torch.testing.assert_close(colour(2, **changes).apply(images[:, :3]), found[:, :3])


def test_grey_is_a_colour_of_three_equal_channels() -> None:
    images = rand(2, 1, 5, 5)
    found = colour(2, **CHANGES).apply(images)
    expected = colour(2, **CHANGES).apply(images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found.expand(-1, 3, -1, -1), expected)


def test_closed_forms_of_colour() -> None:
    images = rand(2, 3, 5, 5)
    luma = images.mean(dim=1, keepdim=True)
    half_turn = colour(2, hue=math.pi).apply(images)
    torch.testing.assert_close(half_turn, 2 * luma - images)  # the opposite hue, the same luma
    inverted = colour(2, invert=1).apply(images)
    torch.testing.assert_close(inverted.mean(dim=1, keepdim=True), -luma)
    torch.testing.assert_close(colour(2, invert=1).apply(inverted), images)
    drained = colour(2, log2_saturation=-math.inf).apply(images)
    torch.testing.assert_close(drained, luma.expand_as(images))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_derivatives(channels: int) -> None:
    augmentation = make_augmentation(2, augment_p=1.0)
    movement, tint = augmentation.draw("g", 0, 4)
    maps = Geometry(*(field.double() for field in movement)).maps()
    tint = Colour(*(field.double() for field in tint))
    images = rand(2, channels, 4, 4).requires_grad_(True)

    def changed(x: Tensor) -> Tensor:
        return tint.apply(affine_warp(x, maps))

    assert torch.autograd.gradcheck(changed, (images,))
    assert torch.autograd.gradgradcheck(lambda x: changed(x).square(), (images,))


def happened(p: float, count: int = 4000) -> dict[str, Tensor]:
    """Return what was drawn for many samples of 64 px."""
    movement, tint = make_augmentation(count, augment_p=p).draw("d.real", 0, 64)
    return movement._asdict() | tint._asdict()


@pytest.mark.parametrize("p", [0.1, 0.6, 1.0])
def test_every_operation_happens_as_often_as_it_should(p: float) -> None:
    drawn = happened(p)
    free_turn = 1 - math.sqrt(1 - p)
    # A shift draws 17 whole numbers, of which the two at the ends are half as likely.
    shift = p * 15 / 16
    expected = {"flip": p / 2, "quarter_turns": p * 3 / 4, "shift_x": shift, "shift_y": shift,
                "first_turn": free_turn, "last_turn": free_turn, "invert": p / 2}  # fmt: skip
    for name, values in drawn.items():
        share, chance = (values != 0).float().mean().item(), expected.get(name, p)
        spread = math.sqrt(chance * (1 - chance) / len(values))
        assert abs(share - chance) <= 5 * spread + 1e-6, name
    turned = (drawn["first_turn"] != 0) | (drawn["last_turn"] != 0)
    assert turned.float().mean().item() == pytest.approx(p, abs=5 * math.sqrt(p / 4 / 1000))


def test_every_change_is_as_strong_as_published() -> None:
    drawn = happened(1.0)
    normal = {"log2_scale": 0.2, "log2_stretch": 0.2, "slide_x": 8, "slide_y": 8,
              "brightness": 0.2, "log2_contrast": 0.5, "log2_saturation": 1.0}  # fmt: skip
    for name, deviation in normal.items():
        values = drawn[name]
        assert abs(values.mean()) < 5 * deviation / math.sqrt(len(values)), name
        assert values.std().item() == pytest.approx(deviation, rel=0.06), name
    for name in ("first_turn", "last_turn", "hue"):
        values = drawn[name]
        assert -math.pi <= values.min() < -3.1
        assert 3.1 < values.max() <= math.pi
        assert values.std().item() == pytest.approx(math.pi / math.sqrt(3), rel=0.06)
    for name in ("shift_x", "shift_y"):
        assert drawn[name].unique().tolist() == list(range(-8, 9))
    assert drawn["quarter_turns"].unique().tolist() == [0, 1, 2, 3]
    table = torch.stack([values.float() for values in drawn.values()])
    others = table.corrcoef() - torch.eye(len(table))
    assert others.abs().max() < 5 / math.sqrt(4000)  # each happens for itself


def test_what_happens_at_a_low_p_happens_at_a_higher_one() -> None:
    rare, often = happened(0.2, 200), happened(0.7, 200)
    for name, values in rare.items():
        chosen = values != 0
        assert torch.equal(often[name][chosen], values[chosen])


def test_batches_and_phases_are_changed_differently_and_repeatably() -> None:
    images, augmentation = rand(4, 3, 16, 16).float(), make_augmentation(augment_p=0.8)
    first = augmentation(images, "d.real", 3)
    assert torch.equal(first, augmentation(images, "d.real", 3))
    assert not torch.equal(first, augmentation(images, "d.fake", 3))
    assert not torch.equal(first, augmentation(images, "d.real", 4))


def followed(augmentation: Augmentation, logits: Tensor, turns: int) -> list[float]:
    found = []
    for turn in range(turns):
        augmentation.look(logits)
        found.append(augmentation.follow(turn).item())
    return found


def test_p_rises_at_the_published_rate_where_all_reals_are_recognised() -> None:
    moves = followed(make_augmentation(16), torch.ones(16, 1), 12)
    rate = 16 * 4 / 500_000
    expected = [0.0] * 3 + [rate] * 4 + [2 * rate] * 4 + [3 * rate]
    assert moves == pytest.approx(expected, rel=1e-5)


def test_p_falls_where_they_are_not_and_stays_in_its_range() -> None:
    falling = followed(make_augmentation(16, augment_p=0.0002), -torch.ones(16, 1), 12)
    assert falling[3] == pytest.approx(0.0002 - 0.000128, rel=1e-4)
    assert falling[-1] == 0
    rising = followed(make_augmentation(16, augment_p=0.9999), torch.ones(16, 1), 8)
    assert rising[-1] == 1


@pytest.mark.parametrize(("positive", "direction"), [(12, -1), (13, 1)])
def test_the_target_parts_rising_from_falling(positive: int, direction: int) -> None:
    """Of 16 logits 12 positive ones have the mean sign 0.5, 13 have 0.625."""
    logits = torch.cat([torch.full((positive, 1), 0.01), torch.full((16 - positive, 1), -9.0)])
    augmentation = make_augmentation(16, augment_p=0.5)
    p = followed(augmentation, logits, 4)[-1]
    assert p - 0.5 == pytest.approx(direction * 0.000128, rel=1e-3)


def test_the_sign_is_that_of_the_whole_interval() -> None:
    augmentation = make_augmentation(16)
    signs = [1, 1, 1, -1]  # on average 0.5, below the target
    for turn, sign in enumerate(signs):
        assert augmentation.look(torch.full((16, 1), float(sign))).item() == sign
        augmentation.follow(turn)
    assert augmentation.p.item() == 0


def test_logits_between_real_and_fake_have_no_sign() -> None:
    unsure = {"non-saturating": 0.0, "hinge": 0.0, "bce": 0.0, "lsgan": 0.5}
    for form, logit in unsure.items():
        augmentation = make_augmentation(adversarial=form)
        assert augmentation.look(torch.full((4, 1), logit)).item() == 0
        assert augmentation.look(torch.full((4, 1), logit + 0.1)).item() == 1


def test_a_fixed_p_stays() -> None:
    augmentation = make_augmentation(16, augment="fixed", augment_p=0.25)
    assert followed(augmentation, torch.ones(16, 1), 8) == [0.25] * 8


@pytest.fixture
def recipe() -> Recipe:
    numbers = {"batch": 4, "perceptual": "none", "augment": "ada", "augment_p": 0.7}
    return resolve_recipe("stylekd", numbers)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Note the phases and indices of the images that are augmented from here on."""
    seen: list[tuple[str, int]] = []
    plain = Augmentation.__call__

    def note(self: Augmentation, images: Tensor, phase: str, index: int) -> Tensor:
        seen.append((phase, index))
        return plain(self, images, phase, index)

    monkeypatch.setattr(Augmentation, "__call__", note)
    return seen


def test_all_that_the_discriminator_sees_is_augmented(
    student: Model, teacher: Model, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, seen = make_trainer(student, teacher, recipe), recorded(monkeypatch)
    judged: list[int] = []
    trainer.discriminator.register_forward_pre_hook(lambda *_: judged.append(1))
    found = trainer.step(16, real_images())
    assert seen == [("d.real", 16), ("d.fake", 16), ("d.r1", 16), ("g", 16)]
    assert len(judged) == 4
    assert {"augment_p", "real_sign"} <= set(found)


def test_an_sngan_augments_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = test_sngan.with_discriminator()
    numbers = test_sngan.NUMBERS | {"augment": "ada", "augment_p": 0.7, "d_steps": 2}
    trainer = test_sngan.make_trainer(model, model, resolve_recipe("sngan", numbers))
    seen = recorded(monkeypatch)
    found = trainer.step(3, real_images(8)._replace(images=rand(8, 3, 32, 32).float()))
    turns = [("d.real", 6), ("d.fake", 6), ("d.real", 7), ("d.fake", 7)]
    assert seen == [*turns, ("g", 3)]
    assert {"augment_p", "real_sign"} <= set(found)
    assert trainer.augmentation is not None
    assert trainer.augmentation.signs.item() == 0  # turn 7 ends an interval of 4


def test_r1_looks_at_the_plain_images(student: Model, teacher: Model, recipe: Recipe) -> None:
    trainer, batch = make_trainer(student, teacher, recipe), real_images()
    assert trainer.augmentation is not None
    plain = batch.images.clone().requires_grad_(True)
    logits = trainer.discriminator(trainer.augmentation(plain, "d.r1", 2), None)
    expected = r1_penalty(logits, plain)
    torch.testing.assert_close(trainer.d_r1(2, *batch)["r1"], expected.detach())
    changed = trainer.augmentation(batch.images, "d.r1", 2).requires_grad_(True)
    other = r1_penalty(make_trainer(student, teacher).discriminator(changed, None), changed)
    assert abs(other - expected) > 0.01 * expected


def test_a_plain_run_has_no_augmentation(student: Model, teacher: Model) -> None:
    trainer = make_trainer(student, teacher)
    images = real_images().images
    assert trainer.augmentation is None
    assert trainer.seen(images, "g", 0) is images
    assert set(trainer.state()) == {"pl_mean"}
    assert not {"augment_p", "real_sign"} & set(trainer.step(0, real_images()))


def test_resume_gives_the_losses_of_an_uninterrupted_run(train: Train, tmp_path: Path) -> None:
    overrides = {"augment": "ada", "augment_p": 0.5, "ada_nimg": 100, "ada_target": 0.0}
    train("whole", steps=8, overrides=overrides)
    train("parts", steps=3, overrides=overrides, save_every=2)  # in the midst of an interval
    train("parts", steps=6, resume="latest")
    train("parts", steps=8, resume="latest")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert tensors(tmp_path / "parts", 8) == tensors(tmp_path / "whole", 8)
    moves = {line["augment_p"] for line in metrics(tmp_path / "whole")}
    assert len(moves) > 1


@pytest.mark.slow
def test_two_processes_move_p_as_one_does(tmp_path: Path) -> None:
    write_models(tmp_path, make_model())
    words = (
        "distill", "student.safetensors", "--teacher", "teacher.safetensors", "--device", "cpu",
        "--quiet", "--batch", 8, "--steps", 10, "--perceptual", "none", "--r1-interval", 3,
        "--augment", "ada", "--augment-p", 0.5, "--ada-nimg", 200, "--ada-interval", 2,
    )  # fmt: skip
    for world, name in ((1, "one"), (2, "two")):
        together(world, tmp_path, *words, "-o", name)
    assert_same(tmp_path, "one", "two")
    one, two = (
        [(line["augment_p"], line["real_sign"]) for line in series(tmp_path / name)]
        for name in ("one", "two")
    )
    assert one == two
    assert len({p for p, _ in one}) > 1
