"""``ganc.sample``: the same picture for the same seed, whatever stands around it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganc.errors import InputError, UsageError
from ganc.models.model import Model
from ganc.models.sampling import GENERATORS
from ganc.sampling import beside_inputs, sample
from tests.conftest import make_model
from tests.evaluation.witnesses import write_images
from tests.families import (
    make_cyclegan,
    make_patchgan,
    make_resnet,
    make_sngan,
    make_stylegan3,
    make_unet,
)


def test_sample_depends_on_seed_and_index_alone(model: Model) -> None:
    many = sample(model, 7, batch=3)
    assert many.shape == (7, 3, 16, 16)
    for num, batch in ((1, 1), (2, 1), (5, 16), (6, 2)):
        # Some processors sum the rows of larger batches in another order.
        torch.testing.assert_close(sample(model, num, batch=batch), many[:num], atol=1e-5, rtol=0)
    assert not torch.allclose(sample(model, 2, seed=1), many[:2])


def test_teacher_and_student_share_latents(model: Model) -> None:
    from ganc.pruning.slicing import PrunePlan, apply_plan

    same = apply_plan(model, PrunePlan({"b4.const": range(8)}))
    assert torch.equal(sample(same, 3), sample(model, 3))


def test_labels_are_repeated_and_checked() -> None:
    model = make_model(c_dim=3)
    both = sample(model, 4, labels=[2, 0])
    assert torch.equal(both, sample(model, 4, labels=[2, 0, 2, 0]))
    assert not torch.allclose(both, sample(model, 4, labels=[1]))
    with pytest.raises(UsageError, match="class 3, the model takes classes 0 to 2"):
        sample(model, 1, labels=[3])


@pytest.mark.parametrize("arguments", [{"num": 0}, {"batch": 0}, {"labels": [0]}])
def test_bad_arguments_are_named(model: Model, arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        sample(model, **{"num": 1, **arguments})  # type: ignore[arg-type]


def test_model_stays_as_it_is(model: Model) -> None:
    model.generator.train()
    sample(model, 1)
    assert model.generator.training


# --- other families -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_sngan, make_stylegan3])
def test_families_without_noise_take_every_noise_mode(make: Callable[[], Model]) -> None:
    model = make()
    images = [sample(model, 3, noise_mode=mode) for mode in ("const", "random", "none")]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
    assert torch.equal(sample(model, 2, batch=1), images[0][:2])


def test_sngan_has_no_truncation() -> None:
    with pytest.raises(UsageError, match="sngan has no truncation"):
        sample(make_sngan(), 1, truncation_psi=0.5)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return write_images(images, tmp_path / "photos")


@torch.no_grad()
def test_a_translator_translates_what_it_is_given(photos: Path) -> None:
    model = make_resnet()
    stored = [np.array(Image.open(path)) for path in sorted(photos.iterdir())]
    x = torch.from_numpy(np.stack(stored)).permute(0, 3, 1, 2) / 127.5 - 1
    expected = model.generator(x)
    images = sample(model, 16, input=photos)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    assert torch.equal(sample(model, 2, input=photos, batch=2), images[:2])
    joined = beside_inputs(model, images, photos)
    torch.testing.assert_close(joined, torch.cat([x, expected], dim=3), rtol=0, atol=1e-5)


def test_a_cyclegan_has_two_directions(photos: Path) -> None:
    model = make_cyclegan()
    there, back = (sample(model, 2, input=photos, network=n) for n in GENERATORS)
    assert (there - back).abs().max() > 0.1
    other_way = Model(generator=model.generator_b)
    assert torch.equal(sample(other_way, 2, input=photos), back)


def test_dropout_is_off(photos: Path) -> None:
    model = make_unet()
    model.generator.train()
    assert torch.equal(sample(model, 3, input=photos), sample(model, 3, input=photos))
    assert model.generator.training


@pytest.mark.parametrize(
    ("make", "arguments", "error", "finding"),
    [
        (make_resnet, {}, UsageError, "resnet_translator that translates images, got none"),
        (make_resnet, {"resize": True}, UsageError, "--resize scales the images of --input"),
        (make_resnet, {"network": "generator_b"}, InputError, "holds no generator_b, but gener"),
        (make_resnet, {"network": "generater"}, UsageError, "unknown --network `generater`"),
        (make_patchgan, {}, InputError, "holds no generator, but discriminator"),
    ],
)
def test_what_does_not_go_together_is_named(
    make: Callable[[], Model], arguments: dict[str, Any], error: type[Exception], finding: str
) -> None:
    with pytest.raises(error, match=finding):
        sample(make(), 1, **arguments)


def test_latents_are_not_put_beside_anything(model: Model, photos: Path) -> None:
    with pytest.raises(UsageError, match="a stylegan2 is not given images"):
        beside_inputs(model, sample(model, 1), photos)


def test_what_is_odd_about_inputs_is_said(tmp_path: Path) -> None:
    samples = np.full((16, 16), 4000, dtype=np.uint16)
    Image.fromarray(samples).save(tmp_path / "0.png")
    (tmp_path / "readme.txt").write_text("x")
    said: list[str] = []
    sample(make_resnet(), 1, input=tmp_path, warn=said.append)
    assert [line.partition(": ")[2][:40] for line in said] == [
        "1 file left out, no images: 1 .txt", "the largest value in 1 image of 16 bits ",
    ]  # fmt: skip
