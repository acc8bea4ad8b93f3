"""Conditional models against labelled data: whose labels the samples have, and who is told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganc import seeds
from ganc.checkpoints.store import save
from ganc.errors import DataError, InputError
from ganc.evaluation.comparison import compare_results
from ganc.evaluation.evaluate import evaluate
from ganc.models.model import Model
from ganc.models.sampling import generate, latent_inputs
from tests.conftest import make_model
from tests.evaluation.witnesses import Colours
from tests.labelled import write_labelled

RARE = [int(i % 20 == 0) for i in range(200)]
"""95 images of class 0 for 5 of class 1."""

SHIFT = torch.tensor([[-0.4, 0.1, 0.0], [0.6, -0.5, 0.3]])


class LabelColours(Colours):
    """Images of one colour each: spread · z + c · SHIFT."""

    def __init__(self, spread: float = 0.1) -> None:
        super().__init__([0.0] * 3, spread)
        self.c_dim = 2

    def forward(self, z: Tensor, c: Tensor | None = None, **settings: Any) -> Tensor:
        assert c is not None
        return super().forward(z, c, **settings) + (c @ SHIFT)[:, :, None, None]


@pytest.fixture
def own_images(tmp_path: Path) -> Callable[..., Path]:
    """Write a model's images of given labels, with these labels."""

    def write(name: str, labels: list[Any], *, keep_labels: bool = True) -> Path:
        z = seeds.normal(1, "real", range(len(labels)), (3,))
        c = torch.eye(2)[labels] if isinstance(labels[0], int) else torch.tensor(labels)
        images = LabelColours()(z, c).detach()
        return write_labelled(tmp_path / name, labels if keep_labels else None, images)

    return write


def fd_by_hand(real: list[int], drawn: list[int]) -> float:
    """The distance of colours of some labels, by the Gaussians' formula and numpy's square root."""
    sets = []
    for stream, seed, labels in (("real", 1, real), ("latents", 0, drawn)):
        z = seeds.normal(seed, stream, range(len(labels)), (3,)).double()
        sets.append(0.1 * z + torch.eye(2, dtype=torch.float64)[labels] @ SHIFT.double())
    (m, s), (n, t) = ((x.mean(dim=0), x.T.cov()) for x in sets)
    root = torch.linalg.eigvals(s @ t).real.clamp(min=0).sqrt().sum()
    return float((m - n).square().sum() + s.trace() + t.trace() - 2 * root)


def test_samples_have_the_labels_of_the_data(own_images: Any, mean_colour: str) -> None:
    """A model against its own images of unequal classes: near, if its samples are as unequal."""
    model = Model(generator=LabelColours())
    common = {"samples": 200, "features": mean_colour}
    labelled, plain = (
        evaluate(model, ["fd"], data=own_images(f"{keep}.zip", RARE, keep_labels=keep), **common)
        for keep in (True, False)
    )
    draws = [seeds.generator(0, "labels", i) for i in range(200)]
    of_data = fd_by_hand(RARE, [RARE[int(draw.integers(200))] for draw in draws])
    draws = [seeds.generator(0, "labels", i) for i in range(200)]
    uniform = fd_by_hand(RARE, [int(draw.integers(2)) for draw in draws])
    # 8 bits move a colour by 1/255 at most, and its mean by less.
    assert labelled["metrics"]["fd"] == pytest.approx(of_data, rel=0.05, abs=1e-4)
    assert plain["metrics"]["fd"] == pytest.approx(uniform, rel=0.02)
    assert labelled["metrics"]["fd"] < plain["metrics"]["fd"] / 20
    protocols = [r["settings"]["protocols"]["fd"] for r in (labelled, plain)]
    assert [p["labels"] for p in protocols] == ["drawn from the data", "uniform"]
    assert len(protocols[0]["labels_sha256"]) == 64
    assert "labels_sha256" not in protocols[1]
    assert protocols[0]["data"] == protocols[1]["data"]  # the same images


def test_vectors_are_drawn_too(own_images: Any, mean_colour: str) -> None:
    labels = [[i / 40, -i / 80] for i in range(40)]
    model, names = Model(generator=LabelColours()), ["precision", "coverage"]
    labelled, uniform = (
        evaluate(
            model, names, samples=60, features=mean_colour,
            data=own_images(f"{keep}.zip", labels, keep_labels=keep),
        )["metrics"]
        for keep in (True, False)
    )  # fmt: skip
    # Uniform classes are two ends of what the images fill.
    assert all(labelled[name] > 0.8 for name in names), labelled
    assert all(uniform[name] < 0.7 for name in names), uniform


