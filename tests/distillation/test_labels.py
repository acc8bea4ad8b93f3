"""Conditional students: which labels a step, a picture and an evaluation have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ganc import seeds
from ganc.data.grid import make_grid
from ganc.data.images import to_uint8
from ganc.distillation.distill import DistillResult
from ganc.distillation.draws import Draws
from ganc.distillation.grid import side_by_side
from ganc.distillation.reals import open_reals
from ganc.distillation.recipes import resolve_recipe
from ganc.errors import DataError, InputError
from ganc.models.model import Model
from ganc.models.sampling import generate, latent_inputs
from ganc.progress import ignore, silent
from tests.conftest import make_model
from tests.distillation.conftest import pruned
from tests.distillation.test_loop import metrics, tensors
from tests.labelled import write_labelled

Train = Callable[..., DistillResult]
VECTORS = [[i / 4, 1 - i] for i in range(8)]


@pytest.fixture
def models() -> dict[str, Model]:
    teacher = make_model(c_dim=2)
    return {"teacher": teacher, "student": pruned(teacher)}


def test_labels_decide_a_step(tmp_path: Path, train: Train, models: dict[str, Model]) -> None:
    sets = {"classes": [i % 2 for i in range(8)], "vectors": VECTORS}
    for name, labels in sets.items():
        data = write_labelled(tmp_path / f"{name}.zip", labels)
        train(name, steps=2, data=data, **models)
    train("samples", steps=2, **models)
    found = [metrics(tmp_path / name) for name in (*sets, "samples")]
    assert found[0] != found[1] != found[2] != found[0]


@pytest.mark.parametrize("labels", [[0, 1, 1, 0, 2, 0, 1, 1], [[i, 0, -i] for i in range(8)]])
def test_real_images_come_with_their_own_labels(tmp_path: Path, labels: list[Any]) -> None:
    """The networks know three classes, or take three numbers; a set may lack the highest class."""
    generator = make_model(c_dim=3).generator
    labels = labels if isinstance(labels[0], list) else [min(label, 1) for label in labels]
    images = torch.linspace(-1, 1, 8)[:, None, None, None].expand(8, 3, 16, 16)
    data = write_labelled(tmp_path / "set.zip", labels, images)
    recipe = resolve_recipe("gan", {"batch": 8})
    reals = open_reals(
        str(data), generator, None, recipe, Draws(0, 8, torch.device("cpu")),
        resize=False, progress=silent, warn=ignore,
    )  # fmt: skip
    (batch,) = reals.batches(0, 1)
    order = ((batch.images[:, 0, 0, 0] + 1) / 2 * 7).round().long()
    assert sorted(order.tolist()) == list(range(8))
    given = torch.eye(3)[labels] if isinstance(labels[0], int) else torch.tensor(labels)
    assert torch.equal(batch.c, given[order].float())


def test_a_resumed_run_has_the_labels_of_an_uninterrupted_one(
    tmp_path: Path, train: Train, models: dict[str, Model]
) -> None:
    data = write_labelled(tmp_path / "set.zip", VECTORS)
    train("whole", steps=4, data=data, save_every=1, **models)
    train("parts", steps=2, data=data, **models)
    train("parts", steps=4, resume="latest", **models)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    assert tensors(tmp_path / "whole", 4) == tensors(tmp_path / "parts", 4)
    pictures = [(tmp_path / name / "samples" / "4.png").read_bytes() for name in ("whole", "parts")]
    assert pictures[0] == pictures[1]


def test_another_labelling_does_not_resume(
    tmp_path: Path, train: Train, models: dict[str, Model]
) -> None:
    data = write_labelled(tmp_path / "set.zip", VECTORS)
    train(steps=1, data=data, **models)
    write_labelled(data, [*VECTORS[:-1], [9, 9]])  # the images are the same
    with pytest.raises(InputError, match="started with another labelling than given here"):
        train(steps=2, resume="latest", **models)


def test_the_sample_grid_has_labels_of_the_data(
    tmp_path: Path, train: Train, models: dict[str, Model]
) -> None:
    data = write_labelled(tmp_path / "set.zip", VECTORS)
    train(steps=1, data=data, sample_every=9, **models)
    rows = [int(seeds.generator(0, "labels", i).integers(8)) for i in range(32)]
    teacher = models["teacher"].generator
    inputs = latent_inputs(teacher, range(32), 0)
    inputs.c[:] = torch.tensor(VECTORS)[rows]  # type: ignore[index]
    shown = np.asarray(Image.open(tmp_path / "run" / "samples" / "0.png"))
    expected = grid_of(generate(teacher, inputs))
    difference = shown[:, : expected.shape[1]].astype(int) - expected
    assert abs(difference).max() <= 1  # float32 sums in another order move a pixel by a level


def grid_of(images: Tensor) -> np.ndarray[Any, Any]:
    picture = side_by_side([make_grid(images, columns=4, gap=0)], gap=0)
    return to_uint8(picture[None])[0].permute(1, 2, 0).numpy().astype(int)


def test_an_evaluation_is_against_the_labelled_data(
    tmp_path: Path, train: Train, models: dict[str, Model]
) -> None:
    """What the run hands over is what ``ganc.evaluate`` draws labels from."""
    data = write_labelled(tmp_path / "set.zip", VECTORS)
    seen: list[str | None] = []

    def look(request: Any) -> dict[str, float]:
        seen.append(request.data)
        return {"fd": 1.0}

    train(steps=1, data=data, evaluate=look, eval_every=1, **models)
    assert seen == [str(data)] * 2


def test_labels_for_other_networks_are_refused(
    tmp_path: Path, train: Train, models: dict[str, Model]
) -> None:
    data = write_labelled(tmp_path / "set.zip", [[1.0, 2.0, 3.0]] * 8)
    with pytest.raises(
        DataError, match="vectors of length 3, the model takes vectors of"
    ) as caught:
        train(data=data, **models)
    assert "--data teacher" in (caught.value.hint or "")
    with pytest.raises(DataError) as caught:
        train(data=data, recipe="gan", **models | {"teacher": None})
    assert "--data teacher" not in (caught.value.hint or "")  # nobody who could draw them
    unlabelled = write_labelled(tmp_path / "unlabelled.zip", None)
    with pytest.raises(DataError, match=r"dataset\.json: not found"):
        train("none", data=unlabelled, **models)
