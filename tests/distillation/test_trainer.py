"""Phases of a step: what they change, and the fixed points they have."""

import pytest
import torch

from ganc.adversarial import d_loss
from ganc.distillation.execution import Execution
from ganc.distillation.networks import check_pair, starting_model
from ganc.distillation.reals import RealBatch
from ganc.distillation.recipes import RECIPES, Recipe, resolve_recipe
from ganc.distillation.trainer import ema_beta, lr_share
from ganc.distillation.trainers.losses import latent_direction, r1_penalty
from ganc.distillation.trainers.player import Player
from ganc.distillation.trainers.style import NoisePair, StyleTrainer
from ganc.errors import InputError, UsageError
from ganc.models.model import Model
from ganc.models.stylegan2 import Generator
from ganc.models.stylegan2_discriminator import Discriminator
from ganc.progress import Warn, ignore
from tests.conftest import make_model
from tests.distillation.parts import make_parts

CPU = torch.device("cpu")


def make_trainer(
    student: Model,
    teacher: Model,
    recipe: Recipe | None = None,
    execution: Execution | None = None,
) -> StyleTrainer:
    recipe = recipe or resolve_recipe("stylekd", {"batch": 4, "perceptual": "none"})
    return StyleTrainer(make_parts(student, teacher, recipe, execution))


def real_images(count: int = 4) -> RealBatch:
    random = torch.Generator().manual_seed(0)
    return RealBatch(torch.randn(count, 3, 16, 16, generator=random), None)


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_a_copy_of_the_teacher_has_nothing_to_learn_from_it(teacher: Model) -> None:
    trainer = make_trainer(teacher, teacher)
    found = trainer.g_main(0, None)
    assert found["pixel_l1"].item() == 0
    assert found["latent_direction"].item() == pytest.approx(0, abs=1e-6)


def test_fresh_noise_parts_student_from_teacher_and_w_from_its_move(teacher: Model) -> None:
    for layer in teacher.generator.modules():
        if hasattr(layer, "noise_strength"):
            layer.noise_strength.data.fill_(1.0)
    recipe = resolve_recipe("stylekd", {"batch": 4, "perceptual": "none", "noise": "fresh"})
    trainer = make_trainer(teacher, teacher, recipe)
    seen: list[NoisePair] = []
    render = trainer._render

    def watched(run, ws, noise, offset):  # type: ignore[no-untyped-def]
        seen.append(noise)
        return render(run, ws, noise, offset)

    trainer._render = watched  # type: ignore[method-assign]
    found = trainer.g_main(3, None)
    maps = [layers[-1] for noise in seen for layers in noise]
    assert len(maps) == 4
    assert all(not torch.equal(a, b) for i, a in enumerate(maps) for b in maps[:i])
    assert all(abs(x.mean().item()) < 0.2 and 0.8 < x.std().item() < 1.2 for x in maps)
    assert found["pixel_l1"].item() > 0.01
    again = make_trainer(teacher, teacher, recipe).g_main(3, None)
    assert torch.equal(again["pixel_l1"], found["pixel_l1"])


def test_the_mean_path_length_may_start_at_zero(student: Model, teacher: Model) -> None:
    starts = {}
    for start in ("teacher", "zero"):
        recipe = resolve_recipe("stylekd", {"batch": 4, "perceptual": "none", "pl_start": start})
        trainer = make_trainer(student, teacher, recipe)
        trainer.prepare(real_images())
        starts[start] = trainer.pl_mean.item()
    assert starts["zero"] == 0 < starts["teacher"]


def test_r1_may_be_part_of_the_main_step(student: Model, teacher: Model) -> None:
    """The step goes down the gradient of the sum; between its turns nothing differs."""
    numbers = {"batch": 4, "perceptual": "none", "r1_interval": 2, "latent_direction_weight": 0.0}
    recipe = resolve_recipe("stylekd", numbers | {"r1_step": "main"})
    trainer = make_trainer(student, teacher, recipe)
    real = real_images()
    latents = trainer._latents("d", 0, None)
    with torch.no_grad():
        fake = trainer.generator.train_synthesis(
            trainer._ws(trainer.generator, latents), latents.noise
        )
    images = real.images.clone().requires_grad_(True)
    logits = trainer.discriminator(images, None)
    penalty = r1_penalty(logits, images)
    loss = d_loss("non-saturating", logits, trainer.discriminator(fake, None))
    weights = [p for p in trainer.discriminator.parameters() if p.requires_grad]
    expected = torch.autograd.grad(loss + 10 / 2 * 2 * penalty, weights)
    found = trainer.d_main_r1(0, *real)
    torch.testing.assert_close(found["r1"], penalty.detach())
    torch.testing.assert_close(found["d_loss"], loss.detach())
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)
    ran = [set(trainer.step(step, real)) for step in (1, 2)]
    assert ["r1" in names for names in ran] == [False, True]


