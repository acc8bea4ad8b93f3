"""The images of a report: the same inputs, the way between them, the size of the page."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from ganc import seeds
from ganc.models import sngan
from ganc.models.sampling import Latents
from ganc.progress import silent
from ganc.report.entry import Entry, in_order
from ganc.report.pictures import (
    LARGEST_SIDE,
    PIXEL_BUDGET,
    between,
    interpolate,
    num_samples,
    samples_gallery,
    shrink,
    slerp,
)
from ganc.sampling import sample
from tests.conftest import make_model


def pixels(uri: str) -> np.ndarray:
    encoded = uri.removeprefix("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        return np.asarray(image)


def test_samples_are_those_of_ganc_sample(entries: list[Entry]) -> None:
    models = in_order(entries)
    gallery = samples_gallery(
        models, Latents(3, "const"), None, device=torch.device("cpu"), progress=silent
    )
    assert gallery is not None
    assert [row.name for row in gallery.rows] == [entry.name for entry in models]
    for entry, row in zip(models, gallery.rows, strict=True):
        images = sample(entry.model, len(row.images), seed=3, device="cpu")
        levels = (images * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        assert np.array_equal(np.stack([pixels(uri) for uri in row.images]), levels.numpy())


@pytest.mark.parametrize("side", [32, 256, 512, 1024])
@pytest.mark.parametrize("models", [1, 2, 5])
def test_number_of_samples_keeps_to_the_budget(side: int, models: int) -> None:
    num = num_samples(side, models)
    assert 4 <= num <= 16
    assert num == 4 or num * models * min(side, LARGEST_SIDE) ** 2 <= PIXEL_BUDGET


def test_ends_of_an_interpolation_are_the_samples() -> None:
    model, latents = make_model(), Latents(5, "const", 0.7)
    path = interpolate(model.generator, latents=latents, positions=torch.tensor([0.0, 0.5, 1.0]))
    ends = sample(model, 2, seed=5, truncation_psi=0.7, device="cpu")
    assert torch.allclose(path[[0, 2]], ends, atol=1e-5)
    z = seeds.normal(5, "latents", range(2), (6,))
    ws = model.generator.mapping(z, None, truncation_psi=0.7)
    middle = model.generator.synthesis(ws.mean(dim=0, keepdim=True))
    assert torch.allclose(path[1:2], middle, atol=1e-5)


def test_a_generator_without_w_is_interpolated_in_z() -> None:
    torch.manual_seed(0)
    generator = sngan.Generator(8, 32, 3).eval()
    path = interpolate(generator, latents=Latents(1, "const"), positions=torch.tensor([0.0, 2.0]))
    z = seeds.normal(1, "latents", [0, 2], (8,))
    with torch.no_grad():
        assert torch.allclose(path, generator(z), atol=1e-5)


def test_slerp_stays_on_the_sphere_at_even_speed() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    third = slerp(a, b, torch.tensor([[1 / 3]]))
    assert torch.allclose(third, torch.tensor([[3**0.5 / 2, 0.5]]))
    assert torch.allclose(slerp(a, a, torch.tensor([[0.4]])), a)


def test_a_path_leads_through_its_keys() -> None:
    keys = torch.tensor([[0.0], [4.0], [2.0]])
    path = between(keys, torch.tensor([0.0, 0.25, 1.0, 1.5, 2.0]), torch.lerp)
    assert path.flatten().tolist() == [0.0, 1.0, 4.0, 3.0, 2.0]


def test_large_images_are_scaled_down_evenly() -> None:
    images = torch.zeros(1, 3, 64, 32)
    assert shrink(images, 16).shape == (1, 3, 16, 8)
    assert shrink(images, 64) is images
