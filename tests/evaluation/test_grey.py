"""Grey models: every network for colour sees their one channel three times, and says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganc.errors import InputError
from ganc.evaluation.evaluate import evaluate
from ganc.evaluation.metrics import METRICS
from ganc.models.model import Model
from tests.conftest import make_model
from tests.evaluation.witnesses import write_images
from tests.families import in_colour, make_resnet
from tests.labelled import write_labelled
from tests.weights.random_weights import install, published_trunk, random_lpips

REPEATED = {"channels": "1, repeated to 3"}
SETS = ["fd", "kd", "precision", "recall", "density", "coverage", "irs", "vendi"]
PAIRS = ["perceptual", "perceptual-diversity", "perceptual-ppl"]


@pytest.fixture
def grey_images(tmp_path: Path) -> Path:
    images = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return write_labelled(tmp_path / "grey.zip", None, images)


@pytest.fixture
def colour_images(tmp_path: Path) -> Path:
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    images[:, 0] = 1.0  # reddish: no luma has this mean colour
    return write_images(images, tmp_path / "colour")


@pytest.fixture
def squeeze(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = published_trunk(random_lpips("squeeze").net.state_dict())
    install(monkeypatch, "squeezenet1_1", lambda path: torch.save(tensors, path))


def measure(model: Model, teacher: Model, names: list[str], **other: Any) -> dict[str, Any]:
    return evaluate(model, names, teacher=teacher, samples=6, **other)


def test_grey_is_colour_with_three_equal_channels(grey_images: Path) -> None:
    model, teacher = make_model(img_channels=1), make_model(img_channels=1, seed=5)
    names = [*SETS, *PAIRS, "perceptual-projection"]
    common = {"data": grey_images, "projection_images": 1, "projection_steps": 2}
    grey = measure(model, teacher, names, **common)
    colour = measure(in_colour(model), in_colour(teacher), names, **common)
    # The same images, but for the order of the sums in toRGB; ppl's steps are so short that this
    # order moves it by up to 1e-3 (see ``ppl.BLOCK``).
    for name, value in colour["metrics"].items():
        tolerance = 2e-3 if "ppl" in name else 1e-5
        assert grey["metrics"][name] == pytest.approx(value, rel=tolerance), name
    for name in names:
        assert grey["settings"]["protocols"][name].items() >= REPEATED.items()
        assert "channels" not in colour["settings"]["protocols"][name]


@pytest.mark.usefixtures("squeeze")
def test_lpips_of_grey_images_is_that_of_equal_channels() -> None:
    model = make_model(img_channels=1)
    narrow = [evaluate_lpips(m) for m in (model, in_colour(model))]
    assert narrow[0]["metrics"] == pytest.approx(narrow[1]["metrics"], rel=1e-5)
    assert narrow[0]["settings"]["protocols"]["lpips-diversity"].items() >= REPEATED.items()


def evaluate_lpips(model: Model) -> dict[str, Any]:
    """Measure at 32 px: the trunk takes no 16."""
    generator = model.generator
    forward = generator.forward

    def enlarged(*arguments: Any, **settings: Any) -> torch.Tensor:
        return forward(*arguments, **settings).repeat_interleave(2, 2).repeat_interleave(2, 3)

    generator.forward = enlarged  # type: ignore[method-assign]
    generator.img_resolution = 32
    return evaluate(model, ["lpips-diversity"], samples=4, perceptual="lpips-squeeze")


def test_colour_data_become_grey_before_they_are_compared(
    colour_images: Path, tmp_path: Path, mean_colour: str
) -> None:
    """By Pillow's luma (ITU-R 601), and neither set's statistics pass for the other's."""
    luma = tmp_path / "luma"
    luma.mkdir()
    for path in colour_images.iterdir():
        Image.open(path).convert("L").save(luma / path.name)
    grey, names = make_model(img_channels=1), ["fd", "kd"]

    def against(data: Path, model: Model = grey) -> dict[str, Any]:
        return measure(model, model, names, data=data, features=mean_colour)

    own, by_hand = against(colour_images), against(luma)
    assert own["metrics"] == by_hand["metrics"]
    colour = against(colour_images, in_colour(grey))
    assert colour["metrics"]["fd"] != pytest.approx(own["metrics"]["fd"], rel=0.01)
    assert against(colour_images)["metrics"] == own["metrics"]  # all from the cache now
    references = [r["settings"]["protocols"]["fd"]["data"] for r in (own, colour)]
    assert references[0] != references[1]


def test_a_segmenter_is_shown_three_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bright.py").write_text(
        "def classes(images):\n"
        "    assert images.shape[1] == 3 and (images[:, :1] == images).all()\n"
        "    return (images[:, 0] > 0).long()\n"
    )
    monkeypatch.chdir(tmp_path)
    inputs = write_images(torch.zeros(2, 3, 16, 16), tmp_path / "inputs")
    (tmp_path / "labels").mkdir()
    for path in inputs.iterdir():
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "labels" / path.name)
    result = evaluate(
        make_resnet(img_channels=1), ["miou"], input=inputs, labels=tmp_path / "labels",
        segmenter="bright:classes",
    )  # fmt: skip
    assert result["settings"]["protocols"]["miou"].items() >= REPEATED.items()


@pytest.mark.parametrize("name", [*SETS, "fid", "kid", "lpips-diversity", "perceptual", "ppl"])
def test_an_alpha_channel_is_refused_before_weights_are_looked_for(name: str) -> None:
    assert name in METRICS
    model = make_model(img_channels=4)
    with pytest.raises(InputError, match=f"^{name} needs images of 1 or 3 channels"):
        evaluate(model, [name], teacher=model)