@pytest.mark.parametrize(
    ("group", "message"), [(3, "3 does not divide a batch of --batch 4"), (1, "nothing to compare")]
)
def test_groups_that_do_not_fit_are_refused(
    student: Model, teacher: Model, group: int, message: str
) -> None:
    numbers = {"batch": 4, "perceptual": "none", "similarity_group": group}
    with pytest.raises(UsageError, match=message):
        make_trainer(student, teacher, resolve_recipe("stylekd", numbers))


def test_main_losses_are_their_weighted_sum(student: Model, teacher: Model) -> None:
    found = make_trainer(student, teacher).g_main(0, None)
    expected = found["g_adversarial"] + 3 * found["pixel_l1"] + 30 * found["latent_direction"]
    torch.testing.assert_close(found["g_loss"], expected)
    assert found["pixel_l1"] > 0.01  # the student is another network than its teacher


def test_rendered_pairs_are_two_plain_passes(student: Model, teacher: Model) -> None:
    trainer = make_trainer(student, teacher)
    taught = trainer.teacher.generator  # type: ignore[union-attr]
    latents, offset = trainer._latents("g", 3, None), trainer._offset(3)
    noise = trainer._noise("g", 3, latents.noise, offset)
    with torch.no_grad():
        ws = trainer._ws(taught, latents)
        images, pairs = trainer._render(taught.synthesis.run, ws, noise, offset)
        ws = trainer._ws(taught, latents)
        plain, plain_features = taught.synthesis.run(ws, noise=latents.noise)
        _, moved = taught.synthesis.run(ws + offset[:, None], noise=latents.noise)
    torch.testing.assert_close(images, plain)
    torch.testing.assert_close(pairs[0][0], plain_features[2])
    torch.testing.assert_close(pairs[0][1], moved[2])
    assert latent_direction(pairs, pairs).item() == pytest.approx(0, abs=1e-6)


def test_both_halves_are_judged_where_the_recipe_says_so(student: Model, teacher: Model) -> None:
    numbers = {"batch": 4, "perceptual": "none", "compared": "both", "augment": "ada"}
    recipe = resolve_recipe("stylekd", numbers)
    trainer = make_trainer(student, teacher, recipe)
    taught = trainer.teacher.generator  # type: ignore[union-attr]
    latents, offset = trainer._latents("g", 3, None), trainer._offset(3)
    with torch.no_grad():
        made, goal = [], []
        for generator, images in ((trainer.generator, made), (taught, goal)):
            ws = trainer._ws(generator, latents)
            for w in (ws, ws + offset[:, None]):
                images.append(generator.synthesis(w, noise=latents.noise))
        logits = trainer.discriminator(torch.cat(made))  # ada's p is 0
    found = trainer.g_main(3, None)
    torch.testing.assert_close(found["pixel_l1"], (torch.cat(made) - torch.cat(goal)).abs().mean())
    torch.testing.assert_close(found["g_adversarial"], torch.nn.functional.softplus(-logits).mean())


def test_style_mixing_switches_at_the_cut(teacher: Model) -> None:
    trainer = make_trainer(teacher, teacher)
    taught = trainer.teacher.generator  # type: ignore[union-attr]
    latents = trainer._latents("g", 0, None)
    ws = trainer._ws(taught, latents)
    for i, cut in enumerate(latents.cut.flatten().tolist()):
        first, second = taught.mapping(latents.z[i]).unbind(0)
        torch.testing.assert_close(ws[i], torch.cat([first[:cut], second[cut:]]))


def test_each_phase_trains_its_network_alone(student: Model, teacher: Model) -> None:
    trainer = make_trainer(student, teacher)
    networks = {
        "generator": trainer.generator,
        "discriminator": trainer.discriminator,
        "teacher": trainer.teacher.generator,  # type: ignore[union-attr]
    }
    before = {name: weights(network) for name, network in networks.items()}

    def changed() -> set[str]:
        moved = {n for n, w in before.items() if not torch.equal(w, weights(networks[n]))}
        before.update({name: weights(network) for name, network in networks.items()})
        return moved

    trainer.d_main(0, *real_images())
    assert changed() == {"discriminator"}
    trainer.d_r1(0, *real_images())
    assert changed() == {"discriminator"}
    trainer.g_main(0, None)
    assert changed() == {"generator"}
    trainer.g_pl(0, None)
    assert changed() == {"generator"}


