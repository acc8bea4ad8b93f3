"""Training of SN-GANs: what each phase changes, its fixed points, its run from end to end."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganc.checkpoints.store import load, save
from ganc.data.dataset import open_dataset
from ganc.data.images import to_float
from ganc.data.stream import TrainingStream, usable_images
from ganc.distillation.distill import distill
from ganc.distillation.draws import Draws
from ganc.distillation.reals import RealBatch, TeacherSamples, open_reals
from ganc.distillation.recipes import RECIPES, Recipe, resolve_recipe
from ganc.distillation.trainers.sngan import SnganTrainer
from ganc.models.model import Model
from ganc.models.network import LatentGenerator
from ganc.models.sngan import Discriminator, discriminator_widths
from ganc.models.spectral import SpectralLayer
from ganc.progress import ignore, silent
from ganc.pruning.plan import prune
from ganc.scoring.score import score
from tests import forked
from tests.conftest import GOLDEN, randomise
from tests.distillation.parts import make_parts
from tests.distillation.test_loop import metrics, tensors
from tests.distillation.test_processes import write_images
from tests.families import make_sngan

CPU = torch.device("cpu")
RESULT = "student.safetensors"
NUMBERS = {"batch": 4, "d_steps": 3, "perceptual": "none"}


def with_discriminator(seed: int = 0) -> Model:
    """A tiny SN-GAN of 32 px with its discriminator."""
    torch.manual_seed(seed)
    widths = {name: 3 + i % 3 for i, name in enumerate(discriminator_widths(32))}
    discriminator = Discriminator(32, 3, widths=widths)
    randomise(discriminator, seed)
    return Model(make_sngan(seed).generator, discriminator.eval())


def latent_generator(model: Model) -> LatentGenerator:
    assert isinstance(model.generator, LatentGenerator)
    return model.generator


@pytest.fixture
def teacher() -> Model:
    return with_discriminator()


@pytest.fixture
def student(teacher: Model) -> Model:
    return prune(teacher, score(teacher, "l1-out"), prune_ratio=0.4)


def make_trainer(
    student: Model, teacher: Model | None, recipe: Recipe | None = None, **other: Any
) -> SnganTrainer:
    recipe = recipe or resolve_recipe("sngan", NUMBERS)
    return SnganTrainer(make_parts(student, teacher, recipe, **other))


def real_images(count: int = 12) -> RealBatch:
    random = torch.Generator().manual_seed(0)
    return RealBatch(torch.randn(count, 3, 32, 32, generator=random).clamp(-1, 1), None)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def buffers(network: nn.Module) -> Tensor:
    return torch.cat([b.detach().flatten().double() for b in network.buffers()])


def settle(generator: nn.Module, z: Tensor) -> None:
    """Set the running statistics to those of a batch: train and eval mode then give one image."""

    def follow(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        norm.running_mean, norm.running_var = mean, var

    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(follow) for norm in norms]
    with torch.no_grad():
        generator.eval()(z)
    for hook in hooks:
        hook.remove()


def test_a_copy_of_the_teacher_has_nothing_to_learn_from_it(teacher: Model) -> None:
    recipe = resolve_recipe("sngan", NUMBERS | {"perceptual": "effnet-lite0"})
    settle(teacher.generator, Draws(0, 4, CPU).normal("distill.g", 0, teacher.generator.z_dim))
    compared: list[tuple[Tensor, Tensor]] = []

    def distance(images: Tensor, target: Tensor) -> Tensor:
        compared.append((images, target))
        return (images - target).square().mean(dim=(1, 2, 3))

    found = make_trainer(teacher, teacher, recipe, perceptual=distance).g_main(0)
    # Two ways to compute one batch norm: fused with the batch's statistics, or with given ones.
    assert found["pixel_l1"].item() == pytest.approx(0, abs=1e-5)
    assert found["perceptual"].item() == pytest.approx(0, abs=1e-9)
    ((images, target),) = compared
    assert images.requires_grad
    assert not target.requires_grad
    assert target.std() > 0.05  # there was something to see


def test_main_losses_are_their_weighted_sum(student: Model, teacher: Model) -> None:
    recipe = resolve_recipe("sngan", NUMBERS | {"adversarial_weight": 0.5})
    found = make_trainer(student, teacher, recipe).g_main(0)
    expected = 0.5 * found["g_adversarial"] + 3 * found["pixel_l1"]
    torch.testing.assert_close(found["g_loss"], expected)
    assert found["pixel_l1"] > 0.01  # the student is another network than its teacher


def test_masks_hide_what_is_not_of_interest(student: Model, teacher: Model) -> None:
    def left_half(images: Tensor, indices: range) -> Tensor:
        shown = torch.zeros(len(images), 32, 32, dtype=torch.bool)
        shown[:, :, :16] = True
        return shown

    plain = make_trainer(student, teacher)
    z = plain._z("distill.g", 0)
    target = plain._target(z)
    assert target is not None
    with torch.no_grad():
        difference = (plain.generator(z) - target).abs()
    masked = make_trainer(student, teacher, masks=left_half).g_main(0)
    torch.testing.assert_close(masked["pixel_l1"], difference[..., :16].mean() / 2)


def test_both_networks_play_hinge_as_published(student: Model, teacher: Model) -> None:
    trainer, twin = (make_trainer(student, teacher) for _ in range(2))
    images = real_images(4).images
    found = trainer.d_main(7, images)
    fake = twin.generator(twin._z("distill.d", 7)).detach()
    real_logits, fake_logits = twin.discriminator(images), twin.discriminator(fake)
    margins = torch.cat([1 - real_logits, 1 + fake_logits])
    assert margins.numel() == 8
    torch.testing.assert_close(found["d_loss"], margins.clamp(min=0).sum().detach() / 4)
    found = trainer.g_main(3)
    twin.discriminator.load_state_dict(trainer.discriminator.state_dict())
    with torch.no_grad():
        twin.discriminator.eval()  # the pass of g_main stored the sigmas that it used
        logits = twin.discriminator(twin.generator(twin._z("distill.g", 3)))
    torch.testing.assert_close(found["g_adversarial"], -logits.mean())


def test_another_form_of_the_game_is_played(student: Model, teacher: Model) -> None:
    recipe = resolve_recipe("sngan", NUMBERS | {"adversarial": "lsgan"})
    least_squares, hinge = (make_trainer(student, teacher, r).g_main(0) for r in (recipe, None))
    # The mean of squares is at least the square of the mean.
    assert least_squares["g_adversarial"] >= (hinge["g_adversarial"] + 1).square() > 0


def test_each_phase_trains_its_network_alone(student: Model, teacher: Model) -> None:
    trainer = make_trainer(student, teacher)
    assert trainer.teacher is not None
    networks = {
        "generator": trainer.generator,
        "discriminator": trainer.discriminator,
        "teacher": trainer.teacher.generator,
    }
    seen: dict[str, Tensor] = {n: weights(network) for n, network in networks.items()}

    def changed() -> set[str]:
        before = dict(seen)
        seen.update({n: weights(network) for n, network in networks.items()})
        return {n for n in networks if not torch.equal(seen[n], before[n])}

    held = buffers(trainer.teacher.generator)
    trainer.d_main(0, real_images(4).images)
    assert changed() == {"discriminator"}
    trainer.g_main(0)
    assert changed() == {"generator"}
    assert torch.equal(buffers(trainer.teacher.generator), held)
    assert all(p.requires_grad for p in trainer.d.trained)


def test_every_trained_weight_gets_a_gradient(student: Model, teacher: Model) -> None:
    trainer = make_trainer(student, teacher)
    trainer.step(0, real_images())
    for player in (trainer.g, trainer.d):
        for name, parameter in player._named_parameters().items():
            assert parameter.grad is not None, name


def count_passes(trainer: SnganTrainer) -> Iterator[dict[str, int]]:
    passes = {"generator": 0, "discriminator": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            passes[name] += 1

        return hook

    for name in passes:
        getattr(trainer, name).register_forward_hook(count(name))
    yield passes


@pytest.mark.parametrize("turns", [1, 3])
def test_the_discriminator_takes_its_steps_first(
    student: Model, teacher: Model, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = resolve_recipe("sngan", NUMBERS | {"d_steps": turns})
    trainer = make_trainer(student, teacher, recipe)
    assert recipe.reals_per_step == 4 * turns
    order: list[tuple[str, int]] = []
    d_main, g_main = trainer.d_main, trainer.g_main

    def record_d(turn: int, images: Tensor) -> Any:
        order.append((f"d {images[0, 0, 0, 0]:.0f}", turn))
        return d_main(turn, images)

    def record_g(step: int) -> Any:
        order.append(("g", step))
        return g_main(step)

    monkeypatch.setattr(trainer, "d_main", record_d)
    monkeypatch.setattr(trainer, "g_main", record_g)
    (passes,) = count_passes(trainer)
    numbered = torch.arange(turns).repeat_interleave(4)[:, None, None, None].float()
    trainer.step(5, RealBatch(numbered.expand(-1, 3, 32, 32).contiguous(), None))
    assert order == [*((f"d {i}", 5 * turns + i) for i in range(turns)), ("g", 5)]
    assert passes == {"generator": turns + 1, "discriminator": 2 * turns + 1}


def test_the_steps_of_a_discriminator_have_latents_of_their_own(teacher: Model) -> None:
    trainer = make_trainer(teacher, teacher)
    seen = [trainer._z("distill.d", turn) for turn in range(6)] + [trainer._z("distill.g", 1)]
    firsts = torch.stack([z[0] for z in seen])
    assert torch.unique(firsts, dim=0).shape == firsts.shape


def test_modes_are_those_of_the_published_training(student: Model, teacher: Model) -> None:
    trainer = make_trainer(student, teacher)
    assert trainer.generator.training
    assert trainer.discriminator.training
    assert not trainer.ema.generator.training
    assert trainer.teacher is not None
    assert not trainer.teacher.generator.training
    layer = next(m for m in trainer.discriminator.modules() if isinstance(m, SpectralLayer))
    before = layer.weight_u.clone()
    trainer.g_main(0)  # the generator's step improves the sigmas as well
    assert not torch.equal(layer.weight_u, before)


def test_statistics_are_averaged_as_weights_are(teacher: Model) -> None:
    recipe = resolve_recipe("sngan", NUMBERS | {"batch": 50, "ema_nimg": 100.0})
    trainer = make_trainer(teacher, teacher, recipe)
    for network, value in ((trainer.generator, 1), (trainer.ema.generator, 0)):
        for tensor in network.state_dict().values():
            tensor.fill_(value)
    for step in (1000, 1001):  # a half-life of two steps
        trainer.update_ema(step)
    for name, tensor in trainer.ema.generator.state_dict().items():
        is_count = name.endswith("num_batches_tracked")
        torch.testing.assert_close(tensor, torch.full_like(tensor, 1 if is_count else 0.5))


def test_without_adversarial_weight_the_discriminator_rests(student: Model, teacher: Model) -> None:
    recipe = resolve_recipe("sngan", NUMBERS | {"adversarial_weight": 0.0})
    trainer = make_trainer(student, teacher, recipe)
    before = weights(trainer.discriminator)
    found = trainer.step(0, real_images())
    assert torch.equal(weights(trainer.discriminator), before)
    assert set(found) == {"g_loss", "pixel_l1", "g_grad_norm"}


def test_a_generator_learns_to_follow_its_teacher(student: Model, teacher: Model) -> None:
    recipe = resolve_recipe("sngan", NUMBERS | {"adversarial_weight": 0.0, "lr": 0.01})
    trainer = make_trainer(student, teacher, recipe)
    losses = [trainer.g_main(step)["pixel_l1"].item() for step in range(60)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_pruned_trained_generator_comes_back() -> None:
    teacher = load(GOLDEN / "trained" / "sngan-faces-32.safetensors")
    student = prune(teacher, score(teacher, "l1-out"), speedup=2)
    numbers = NUMBERS | {"batch": 16, "adversarial_weight": 0.0, "lr": 0.002}
    trainer = make_trainer(student, teacher, resolve_recipe("sngan", numbers))
    z = torch.randn(32, 64, generator=torch.Generator().manual_seed(9))

    def distance() -> float:
        with torch.no_grad():
            target = latent_generator(teacher)(z)
            return float((latent_generator(trainer.ema)(z) - target).abs().mean())

    before = distance()
    for step in range(15):
        trainer.g_main(step)
        trainer.finish_step(step)
    assert distance() < 0.7 * before


def numbered_batches(source: Any, start: int, stop: int) -> Tensor:
    return torch.stack([batch.images for batch in source.batches(start, stop)])


@pytest.mark.parametrize("data", ["teacher", "images"])
def test_processes_and_steps_share_real_images_alike(
    teacher: Model, tmp_path: Path, data: str
) -> None:
    recipe = resolve_recipe("sngan", NUMBERS | {"mirror": True})
    path = write_images(tmp_path / "data.zip", 30) if data == "images" else data
    generator = latent_generator(teacher)

    def opened(rank: int = 0, world: int = 1) -> Any:
        draws = Draws(0, recipe.batch, CPU, rank, world)
        return open_reals(
            str(path), generator, generator, recipe, draws,
            resize=True, progress=silent, warn=ignore,
        )  # fmt: skip

    whole = numbered_batches(opened(), 2, 4)
    assert whole.shape == (2, 12, 3, 32, 32)
    assert torch.equal(numbered_batches(opened(), 3, 4)[0], whole[1])
    for rank in range(2):
        part = numbered_batches(opened(rank, 2), 2, 4)
        # Each turn of the discriminator is shared out on its own.
        turns, shares = whole.unflatten(1, (3, 4)), part.unflatten(1, (3, 2))
        torch.testing.assert_close(shares, turns[:, :, rank::2], rtol=0, atol=1e-6)
    assert torch.unique(whole.flatten(2)[0], dim=0).shape[0] == 12


def test_one_discriminator_step_reads_what_other_kinds_read(teacher: Model, tmp_path: Path) -> None:
    recipe = resolve_recipe("sngan", NUMBERS | {"d_steps": 1})
    draws, generator = Draws(3, 4, CPU), latent_generator(teacher)
    path = write_images(tmp_path / "data.zip", 9)
    source = open_reals(
        str(path), generator, None, recipe, draws, resize=True, progress=silent, warn=ignore
    )
    images = usable_images(
        open_dataset(path, resolution=32, channels=3, resize=True), warn=ignore, progress=silent
    )
    stream = TrainingStream(images, seed=3, batch=4, mirror=False)
    expected = torch.stack([to_float(stream.batch_at(step)[0]) for step in range(3)])
    assert torch.equal(numbered_batches(source, 0, 3), expected)
    sampled = numbered_batches(TeacherSamples(generator, recipe, draws), 2, 3)[0]
    with torch.no_grad():
        again = generator(draws.normal("distill.real", 2, generator.z_dim))
    assert torch.equal(sampled, again)


@pytest.fixture
def train(student: Model, teacher: Model, tmp_path: Path) -> Callable[..., Path]:
    """Run a few small steps in ``tmp_path / name``; every argument can be replaced."""

    def run(name: str = "run", **other: Any) -> Path:
        models = {"student": student, "teacher": teacher} | other
        overrides = NUMBERS | models.pop("overrides", {})
        distill(
            models.pop("student"), models.pop("teacher"), tmp_path / name,
            overrides=overrides, device="cpu", **models,
        )  # fmt: skip
        return tmp_path / name

    return run


def test_a_resumed_run_is_the_uninterrupted_one(train: Callable[..., Path]) -> None:
    whole, parts = train("whole", steps=6), train("parts", steps=2)
    train("parts", steps=3, resume="latest", student=None)
    train("parts", steps=6, resume="latest", student=None)
    assert metrics(parts) == metrics(whole)
    assert tensors(parts, 6) == tensors(whole, 6)
    assert load(parts / RESULT).content_hash() == load(whole / RESULT).content_hash()


def test_a_run_from_scratch_needs_no_teacher(
    train: Callable[..., Path], teacher: Model, tmp_path: Path
) -> None:
    data = write_images(tmp_path / "data.zip", 30)
    other = {"perceptual_weight": 0.0, "l1_weight": 0.0}
    folder = train(student=teacher, teacher=None, data=data, resize=True, steps=3,
                   init="scratch", overrides=other)  # fmt: skip
    made = load(folder / RESULT)
    assert made.discriminator is not None
    lines = metrics(folder)
    assert {"d_loss", "g_loss", "g_adversarial"} <= lines[-1].keys()
    assert "pixel_l1" not in lines[-1]
    assert [line["images"] for line in lines] == [12, 24, 36]  # three batches of four a step
    assert (folder / "samples" / "3.png").exists()


def test_the_published_numbers_are_the_defaults() -> None:
    recipe = RECIPES["sngan"]
    assert (recipe.adversarial, recipe.d_steps, recipe.batch) == ("hinge", 5, 64)
    assert (recipe.lr, recipe.beta1, recipe.beta2) == (2e-4, 0.0, 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["teacher", "images"])
def test_two_processes_have_the_losses_of_one(
    student: Model, teacher: Model, tmp_path: Path, data: str
) -> None:
    save(teacher, tmp_path / "teacher.safetensors")
    save(student, tmp_path / "student.safetensors")
    path = write_images(tmp_path / "data.zip", 30) if data == "images" else data
    words = (
        "distill", "student.safetensors", "--teacher", "teacher.safetensors", "--data", path,
        "--resize", "--batch", 4, "--d-steps", 2, "--perceptual", "none", "--steps", 5,
        "--device", "cpu", "--quiet", "--json", "-o",
    )  # fmt: skip
    for world, run in ((1, "one"), (2, "two")):
        for outcome in forked.ganc_group(world, tmp_path, *words, run).wait():
            assert outcome.code == 0, outcome.err
    one, two = (tmp_path / run for run in ("one", "two"))
    for line, other in zip(metrics(two), metrics(one), strict=True):
        assert line == pytest.approx(other, rel=1e-4, abs=1e-4)
    alone, shared = (load(run / RESULT).tensors() for run in (one, two))
    for name, tensor in shared.items():
        if name.endswith(".weight"):  # a bias in front of a norm has no gradient but rounding's
            torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-4, msg=name)
    settings = json.loads((tmp_path / "two" / "recipe.json").read_text())
    assert (settings["kind"], settings["d_steps"]) == ("sngan", 2)