def test_all_metrics_and_the_teacher_share_labels(tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "set.zip", [[0.5, 1.0], [-3.0, 2.0], [0.0, 4.0]])
    model, teacher = make_model(c_dim=2), make_model(c_dim=2, seed=5)
    names = ["l1", "perceptual-diversity", "perceptual-ppl", "perceptual-projection", "kd"]
    common = {"data": data, "samples": 3, "projection_images": 1, "projection_steps": 1}
    result = evaluate(model, [*names, "macs"], teacher=teacher, **common)
    protocols = result["settings"]["protocols"]
    assert len({protocols[name]["labels_sha256"] for name in names}) == 1
    assert "labels" not in protocols["macs"]
    rows = [int(seeds.generator(0, "labels", i).integers(3)) for i in range(3)]
    inputs = latent_inputs(model.generator, range(3), 0)
    inputs.c[:] = torch.tensor([[0.5, 1.0], [-3.0, 2.0], [0.0, 4.0]])[rows]  # type: ignore[index]
    ours, theirs = (generate(m.generator, inputs).clamp(-1, 1) for m in (model, teacher))
    assert result["metrics"]["l1"] == pytest.approx((ours - theirs).abs().mean().item(), rel=1e-5)
    unlabelled = write_labelled(tmp_path / "unlabelled.zip", None, count=3)
    uniform = evaluate(model, names, teacher=teacher, **common | {"data": unlabelled})["metrics"]
    for name in names:
        assert uniform[name] != pytest.approx(result["metrics"][name], rel=1e-3), name
    assert evaluate(model, ["l1"], teacher=model, **common)["metrics"] == {"l1": 0.0}


def test_repeats_draw_other_labels_and_batches_do_not(own_images: Any, mean_colour: str) -> None:
    model = Model(generator=LabelColours(0.0))
    common = {"data": own_images("set.zip", RARE), "samples": 50, "features": mean_colour}
    first, second = (evaluate(model, ["fd"], **common, seed=seed) for seed in (0, 1))
    both = evaluate(model, ["fd"], **common, repeats=2)
    assert [run["fd"] for run in both["repeats"]] == [r["metrics"]["fd"] for r in (first, second)]
    assert first["metrics"]["fd"] != second["metrics"]["fd"]
    for batch in (1, 7):
        again = evaluate(model, ["fd"], **common, batch=batch)["metrics"]["fd"]
        assert again == pytest.approx(first["metrics"]["fd"], rel=1e-5)


def test_unlike_labels_do_not_compare(own_images: Any, mean_colour: str) -> None:
    model = Model(generator=LabelColours())
    sets = [
        own_images("labelled.zip", RARE),
        own_images("plain.zip", RARE, keep_labels=False),
        own_images("other.zip", RARE[::-1]),
    ]
    results = [evaluate(model, ["fd"], data=data, samples=8, features=mean_colour) for data in sets]
    assert compare_results(results[0], results[0], "it")[0]["difference"] == 0
    with pytest.raises(InputError, match="labels is drawn from the data here, uniform"):
        compare_results(results[0], results[1], "it")
    with pytest.raises(InputError, match="labels_sha256 is"):
        compare_results(results[0], results[2], "it")


def test_unconditional_models_read_no_labels(tmp_path: Path, mean_colour: str) -> None:
    data = write_labelled(tmp_path / "set.zip", [0, 1])
    result = evaluate(make_model(), ["fd"], data=data, samples=4, features=mean_colour)
    assert "labels" not in result["settings"]["protocols"]["fd"]


def test_labels_for_another_model_end_an_evaluation(tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "set.zip", [[1.0, 2.0, 3.0]] * 3)
    with pytest.raises(
        DataError, match=r"set\.zip: .*vectors of length 3, .* of length 2"
    ) as caught:
        evaluate(make_model(c_dim=2), ["macs"], data=data)
    assert '{"labels": null}' in (caught.value.hint or "")


def test_a_report_shows_the_labels_of_the_data(ganc: Any, tmp_path: Path) -> None:
    """The pictures of a set of one class are those of that class."""
    pytest.importorskip("matplotlib")
    save(make_model(c_dim=2), model := tmp_path / "model.safetensors")
    pages = []
    for name, labels in {"ones": [1] * 4, "one-hot": [[0, 1]] * 4, "none": None}.items():
        data = write_labelled(tmp_path / f"{name}.zip", labels, count=4)
        page = tmp_path / f"{name}.html"
        arguments = ("--data", data, "--metrics", "macs", "--report", page, "--json")
        assert json.loads(ganc("eval", model, *arguments).out)["metrics"]["macs"] > 0
        pages.append(page.read_text().split("data:image/png;base64,")[1:17])
    assert pages[0] == pages[1]
    assert pages[0] != pages[2]