def test_phases_are_lazy(student: Model, teacher: Model) -> None:
    trainer = make_trainer(student, teacher)
    ran = [set(trainer.step(step, real_images())) for step in range(17)]
    assert [i for i, names in enumerate(ran) if "r1" in names] == [0, 16]
    assert [i for i, names in enumerate(ran) if "path_length" in names] == [0, 4, 8, 12, 16]


def test_path_length_reaches_every_trainable_weight(student: Model, teacher: Model) -> None:
    trainer = make_trainer(student, teacher)
    trainer.g_pl(0, None)
    # The last torgb's bias shifts the image by a constant: no path length, so no gradient.
    without = [n for n, p in trainer.generator.named_parameters() if p.grad is None]
    assert all(name.endswith("torgb.bias") for name in without)
    assert trainer.pl_mean.item() > 0


def test_the_mean_path_length_starts_at_the_teachers(teacher: Model) -> None:
    trainer = make_trainer(teacher, teacher)
    trainer.prepare(RealBatch(real_images().images, None))
    start = trainer.pl_mean.clone()
    trainer.g_pl(0, None)  # a student equal to the teacher: the same latents, the same lengths
    torch.testing.assert_close(trainer.pl_mean, start)


def test_freeze_mapping_keeps_it(student: Model, teacher: Model) -> None:
    numbers = {"batch": 4, "perceptual": "none", "freeze_mapping": True}
    trainer = make_trainer(student, teacher, resolve_recipe("stylekd", numbers))
    for step in range(2):
        trainer.step(step, real_images())
    for name, tensor in trainer.generator.mapping.state_dict().items():
        assert torch.equal(tensor, teacher.generator.mapping.state_dict()[name]), name


def test_a_trained_mapping_moves_slowly_and_tracks_w_avg(student: Model, teacher: Model) -> None:
    trainer = make_trainer(student, teacher)
    w_avg = trainer.generator.w_avg.clone()
    trainer.step(0, real_images())
    assert not torch.equal(trainer.generator.w_avg, w_avg)
    assert torch.equal(trainer.ema.generator.w_avg, trainer.generator.w_avg)


def test_ema_has_a_fixed_point(student: Model, teacher: Model) -> None:
    trainer = make_trainer(student, teacher)
    before = weights(trainer.ema.generator)
    trainer.update_ema(100_000)
    assert torch.equal(weights(trainer.ema.generator), before)


def test_ema_halves_the_distance_in_its_half_life(student: Model, teacher: Model) -> None:
    recipe = resolve_recipe("gan", {"batch": 50, "ema_nimg": 100.0})
    trainer = make_trainer(student, teacher, recipe)
    with torch.no_grad():
        for own, mean in zip(
            trainer.generator.parameters(), trainer.ema.generator.parameters(), strict=True
        ):
            own.fill_(1)
            mean.fill_(0)
    for step in (1000, 1001):
        trainer.update_ema(step)
    torch.testing.assert_close(
        weights(trainer.ema.generator), torch.full_like(weights(trainer.ema.generator), 0.5)
    )


def test_ema_ramps_up() -> None:
    recipe = RECIPES["gan"]
    assert ema_beta(16, recipe) == 0.5**20  # half-life 0.8 images: 20 of them in a batch
    assert ema_beta(1600, recipe) == pytest.approx(0.5 ** (16 / 80))
    assert ema_beta(10**6, recipe) == ema_beta(10**9, recipe) == 0.5 ** (16 / 10_000)
    assert ema_beta(16, resolve_recipe("gan", {"ema_rampup": 0.0})) == 0


def test_adam_makes_up_for_the_extra_steps() -> None:
    recipe, layer = resolve_recipe("gan", {"beta1": 0.5}), torch.nn.Linear(2, 2)
    (group,) = Player({"d": layer}, recipe, 4).adam.param_groups
    assert group["lr"] == pytest.approx(0.002 * 0.8)
    assert group["betas"] == pytest.approx((0.5**0.8, 0.99**0.8))
    assert Player({"d": layer}, recipe).adam.param_groups[0]["lr"] == 0.002


