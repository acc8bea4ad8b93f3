"""Runs of translators: resuming, new ones, swapped sides, data that cannot serve, processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganc.checkpoints.store import load, save
from ganc.distillation.distill import distill
from ganc.errors import DataError, UsageError
from ganc.launch import process_group
from ganc.models import resnet_translator
from ganc.models.model import Model
from tests import forked
from tests.distillation.test_loop import metrics, tensors
from tests.families import make_cyclegan, make_patchgan, make_resnet, make_unet


def write_images(folder: Path, count: int, *, size: int = 16, mode: str = "RGB", seed: int) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    shape = (count, size, size) + ((3,) if mode == "RGB" else ())
    for i, pixels in enumerate(random.integers(0, 256, shape, dtype=np.uint8)):
        Image.fromarray(pixels, mode).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_images(tmp_path / "data" / "A", 7, seed=1)
    write_images(tmp_path / "data" / "B", 7, seed=2)
    return tmp_path / "data"


def with_dropout() -> Model:
    torch.manual_seed(0)
    generator = resnet_translator.Generator(
        3, 3, img_resolution=16, num_blocks=1, base_width=3, use_dropout=True, norm="batch"
    )
    return Model(generator.eval(), make_patchgan(in_channels=6).discriminator)


TASKS: dict[str, tuple[Callable[[], Model], dict[str, Any]]] = {
    "pix2pix": (with_dropout, {"batch": 2, "feature_weight": 1.0, "l1_weight": 1.0}),
    "cyclegan": (make_cyclegan, {"batch": 2, "pool_size": 3, "feature_weight": 1.0}),
    "one way": (make_resnet, {"batch": 2}),
}


@pytest.mark.parametrize("task", TASKS)
def test_resume_gives_the_losses_of_an_uninterrupted_run(
    data: Path, tmp_path: Path, task: str
) -> None:
    make, overrides = TASKS[task]
    model = make()

    def train(name: str, steps: int, **other: Any) -> None:
        distill(model, model, tmp_path / name, data=data, overrides=overrides, steps=steps,
                device="cpu", **other)  # fmt: skip

    train("whole", 6)
    train("parts", 4)
    train("parts", 6, resume="latest")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    assert tensors(tmp_path / "whole", 6) == tensors(tmp_path / "parts", 6)


def test_a_new_pix2pix_is_trained_and_drawn(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    write_images(pairs / "A", 5, mode="L", seed=1)
    write_images(pairs / "B", 5, seed=2)
    (pairs / "readme.txt").write_text("x")
    small = {"img_resolution": 16, "num_downs": 3, "base_width": 2, "in_channels": 1}
    result = distill(
        None, None, tmp_path / "run", architecture="unet_translator", config=small, data=pairs,
        steps=2, device="cpu",
    )  # fmt: skip
    assert {"paired_l1", "g_adversarial", "d_loss"} <= result.losses.keys()
    made = load(tmp_path / "run" / "student.safetensors")
    step = made.provenance[-1]
    assert (step["data_images"], step["data_left_out"]) == (5, {".txt": 1})
    assert made.discriminator.in_channels == 4
    with Image.open(tmp_path / "run" / "samples" / "2.png") as image:
        assert image.size == (2 * 16, 5 * 16)  # the input, the translation


def test_a_new_cyclegan_is_trained_and_drawn(data: Path, tmp_path: Path) -> None:
    small = {"img_resolution": 16, "num_blocks": 1, "base_width": 2}
    distill(
        None, None, tmp_path / "run", architecture="resnet_translator", config=small, data=data,
        steps=2, device="cpu",
    )  # fmt: skip
    made = load(tmp_path / "run" / "student.safetensors")
    assert [name for name, _ in made.networks()] == [
        "generator", "discriminator", "generator_b", "discriminator_b",
    ]  # fmt: skip
    distill(made, made, tmp_path / "again", data=data, steps=1, device="cpu")
    with Image.open(tmp_path / "again" / "samples" / "1.png") as image:
        assert image.size == (2 * 3 * 16 + 4, 6 * 16)


def test_swapped_sides_are_the_other_direction(data: Path, tmp_path: Path) -> None:
    runs = {"swapped": ("A", "B", True), "turned": ("B", "A", False)}
    for name, (first, second, swap) in runs.items():
        distill(with_dropout(), None, tmp_path / name, data=data / first, data_b=data / second,
                swap=swap, steps=2, device="cpu")  # fmt: skip
    assert metrics(tmp_path / "swapped") == metrics(tmp_path / "turned")


@pytest.mark.parametrize(
    ("make", "part", "error", "message"),
    [
        (make_unet, None, UsageError, "nothing to train it on without --data"),
        (make_cyclegan, "A", DataError, "unpaired training needs two"),
        (with_dropout, "nowhere", DataError, "nowhere"),
    ],
)
def test_data_that_cannot_serve(
    data: Path, tmp_path: Path, make: Callable[[], Model], part: str | None,
    error: type[Exception], message: str,
) -> None:  # fmt: skip
    folder = None if part is None else data / part
    with pytest.raises(error, match=message):
        distill(make(), None, tmp_path / "run", data=folder, steps=1, device="cpu")
    assert not (tmp_path / "run").exists()


def test_translators_options_are_theirs(tmp_path: Path, student: Model, teacher: Model) -> None:
    with pytest.raises(UsageError, match="--unpaired goes with translators"):
        distill(student, teacher, tmp_path / "run", unpaired=True, device="cpu")


# --- several processes


def train_together(path: Path, data: Path, out: Path) -> None:
    overrides = {"batch": 4, "pool_size": 5, "feature_weight": 1.0, "l1_weight": 1.0}
    with process_group():
        distill(path, path, out, data=data, overrides=overrides, steps=5, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pix2pix", "cyclegan"])
def test_two_processes_have_the_losses_of_one(data: Path, tmp_path: Path, task: str) -> None:
    """Batch norm over both, dropout, the pool and the features are those of the global batch."""
    save(TASKS[task][0](), tmp_path / "model.safetensors")
    series = []
    for world in (1, 2):
        out = tmp_path / f"run{world}"
        forked.run_group(world, train_together, tmp_path / "model.safetensors", data, out)
        series.append(metrics(out))
    assert len(series[0]) == 5
    for one, two in zip(*series, strict=True):
        for name in one:  # Adam makes much of the last bit of small gradients
            tolerance = 1e-2 if name.endswith("grad_norm") else 1e-4
            assert one[name] == pytest.approx(two[name], abs=1e-4, rel=tolerance), name
