"""What a run starts from: students of other widths and depths, new ones, no teacher at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ganc.checkpoints.store import load, save
from ganc.distillation.distill import DistillResult, distill
from ganc.distillation.networks import check_pair, new_generator, starting_model
from ganc.errors import InputError, UsageError, WeightsError
from ganc.models.model import Model
from ganc.progress import ignore
from tests.conftest import make_model
from tests.distillation.conftest import pruned
from tests.distillation.test_loop import metrics, write_zip
from tests.families import in_colour, make_cyclegan, make_resnet, make_sngan, make_stylegan3

Train = Callable[..., DistillResult]


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_new_student_takes_what_it_is_not_told_from_the_teacher(teacher: Model) -> None:
    config = {"channel_max": 6, "channel_base": 32}
    made = new_generator("stylegan2", config, teacher, seed=0)
    own, other = made.config, teacher.generator.config
    assert {n: own[n] for n in own if n != "widths"} == {
        n: other[n] for n in other if n != "widths"
    }
    assert own["widths"]["b4.conv1"] == 6
    assert own["widths"]["b16.conv1"] == 2
    check_pair(Model(made), teacher)


def test_a_new_student_depends_on_the_seed_alone(teacher: Model) -> None:
    a, b, c = (new_generator("stylegan2", {}, teacher, seed=seed) for seed in (0, 0, 1))
    assert same(a, b)
    assert not same(a, c)


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("stylegan9", {}, "unknown architecture `stylegan9`"),
        ("stylegan2", {"img_resolution": 16, "chanel_max": 3}, "did you mean `channel_max`"),
        ("stylegan2", {}, "a new stylegan2 needs img_resolution"),
        ("stylegan2", {"img_resolution": 17}, "17 is not a power of two"),
        ("stylegan2", {"img_resolution": "big"}, "must be a whole number of at least 1, got big"),
        ("sngan", {"img_resolution": 50}, "50"),
    ],
)
def test_an_impossible_student_is_refused(
    architecture: str, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        new_generator(architecture, config, None, seed=0)
    assert message in f"{caught.value} {caught.value.hint}"


def test_scratch_keeps_the_architecture_and_inherits_the_mapping(
    student: Model, teacher: Model
) -> None:
    made = starting_model(student, teacher, 0, "scratch", ignore)
    assert made.generator.config == student.generator.config
    assert same(made.generator.mapping, teacher.generator.mapping)
    fresh = made.generator.synthesis.b8.conv0.weight
    assert not torch.equal(fresh, student.generator.synthesis.b8.conv0.weight)
    with pytest.raises(UsageError, match="unknown --init `scrach`"):
        starting_model(student, teacher, 0, "scrach", ignore)


def test_a_random_discriminator_has_the_shape_of_the_inherited_one(
    student: Model, teacher: Model
) -> None:
    made = [
        starting_model(student, teacher, seed, "pruned", ignore, discriminators="random")
        for seed in (0, 0, 1)
    ]
    first, again, other = (model.discriminator for model in made)
    assert first.config == teacher.discriminator.config
    assert same(first, again)
    assert not same(first, other)
    assert not same(first, teacher.discriminator)
    assert same(made[0].generator.synthesis, student.generator.synthesis)


def test_a_pruned_discriminator_stays_the_students(student: Model, teacher: Model) -> None:
    pruned = Model(student.generator, make_stylegan3().discriminator or teacher.discriminator)
    made = starting_model(pruned, teacher, 0, "pruned", ignore)
    assert same(made.discriminator, teacher.discriminator)
    narrow = new_discriminator_of(teacher, 4)
    made = starting_model(Model(student.generator, narrow), teacher, 0, "pruned", ignore)
    assert made.discriminator.config["widths"] == narrow.config["widths"]


def new_discriminator_of(model: Model, width: int) -> Any:
    config = dict(model.discriminator.config)
    config["widths"] = dict.fromkeys(config["widths"], width)
    return type(model.discriminator)(**config)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (make_sngan(), "the student is a sngan, the teacher a stylegan2"),
        (make_resnet(), "the student is a resnet_translator"),
        (make_cyclegan(), "the student is a resnet_translator"),
    ],
)
def test_families_do_not_mix(student: Model, teacher: Model, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_pair(student, teacher)


def test_one_direction_does_not_teach_two() -> None:
    with pytest.raises(InputError, match="one of student and teacher translates in both"):
        check_pair(make_cyclegan(), make_resnet())


def test_any_widths_and_fewer_mapping_layers_distill(train: Train, tmp_path: Path) -> None:
    warnings: list[str] = []
    config = {"channel_max": 5, "mapping_kwargs": {"num_layers": 1}}
    train(
        student=None, architecture="stylegan2", config=config, steps=2, warn=warnings.append
    )  # fmt: skip
    made = load(tmp_path / "run" / "student.safetensors")
    assert made.widths["b8.conv0"] == 5
    assert made.generator.config["mapping_kwargs"]["num_layers"] == 1
    assert "keeps its own mapping network" in warnings[0]
    assert "latent_direction" in metrics(tmp_path / "run")[-1]
    train(student=None, steps=3, resume="latest")


def test_training_from_scratch_learns_from_data_alone(tmp_path: Path) -> None:
    data = write_zip(tmp_path / "data.zip", 8)
    sizes = {"img_resolution": 16, "z_dim": 4, "w_dim": 4, "channel_max": 4}
    numbers = {"batch": 4, "r1_interval": 2, "pl_interval": 2}
    common: dict[str, Any] = {"data": data, "overrides": numbers, "device": "cpu"}
    result = distill(
        None, None, tmp_path / "whole", architecture="stylegan2", config=sizes, steps=4, **common
    )
    assert not {"pixel_l1", "perceptual", "latent_direction"} & set(result.losses)
    kept = json.loads((tmp_path / "whole" / "recipe.json").read_text())
    assert (kept["name"], kept["l1_weight"]) == ("gan", 0)
    distill(None, None, tmp_path / "run", architecture="stylegan2", config=sizes, steps=2, **common)
    distill(None, None, tmp_path / "run", resume="latest", steps=4, device="cpu")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    made = load(tmp_path / "run" / "student.safetensors")
    assert made.discriminator is not None
    assert made.provenance[-1]["teacher"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "stylegan2"}, "both name a student"),
        ({"config": {"channel_max": 4}}, "describe a new student"),
        ({"teacher": None, "overrides": {"l1_weight": 1.0}}, "compares with a teacher, there is"),
        ({"teacher": None, "overrides": {"perceptual": "none"}}, "the run needs real images"),
        ({"data_b": "somewhere"}, "--data-b goes with translators"),
    ],
    ids=["two students", "sizes", "no teacher", "no images", "data_b"],
)
def test_what_contradicts_itself_is_refused(
    train: Train, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(**arguments)
    assert not (tmp_path / "run").exists()


def test_a_recipe_of_another_family_is_refused(
    tmp_path: Path, student: Model, teacher: Model
) -> None:
    with pytest.raises(UsageError, match="recipe sngan does not train a stylegan2"):
        distill(student, teacher, tmp_path / "run", recipe="sngan", device="cpu")
    assert not (tmp_path / "run").exists()


def test_stylegan3_distills_and_follows_its_magnitudes(tmp_path: Path) -> None:
    teacher = make_stylegan3()
    save(teacher, tmp_path / "teacher.safetensors")
    numbers = {"batch": 4, "perceptual": "none", "r1_interval": 2, "pl_interval": 2}
    common: dict[str, Any] = {"overrides": numbers, "device": "cpu", "sample_every": 99}
    path = tmp_path / "teacher.safetensors"
    result = distill(path, path, tmp_path / "whole", steps=3, **common)
    assert {"pixel_l1", "latent_direction", "real_sign"} <= set(result.losses)
    distill(path, path, tmp_path / "run", steps=1, **common)
    distill(None, None, tmp_path / "run", resume="latest", steps=3, device="cpu")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    made = load(tmp_path / "run" / "student.safetensors").generator.synthesis
    before = teacher.generator.synthesis
    moved = [name for name, b in made.named_buffers() if name.endswith("magnitude_ema")]
    assert moved
    assert all(not torch.equal(made.get_buffer(n), before.get_buffer(n)) for n in moved)


def test_cagan_looks_at_the_contents_of_interest_alone(teacher: Model, student: Model) -> None:
    from tests.distillation.test_trainer import make_trainer

    trainer = make_trainer(student, teacher)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    target = torch.zeros_like(images)
    trainer.masks = lambda made, _: torch.arange(8).expand(len(made), 8, 8) < 4  # the left half
    _, loss = trainer.imitation_terms(images, target)["pixel_l1"]
    torch.testing.assert_close(loss, images[..., :8].abs().sum() / images.numel())
    trainer.masks = lambda made, _: torch.zeros(len(made), 16, 16, dtype=torch.bool)
    _, loss = trainer.imitation_terms(images, target)["pixel_l1"]
    assert loss == 0


def test_cagan_trains_with_a_mask(train: Train, tmp_path: Path) -> None:
    train("masked", steps=1, recipe="cagan")
    train("whole", steps=1, recipe="cagan", overrides={"content": "none"})
    masked, whole = (metrics(tmp_path / name)[0]["pixel_l1"] for name in ("masked", "whole"))
    assert 0 < masked < whole
    with pytest.raises(UsageError, match="holds masks of given samples"):
        train("other", recipe="cagan", overrides={"content": "masks:folder"})
    with pytest.raises(UsageError, match="unknown --content"):
        train("other", recipe="cagan", overrides={"content": "centre"})


def test_offline_holds_for_the_mask_network(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GANC_OFFLINE", raising=False)
    with pytest.raises(WeightsError, match=r"`bisenet` .* the network is off limits"):
        train("run", recipe="cagan", offline=True, overrides={"content": "bisenet"})


# --- images that a perceptual network can see ---------------------------------------------------


def test_a_grey_student_learns_from_a_network_for_colour(train: Train) -> None:
    """On a grey pair the perceptual term is that of a colour pair with three equal channels."""
    teacher = make_model(img_channels=1)
    numbers = {"perceptual": "effnet-lite0", "perceptual_resolution": 32, "pl_weight": 0.0,
               "l1_weight": 3.0}  # fmt: skip
    grey, colour = (
        train(
            name, steps=1, teacher=turn(teacher), student=turn(pruned(teacher)),
            overrides=numbers | {"adversarial_weight": 0.0},
        ).losses
        for name, turn in {"grey": lambda model: model, "colour": in_colour}.items()
    )  # fmt: skip
    assert grey["perceptual"] == pytest.approx(colour["perceptual"], rel=1e-5)
    assert grey["pixel_l1"] == pytest.approx(colour["pixel_l1"], rel=1e-5)


@pytest.mark.parametrize(
    ("channels", "numbers", "message", "hint"),
    [
        (4, {}, "--perceptual lpips-vgg needs images of 1 or 3 channels, .* makes 4", "none"),
        (4, {"perceptual": "effnet-lite0"}, "1 or 3 channels", "pass --perceptual none"),
        (1, {"perceptual": "lpips-alex"}, "31 px or more, it would see 16", "effnet-lite0"),
        (3, {"perceptual_resolution": 8}, "16 px or more, it would see 8", "effnet-lite0"),
    ],
)  # fmt: skip
def test_images_are_checked_before_weights_are_looked_for(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    channels: int, numbers: dict[str, Any], message: str, hint: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))
    teacher = make_model(img_channels=channels)
    with pytest.raises(InputError, match=message) as caught:
        train(
            teacher=teacher, student=pruned(teacher), offline=True,
            overrides={"perceptual": "lpips-vgg"} | numbers,
        )  # fmt: skip
    assert hint in (caught.value.hint or "")
    assert not (tmp_path / "run").exists()
    # What the hint says works.
    way = {"perceptual": "none" if channels == 4 else "effnet-lite0", "perceptual_resolution": 0}
    train("way out", steps=1, teacher=teacher, student=pruned(teacher), overrides=way)