def test_discriminators_may_have_a_rate_of_their_own(student: Model, teacher: Model) -> None:
    numbers = {"batch": 4, "perceptual": "none", "pl_weight": 0, "lr": 0.01, "d_lr": 0.004}
    trainer = make_trainer(student, teacher, resolve_recipe("stylekd", numbers))
    rates = [p.adam.param_groups[0]["lr"] for p in (trainer.g, trainer.d)]
    assert rates == pytest.approx([0.01, 0.004 * 16 / 17])


def test_rates_rise_and_fall_linearly(student: Model, teacher: Model) -> None:
    recipe = resolve_recipe("gan", {"lr_warmup": 4, "lr_decay": 0.5})
    shares = [lr_share(step, 10, recipe) for step in range(10)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert [lr_share(step, 10, RECIPES["gan"]) for step in range(10)] == [1.0] * 10
    recipe = resolve_recipe("stylekd", {"batch": 4, "perceptual": "none", "lr_decay": 1})
    trainer = make_trainer(student, teacher, recipe)
    before = trainer.generator.synthesis.b4.const.detach().clone()
    trainer.pace(9, 10)
    trainer.g_main(1, None)
    moved = (trainer.generator.synthesis.b4.const - before).abs()
    # The first step of Adam moves each weight by the learning rate.
    torch.testing.assert_close(
        moved, torch.full_like(moved, 0.1 * 0.002 * 4 / 5), rtol=0.01, atol=0
    )


def test_optimizer_state_round_trip(student: Model, teacher: Model) -> None:
    trainer, other = make_trainer(student, teacher), make_trainer(student, teacher)
    trainer.g_main(0, None)
    saved = trainer.g.state()
    assert "generator.synthesis.b4.const.exp_avg_sq" in saved
    other.g.restore(saved)
    other.d.restore(saved)
    again = other.g.state()
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[name], again[name]) for name in saved)
    assert not other.d.state()


def test_frozen_is_undone_after_an_error() -> None:
    player = Player({"d": torch.nn.Linear(1, 1)}, RECIPES["gan"])

    def fail() -> None:
        with player.frozen():
            assert not any(p.requires_grad for p in player.trained)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert all(p.requires_grad for p in player.trained)


def starting_generator(student: Model, teacher: Model, warn: Warn) -> Generator:
    made = starting_model(student, teacher, 0, "pruned", warn).generator
    assert isinstance(made, Generator)
    return made


def test_the_student_inherits_the_mapping_and_keeps_its_noise(
    student: Model, teacher: Model
) -> None:
    student.generator.mapping.fc0.weight.data.zero_()
    noise = student.generator.synthesis.b8.conv0.noise_const.clone()
    made = starting_generator(student, teacher, ignore)
    assert torch.equal(made.mapping.fc0.weight, teacher.generator.mapping.fc0.weight)
    assert torch.equal(made.synthesis.b8.conv0.noise_const, noise)
    assert not student.generator.mapping.fc0.weight.any()  # the caller's model is untouched


def test_another_mapping_network_is_kept_with_a_warning(student: Model, teacher: Model) -> None:
    config = student.generator.config | {"mapping_kwargs": {"num_layers": 3}}
    warnings: list[str] = []
    other = Model(generator=Generator(**config))
    made = starting_generator(other, teacher, warnings.append)
    assert torch.equal(made.mapping.fc2.weight, other.generator.mapping.fc2.weight)
    assert "keeps its own mapping network" in warnings[0]


def test_a_new_discriminator_is_seeded_and_sized_like_the_teacher(
    student: Model, teacher: Model
) -> None:
    warnings: list[str] = []
    bare = Model(generator=teacher.generator)
    alone = Model(generator=student.generator)
    a, b = (starting_model(alone, bare, 0, "pruned", warnings.append) for _ in range(2))
    a, b = a.discriminator, b.discriminator
    assert isinstance(a, Discriminator)
    assert isinstance(b, Discriminator)
    assert torch.equal(weights(a), weights(b))
    assert a.config["widths"]["b16.fromrgb"] == teacher.generator.config["widths"]["b16.conv1"]
    assert "a new one learns from scratch" in warnings[0]
    assert a(real_images().images).shape == (4, 1)


def test_a_student_of_another_size_is_refused(student: Model) -> None:
    with pytest.raises(InputError, match="c_dim is 0, the teacher's 2; img_channels is 3"):
        check_pair(student, make_model(c_dim=2, img_channels=1))
    with pytest.raises(InputError, match="the teacher holds no generator"):
        check_pair(student, Model(discriminator=make_model().discriminator))
