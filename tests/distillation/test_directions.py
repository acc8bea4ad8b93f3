"""Leading directions of the teacher's style weights."""

import numpy as np
import pytest
import torch

from ganc.distillation.trainers.directions import (
    draw_offsets,
    leading_directions,
    similarity_blocks,
)
from ganc.models.model import Model


@pytest.mark.parametrize(
    ("depth", "expected"), [(2, [1]), (3, [2]), (4, [2, 3]), (6, [2, 3, 4, 5]), (9, [2, 3, 4, 5])]
)
def test_blocks_are_clamped_to_the_depth(depth: int, expected: list[int]) -> None:
    assert similarity_blocks(depth, 2, 5) == expected


def test_directions_are_unit_orthogonal_and_leading(model: Model) -> None:
    found = leading_directions(model.generator, 2, 5)
    assert found.shape == (10, model.generator.w_dim)
    block = model.generator.synthesis.b8
    affine = torch.cat([block.conv0.affine.weight, block.conv1.affine.weight]).detach().numpy()
    rows = affine / np.linalg.norm(affine, axis=1, keepdims=True)
    own = found[:5].numpy()
    np.testing.assert_allclose(own @ own.T, np.eye(5), atol=1e-5)
    # NumPy's singular values are the witness: the energy along direction k is the k-th, squared.
    energy = np.square(rows @ own.T).sum(axis=0)
    np.testing.assert_allclose(energy, np.square(np.linalg.svd(rows)[1])[:5], rtol=1e-4)


def test_signs_are_fixed(model: Model) -> None:
    found = leading_directions(model.generator, 2, 3)
    assert (found.gather(1, found.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_offsets_choose_uniformly_and_scale() -> None:
    directions = torch.eye(4)
    choice = torch.tensor([0.0, 0.26, 0.51, 0.999])
    offsets = draw_offsets(directions, choice, torch.tensor([1.0, -1.0, 2.0, 0.0]), 5.0)
    torch.testing.assert_close(offsets, torch.diag(torch.tensor([5.0, -5.0, 10.0, 0.0])))
