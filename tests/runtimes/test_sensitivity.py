"""Layers stay in float where the images are seen to need it, those that save least first."""

from collections.abc import Collection

import torch
from torch import Tensor

from ganc.runtimes.sensitivity import LIMIT, layers_in_float

EXPECTED = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def images(errors: dict[str, float], kept: Collection[str]) -> Tensor:
    """Return images to which each layer in 8 bits adds an error at right angles to the others'."""
    moved = EXPECTED.clone().flatten()
    for i, (name, size) in enumerate(errors.items()):
        if name not in kept:
            moved[i] += size * EXPECTED.std() * len(moved) ** 0.5
    return moved.view_as(EXPECTED)


def chosen(errors: dict[str, float], macs: dict[str, int]) -> list[str]:
    return layers_in_float(macs, lambda kept: images(errors, kept), EXPECTED)


def test_all_are_computed_in_8_bits_where_the_images_stand_it() -> None:
    assert chosen({"a": LIMIT / 2, "b": LIMIT / 2}, {"a": 1, "b": 1}) == []


def test_the_worst_stays_in_float() -> None:
    assert chosen({"a": LIMIT / 3, "b": 2 * LIMIT, "c": LIMIT / 3}, dict.fromkeys("abc", 1)) == [
        "b"
    ]


def test_a_layer_that_saves_little_work_goes_first() -> None:
    errors = {"large": LIMIT, "small": LIMIT}
    assert chosen(errors, {"large": 1000, "small": 1}) == ["small"]


def test_none_is_left_where_none_stands_it() -> None:
    errors = dict.fromkeys("abc", 2 * LIMIT)
    assert sorted(chosen(errors, dict.fromkeys("abc", 1))) == ["a", "b", "c"]
