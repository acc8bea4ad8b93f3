"""What the self-test lets pass: answers that are numbers and depend on the image."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ganc.errors import WeightsError
from ganc.weights.probe import probe, probe_images


def mean_colours(images: Tensor) -> Tensor:
    return images.mean(dim=(2, 3))


def test_number_is_the_mean_absolute_answer() -> None:
    expected = mean_colours(probe_images()).abs().mean().item()
    assert probe("x", mean_colours, (3,)) == pytest.approx(expected)
    assert probe("x", mean_colours, (3,), known=expected * 1.0005) > 0


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (lambda x: mean_colours(x)[:, :2], r"answers of shape \[2, 2\].*expected \[2, 3\]"),
        (lambda x: torch.zeros(2, 3), "gives 0 .*expected finite answers that depend on the image"),
        (lambda x: torch.full((2, 3), torch.nan), "gives nan"),
        (lambda x: torch.full((2, 3), torch.inf), "gives inf"),
        (lambda x: torch.tensor([[1.0, 1, 1], [2, 2, 2]]), "spread 0,"),
        (lambda x: torch.tensor([[1.0, 2, 3], [1, 2, 3]]), "difference 0[)]"),
    ],
)
def test_senseless_answers_are_refused(answer: Callable[[Tensor], Tensor], finding: str) -> None:
    with pytest.raises(WeightsError, match=finding):
        probe("x", answer, (3,))


@pytest.mark.parametrize("factor", [0.998, 1.002])
def test_another_number_than_the_known_one_is_refused(factor: float) -> None:
    known = mean_colours(probe_images()).abs().mean().item() * factor
    with pytest.raises(WeightsError, match=f"`x` gives .*, expected {known}"):
        probe("x", mean_colours, (3,), known)
