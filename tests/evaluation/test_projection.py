"""Projection: finds what the model can make, gets better with steps, depends on the seed alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ganc.errors import InputError, UsageError
from ganc.evaluation.evaluate import evaluate
from ganc.evaluation.projection import MEAN_OF, shrunk
from ganc.models.model import Model
from ganc.perceptual.distance import load_perceptual
from ganc.sampling import sample
from tests.conftest import make_model
from tests.families import make_sngan, make_stylegan3

from .witnesses import write_images

METRIC = "perceptual-projection"


def project(model: Model, data: Path, steps: int, **settings: Any) -> dict[str, float]:
    values: dict[str, float] = evaluate(
        model, [METRIC], data=data, projection_steps=steps, **settings
    )["metrics"]
    return values


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    """Two images that the model made itself."""
    return write_images(sample(make_model(), 2).clamp(-1, 1), tmp_path / "own")


def test_a_models_own_images_are_found_again(own_images: Path) -> None:
    near, far = (project(make_model(), own_images, steps, projection_images=1) for steps in (40, 1))
    assert near[METRIC] < 0.5 * far[METRIC]
    assert near[f"{METRIC}-psnr"] > far[f"{METRIC}-psnr"] + 5


def test_more_steps_do_not_worsen(own_images: Path) -> None:
    """The loss falls with every step; it is the value and the error of the pixels together."""
    model = make_model()
    found = [project(model, own_images, steps, projection_images=1) for steps in (3, 6, 12)]
    # One image: its mean squared error follows from its decibels.
    losses = [v[METRIC] + 4 * 10 ** (-v[f"{METRIC}-psnr"] / 10) for v in found]
    assert losses == sorted(losses, reverse=True)


def test_images_are_projected_each_by_itself(own_images: Path) -> None:
    model = make_model()
    both, again = (project(model, own_images, 3, noise_mode="const", batch=b) for b in (32, 1))
    assert both == again
    alone = []
    for path in sorted(own_images.iterdir()):
        (folder := own_images.parent / path.stem).mkdir()
        path.rename(folder / path.name)
        alone.append(project(model, folder, 3, noise_mode="const")[METRIC])
    assert both[METRIC] == pytest.approx(sum(alone) / 2, rel=1e-6)
    assert alone[0] != pytest.approx(alone[1], rel=1e-2)


def test_the_first_noise_is_the_seeds(own_images: Path) -> None:
    first, same, other = (project(make_model(), own_images, 1, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert first != other


def test_the_search_starts_from_the_mean_w(own_images: Path) -> None:
    """The noise left alone, one step in w is not far from where the search starts."""
    model = make_model()
    with torch.no_grad():
        w = model.generator.mapping(torch.randn(MEAN_OF, 6)).mean(dim=0, keepdim=True)
        start = model.generator.synthesis(w, noise_mode="const").clamp(-1, 1)
    real = sample(model, 2).clamp(-1, 1)
    with torch.no_grad():
        before = load_perceptual("effnet-lite0")(start.expand_as(real), real).mean().item()
    values = project(model, own_images, 1, noise_mode="const")
    assert 0.5 * before < values[METRIC] < before


def test_protocol_tells_how(own_images: Path) -> None:
    result = evaluate(
        make_model(), [METRIC], data=own_images, projection_images=1, projection_steps=1
    )
    protocol = result["settings"]["protocols"][METRIC]
    assert (protocol["images"], protocol["steps"], protocol["noise"]) == (1, 1, "optimised")
    assert protocol["data"] == result["settings"]["data"]["content_hash"]


def test_a_model_without_noise_is_projected_in_w_alone(tmp_path: Path) -> None:
    model = make_stylegan3()
    data = write_images(sample(model, 1).clamp(-1, 1), tmp_path / "own")
    assert project(model, data, 8)[METRIC] < project(model, data, 1)[METRIC]


def test_what_cannot_be_projected_is_said(own_images: Path) -> None:
    with pytest.raises(UsageError, match="projection: no real images to look for"):
        evaluate(make_model(), ["projection"])
    with pytest.raises(UsageError, match="--projection-steps 0 is too few"):
        project(make_model(), own_images, 0)
    images = write_images(torch.zeros(1, 3, 32, 32), own_images.parent / "other")
    with pytest.raises(InputError, match="needs a model with a mapping network"):
        project(make_sngan(), images, 1)


def test_large_images_are_compared_at_256() -> None:
    image = torch.randn(1, 3, 512, 512)
    torch.testing.assert_close(shrunk(image), torch.nn.functional.avg_pool2d(image, 2))
    assert shrunk(image[:, :, :256, :256]).shape == (1, 3, 256, 256)
