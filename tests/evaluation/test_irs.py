"""``irs``, ``irs-kept`` and ``vendi`` through the whole evaluation."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ganc as library
from ganc.errors import InputError, UsageError
from ganc.evaluation.evaluate import evaluate
from ganc.models.model import Model
from ganc.models.sampling import Latents, iterate_samples
from ganc.values import diversity_kept
from tests.conftest import Outcome, make_model
from tests.families import make_resnet

from .witnesses import Colours, colours, write_images

BOTH = ["irs", "vendi"]


class FewColours(Colours):
    """One of ``modes`` colours, each as likely as the others."""

    def __init__(self, modes: int) -> None:
        super().__init__([0.0] * 3)
        angles = torch.arange(modes) * (2 * torch.pi / modes)
        self.colours = 0.8 * torch.stack([angles.cos(), angles.sin(), torch.zeros(modes)], dim=1)

    def forward(self, z: Tensor, c: Tensor | None = None, **settings: object) -> Tensor:
        share = torch.special.ndtr(z[:, 0].double())  # uniform in 0 … 1
        chosen = self.colours[(share * len(self.colours)).long()]
        return chosen[:, :, None, None].expand(-1, -1, self.img_resolution, self.img_resolution)


def few(modes: int) -> Model:
    return Model(generator=FewColours(modes))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """120 images of one colour each."""
    images = torch.cat(list(iterate_samples(colours(0.0, 0.2).generator, Latents(), 120, batch=8)))
    return write_images(images, tmp_path / "data")


def test_a_collapsed_model_is_caught_by_both(data: Path, mean_colour: str) -> None:
    common = {"data": data, "samples": 100, "features": mean_colour}
    good = evaluate(colours(0.0, 0.2), BOTH, **common)
    near = evaluate(colours(0.3, 0.002), BOTH, **common)["metrics"]
    constant = evaluate(colours(0.3), BOTH, **common)["metrics"]
    values = good["metrics"]
    assert values["irs"] > 0.3
    assert values["vendi"] > 2.5  # of three dimensions
    assert near["irs-inf-high"] < 0.05 < values["irs-inf-low"]
    assert near["vendi"] < 1.01
    assert constant["vendi"] == pytest.approx(1.0)
    for name in ("irs", "irs-inf", "irs-inf-low", "irs-inf-high"):
        assert constant[name] == pytest.approx(1 / 120)
    protocols = good["settings"]["protocols"]
    assert protocols["irs"]["reference"] == "data"
    assert protocols["irs"]["reference_images"] == 120
    assert protocols["vendi"]["generated"] == 100


def test_few_modes_are_counted(mean_colour: str) -> None:
    """The teacher has 24 colours, the student 6 of them; all are retrieved many times."""
    values = evaluate(few(6), BOTH, teacher=few(24), samples=400, features=mean_colour)["metrics"]
    assert values["irs-inf"] * 400 == 6
    assert values["irs-kept"] == 6 / 24
    assert values["irs-kept-low"] <= 6 / 24 <= values["irs-kept-high"]
    # Colours all around a circle: two dimensions, each as much.
    assert values["vendi"] == pytest.approx(2.0, rel=0.02)


def test_without_data_no_sample_retrieves_itself(mean_colour: str) -> None:
    """A copy retrieves what the teacher does; from its own latents it would retrieve everything."""
    model = colours(0.1, 0.3)
    result = evaluate(model, ["irs"], teacher=model, samples=200, features=mean_colour)
    values = result["metrics"]
    assert list(values) == [
        "irs", "irs-inf", "irs-inf-low", "irs-inf-high", "irs-kept", "irs-kept-low",
        "irs-kept-high",
    ]  # fmt: skip
    assert 0.3 < values["irs"] < 0.75
    assert values["irs-kept"] == 1.0
    assert values["irs-kept-low"] < 1.0 < values["irs-kept-high"]
    protocols = result["settings"]["protocols"]
    assert protocols["irs"]["reference"] == "the teacher's samples of another stream"
    assert protocols["irs"]["reference_images"] == 200
    assert protocols["irs"]["teacher"] == model.content_hash()


def test_batch_size_changes_nothing(mean_colour: str) -> None:
    model, teacher = make_model(seed=0), make_model(seed=5)
    metrics = [*BOTH, "kd", "recall"]
    one, other = (
        evaluate(model, metrics, teacher=teacher, samples=30, batch=batch, features=mean_colour)
        for batch in (4, 16)
    )
    assert one["metrics"] == pytest.approx(other["metrics"], rel=1e-5)
    assert one["settings"]["protocols"] == other["settings"]["protocols"]


def test_with_data_both_are_measured_against_it(data: Path, mean_colour: str) -> None:
    common = {"data": data, "samples": 80, "features": mean_colour}
    student, teacher = colours(0.0, 0.02), colours(0.0, 0.2)
    result = evaluate(
        student, ["irs"], teacher=teacher, require=["irs-kept>=0.5", "irs<0.5*teacher"], **common
    )
    alone = evaluate(teacher, ["irs"], **common)["metrics"]
    values = result["metrics"]
    assert values["irs-kept"] == pytest.approx(values["irs-inf"] / alone["irs-inf"])
    assert values["irs-kept-high"] < 0.5
    assert [row["met"] for row in result["requirements"]] == [False, True]
    assert result["teacher_metrics"] == alone
    assert "irs-kept" not in alone


def test_the_teacher_s_column_has_its_own(data: Path, mean_colour: str) -> None:
    models = {"big": colours(0.0, 0.2), "small": colours(0.0, 0.1)}
    teacher, student = evaluate(
        models, ["irs"], teacher=models["big"], data=data, samples=40, features=mean_colour
    )
    assert list(teacher["metrics"]) == ["irs", "irs-inf", "irs-inf-low", "irs-inf-high"]
    kept = student["metrics"]["irs-inf"] / teacher["metrics"]["irs-inf"]
    assert student["metrics"]["irs-kept"] == pytest.approx(kept)


def test_other_seeds_draw_other_references(mean_colour: str) -> None:
    model = colours(0.1, 0.3)
    result = evaluate(
        model, ["irs"], teacher=colours(0.1, 0.2), samples=50, repeats=3, features=mean_colour
    )
    assert result["std"]["irs-kept"] > 0


# --- in words ---------------------------------------------------------------------------------


def test_the_sentence() -> None:
    values = {"irs-kept": 0.934, "irs-kept-low": 0.899, "irs-kept-high": 0.971}
    assert diversity_kept("half", values) == (
        "half keeps 93 % of the teacher's diversity (irs-inf, 95 % interval 90 to 97 %)."
    )
    assert diversity_kept("half", {"irs": 0.5}) is None


def test_table_and_document(ganc: Callable[..., Outcome], tmp_path: Path, mean_colour: str) -> None:
    teacher, student = tmp_path / "big.safetensors", tmp_path / "small.safetensors"
    library.save(make_model(), teacher)
    library.save(make_model(seed=5), student)
    common = ("eval", student, "--teacher", teacher, "--metrics", "irs,vendi", "--samples", "40",
              "--features", mean_colour)  # fmt: skip
    shown = ganc(*common)
    assert shown.code == 0, shown.err
    assert "small keeps " in shown.out
    assert " % of the teacher's diversity (irs-inf, 95 % interval " in shown.out
    gated = ganc(*common, "--require", "irs-kept>=5", "--json")
    assert gated.code == 1
    values = json.loads(gated.out)["metrics"]
    assert values["vendi"] >= 1
    assert 0 < values["irs-kept-low"] <= values["irs-kept"] <= values["irs-kept-high"]


# --- what is refused ------------------------------------------------------------------------------


def test_nothing_to_retrieve_is_one_line(ganc: Callable[..., Outcome], checkpoint: Path) -> None:
    outcome = ganc("eval", checkpoint, "--metrics", "irs")
    assert outcome.code == 2
    assert "irs: neither real images nor a teacher to compare with" in outcome.err
    outcome = ganc("eval", checkpoint, "--require", "irs-kept>=0.9")
    assert outcome.code == 2
    assert "irs-kept: no teacher to compare with" in outcome.err
    outcome = ganc("eval", checkpoint, "--teacher", checkpoint, "--require", "irs>=0.9*teacher")
    assert outcome.code == 2
    assert "hint: pass --data with real images, or require irs-kept" in outcome.err


def test_one_real_image_is_refused(tmp_path: Path, mean_colour: str) -> None:
    data = write_images(torch.zeros(1, 3, 8, 8), tmp_path / "one")
    with pytest.raises(InputError, match="holds 1 image, irs needs 2 or more"):
        evaluate(colours(0.0), ["irs"], data=data, features=mean_colour)


def test_a_translator_needs_real_images(tmp_path: Path, mean_colour: str) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(6, 3, 16, 16, generator=generator) * 2 - 1
    common = {"input": write_images(pictures[:4], tmp_path / "inputs"), "features": mean_colour}
    model, teacher = make_resnet(0), make_resnet(1)
    with pytest.raises(UsageError, match="irs of a translator needs real images, got none"):
        evaluate(model, ["irs"], teacher=teacher, **common)
    data = write_images(pictures, tmp_path / "data")
    values = evaluate(model, ["irs", "vendi"], teacher=teacher, data=data, **common)["metrics"]
    assert 1 / 6 <= values["irs"] <= 4 / 6
    assert values["irs-kept"] > 0
