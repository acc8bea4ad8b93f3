"""Resampling under affine maps against torch's ``grid_sample``, PIL, NumPy, and its derivatives."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from ganc.ops.affine_warp import affine_warp

IDENTITY = torch.eye(3)


def rand(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def random_maps(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    maps = torch.eye(3, dtype=dtype).repeat(count, 1, 1)
    maps[:, :2, :2] += 0.7 * torch.randn(count, 2, 2, generator=random, dtype=dtype)
    maps[:, :2, 2] = 5 * torch.randn(count, 2, generator=random, dtype=dtype)
    return maps


def sampled_by_torch(images: Tensor, maps: Tensor) -> Tensor:
    height, width = images.shape[2:]
    halves = torch.tensor([(width - 1) / 2, (height - 1) / 2, 1], dtype=maps.dtype)
    theta = maps * halves / halves[:, None]  # torch measures in halves of the image
    grid = F.affine_grid(theta[:, :2], list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=True)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 999)
)
def test_it_samples_as_torch_does(
    height: int, width: int, channels: int, count: int, seed: int
) -> None:
    images, maps = rand(count, channels, height, width), random_maps(count, seed)
    torch.testing.assert_close(affine_warp(images, maps), sampled_by_torch(images, maps))


def test_scaling_up_is_interpolation() -> None:
    images = rand(1, 2, 5, 5)
    halved = torch.diag(torch.tensor([0.5, 0.5, 1], dtype=torch.float64))[None]
    expected = F.interpolate(images, size=(9, 9), mode="bilinear", align_corners=True)
    torch.testing.assert_close(affine_warp(images, halved), expected[:, :, 2:7, 2:7])


def test_a_turn_is_pils() -> None:
    angle = 30
    values = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    turned = Image.fromarray(values).rotate(angle, Image.Resampling.BILINEAR)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    maps = torch.tensor([[[c, -s, 0], [s, c, 0], [0, 0, 1]]])
    found = affine_warp(torch.from_numpy(values)[None, None], maps)[0, 0]
    y, x = np.mgrid[:32, :32] - 15.5
    inside = np.hypot(x, y) < 15  # beyond, PIL has nothing to show
    # PIL rounds its positions to 16 bits after the point.
    np.testing.assert_allclose(found.numpy()[inside], np.asarray(turned)[inside], atol=2e-3)


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (32, 32), (257, 255)])
def test_whole_pixels_are_exact(size: tuple[int, int]) -> None:
    images = rand(2, 3, *size, dtype=torch.float32)
    plain = IDENTITY.repeat(2, 1, 1)
    assert torch.equal(affine_warp(images, plain), images)
    moved = plain.clone()
    moved[:, :2, 2] = torch.tensor([-2.0, 1.0])
    wide = F.pad(images, (2, 2, 1, 1), mode="reflect")
    expected = wide[:, :, 2:, : size[1]]
    assert torch.equal(affine_warp(images, moved), expected)
    mirrored = plain * torch.tensor([-1.0, 1, 1])
    assert torch.equal(affine_warp(images, mirrored), images.flip(3))


def test_a_sample_does_not_depend_on_its_batch_or_its_layout() -> None:
    images, maps = rand(3, 2, 6, 6), random_maps(3, 1)
    together = affine_warp(images, maps)
    for i in range(3):
        assert torch.equal(affine_warp(images[i : i + 1], maps[i : i + 1])[0], together[i])
    strided = images.to(memory_format=torch.channels_last)
    assert torch.equal(affine_warp(strided, maps), together)


def test_it_is_exact_under_autocast() -> None:
    images, maps = rand(2, 3, 64, 64, dtype=torch.float32), random_maps(2, 2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = affine_warp(images, maps)
    assert torch.equal(lowered, affine_warp(images, maps))
    assert affine_warp(images.bfloat16(), maps).dtype == torch.float32


def test_derivatives() -> None:
    images, maps = rand(2, 2, 4, 5).requires_grad_(True), random_maps(2, 3)

    def warped(x: Tensor) -> Tensor:
        return affine_warp(x, maps)

    assert torch.autograd.gradcheck(warped, (images,))
    assert torch.autograd.gradgradcheck(lambda x: warped(x).square(), (images,))
