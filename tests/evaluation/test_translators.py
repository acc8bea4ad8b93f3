"""Metrics of translators: of the images that they are given, against teacher and real images."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ganc.checkpoints.store import save
from ganc.errors import DataError, InputError, UsageError
from ganc.evaluation.evaluate import evaluate
from ganc.groups import count_macs
from ganc.models.model import Model
from ganc.perceptual.distance import load_perceptual
from ganc.sampling import sample
from tests.conftest import Outcome, make_model
from tests.families import make_cyclegan, make_resnet, make_sngan, make_stylegan3, make_unet

from .witnesses import write_images

Ganc = Callable[..., Outcome]


def random_images(count: int, side: int = 16, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=random) * 2 - 1


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_images(random_images(7), tmp_path / "photos")


def test_paired_metrics_are_those_of_the_translations(photos: Path) -> None:
    student, teacher = make_resnet(0), make_resnet(1)
    ours, theirs = (sample(m, 7, input=photos).clamp(-1, 1) for m in (student, teacher))
    expected = (ours - theirs).abs().mean().item()
    mse = (ours - theirs).square().flatten(1).mean(dim=1)
    decibels = (10 * (4 / mse).log10()).mean().item()
    told: list[str] = []
    result = evaluate(student, ["l1", "psnr"], teacher=teacher, input=photos, warn=told.append)
    assert result["metrics"] == pytest.approx({"l1": expected, "psnr": decibels}, rel=1e-5)
    assert result["settings"]["protocols"]["l1"]["pairs"] == 7
    assert result["settings"]["input"]["size"] == [16, 16]
    assert told == ["--input holds 7 images, less than --samples 2000: all are taken"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_samples_may_be_fewer_than_inputs(photos: Path) -> None:
    student, teacher = make_resnet(0), make_resnet(1)
    ours, theirs = (sample(m, 3, input=photos).clamp(-1, 1) for m in (student, teacher))
    told: list[str] = []
    result = evaluate(student, ["l1"], teacher=teacher, input=photos, samples=3, warn=told.append)[
        "metrics"
    ]
    assert result["l1"] == pytest.approx((ours - theirs).abs().mean().item(), rel=1e-5)
    assert told == []


def test_diversity_is_over_pairs_of_consecutive_inputs(photos: Path) -> None:
    model = make_resnet()
    result = evaluate(model, ["perceptual-diversity"], input=photos)
    images = sample(model, 6, input=photos).clamp(-1, 1)
    expected = load_perceptual("effnet-lite0")(images[::2], images[1::2]).mean().item()
    assert result["metrics"]["perceptual-diversity"] == pytest.approx(expected, rel=1e-5)
    assert result["settings"]["protocols"]["perceptual-diversity"]["pairs"] == 3


def test_fd_to_its_own_translations_is_zero(tmp_path: Path, photos: Path, mean_colour: str) -> None:
    model = make_resnet()
    data = write_images(sample(model, 7, input=photos), tmp_path / "data")
    other = write_images(random_images(7, seed=5), tmp_path / "other")
    values = [
        evaluate(model, ["fd"], input=photos, data=real, features=mean_colour)["metrics"]["fd"]
        for real in (data, other)
    ]
    assert values[0] < 1e-6
    assert values[1] > 1e-3
    to_teacher = evaluate(model, ["fd"], input=photos, teacher=model, features=mean_colour)
    assert to_teacher["metrics"]["fd"] < 1e-9
    assert to_teacher["settings"]["protocols"]["fd"]["reference"] == "teacher"


def test_real_images_have_the_translations_size(tmp_path: Path, mean_colour: str) -> None:
    model = make_resnet()
    inputs = write_images(random_images(3, 24), tmp_path / "in")
    data = write_images(random_images(3, 24, seed=1), tmp_path / "data")
    other = write_images(random_images(3, 16, seed=1), tmp_path / "other")
    evaluate(model, ["fd"], input=inputs, data=data, features=mean_colour)
    with pytest.raises(DataError, match="size 16x16, allowed is 24x24"):
        evaluate(model, ["fd"], input=inputs, data=other, features=mean_colour)
    evaluate(model, ["fd"], input=inputs, data=other, features=mean_colour, resize=True)


@pytest.mark.parametrize("make", [make_resnet, make_unet])
def test_costs_need_no_input(make: Callable[[], Model]) -> None:
    model = make()
    values = evaluate(model, ["macs", "params", "macs_published", "latency"])["metrics"]
    generator = model.generator
    assert values["macs"] == generator.macs()
    published = count_macs(generator.shapes(), generator.published_mac_positions())
    assert values["macs_published"] == published > values["macs"]
    assert 0 < values["latency"] <= values["latency-p90"]


def test_the_other_direction_is_measured_by_name(photos: Path) -> None:
    model = make_cyclegan()
    back = Model(generator=model.generator_b)
    values = evaluate(model, ["l1"], teacher=back, input=photos)["metrics"]
    assert values["l1"] > 0.01
    with pytest.raises(InputError, match="the teacher holds no generator_b"):
        evaluate(model, ["l1"], teacher=back, input=photos, network="generator_b")
    both = evaluate(model, ["l1"], teacher=model, input=photos, network="generator_b")
    assert both["metrics"] == {"l1": 0.0}
    assert both["settings"]["network"] == "generator_b"


@pytest.mark.parametrize("make", [make_sngan, make_stylegan3])
def test_latent_families_share_the_pass(make: Callable[..., Model]) -> None:
    values = evaluate(make(0), ["l1", "psnr"], teacher=make(1), samples=6)["metrics"]
    images = [sample(make(seed), 6).clamp(-1, 1) for seed in (0, 1)]
    assert values["l1"] == pytest.approx((images[0] - images[1]).abs().mean().item(), rel=1e-5)
    assert evaluate(make(0), ["latency"])["metrics"]["latency"] > 0


def test_inputs_that_are_missing_or_too_few_are_named(photos: Path) -> None:
    model = make_resnet()
    with pytest.raises(UsageError, match="l1 needs images for the resnet_trans") as caught:
        evaluate(model, ["l1"], teacher=model)
    assert caught.value.hint == "pass --input with a folder or zip of images"
    one = photos / "00000.png"
    for metric in ("fd", "perceptual-diversity"):
        with pytest.raises(InputError, match=f"{metric} needs 2 images or more, --input holds 1"):
            evaluate(model, [metric], teacher=model, input=one)
    assert evaluate(model, ["l1"], teacher=model, input=one)["metrics"] == {"l1": 0.0}


def test_a_teacher_of_another_kind_is_named(photos: Path) -> None:
    model = make_resnet()
    with pytest.raises(InputError, match="the teacher is a stylegan2, the model a resnet_transl"):
        evaluate(model, ["l1"], teacher=make_model(), input=photos)
    with pytest.raises(InputError, match="the teacher's in_channels is 1, the model's is 3"):
        evaluate(model, ["l1"], teacher=make_unet(), input=photos)


def test_what_goes_with_other_families_is_named(photos: Path) -> None:
    model = make_resnet()
    with pytest.raises(UsageError, match="--input goes with translators, the model is a stylegan2"):
        evaluate(make_model(), ["macs"], input=photos)
    with pytest.raises(UsageError, match="--truncation goes with latents"):
        evaluate(model, ["l1"], teacher=model, input=photos, truncation_psi=0.5)
    with pytest.raises(UsageError, match="sngan has no truncation"):
        evaluate(make_sngan(), ["l1"], teacher=make_sngan(), samples=4, truncation_psi=0.5)
    with pytest.raises(UsageError, match="macs_published: papers on stylegan2 count as macs"):
        evaluate(make_model(), ["macs_published"])


def test_command(ganc: Ganc, tmp_path: Path, photos: Path) -> None:
    student, teacher = tmp_path / "s.safetensors", tmp_path / "t.safetensors"
    save(make_unet(0), student)
    save(make_unet(1), teacher)
    outcome = ganc(
        "eval", student, "--teacher", teacher, "--input", photos, "--metrics", "l1",
        "--require", "macs_published<=1M", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "warning: --input holds 7 images" in outcome.err
    result = json.loads(outcome.out)
    assert set(result["metrics"]) == {"l1", "macs_published"}
    assert result["settings"]["input"]["images"] == 7
    missing = ganc("eval", student, "--teacher", teacher)
    assert (missing.code, missing.out) == (2, "")
    assert missing.err.endswith("hint: pass --input with a folder or zip of images\n")
