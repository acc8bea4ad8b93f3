"""Labels of samples: which rows are drawn, and what fits a model."""

from typing import Any

import pytest
import torch

from ganc import seeds
from ganc.errors import UsageError
from ganc.models.labels import LabelTable, as_table
from ganc.models.sampling import latent_inputs
from tests.conftest import make_model

VECTORS = torch.tensor([[0.5, 1.0], [-2.0, 0.0], [7.0, 7.0]])


@pytest.mark.parametrize("c_dim", [1, 2, 7])
def test_uniform_classes_are_the_first_draw_of_each_samples_stream(c_dim: int) -> None:
    """Written out, so that no table moves the labels that earlier numbers were measured with."""
    generator = make_model(c_dim=c_dim).generator
    indices = range(5, 45)
    drawn = [int(seeds.generator(3, "labels", i).integers(c_dim)) for i in indices]
    c = latent_inputs(generator, indices, 3, noise_mode="none").c
    assert c is not None
    assert torch.equal(c, torch.eye(c_dim)[drawn])


@pytest.mark.parametrize("values", [torch.tensor([1, 0, 1]), VECTORS])
def test_a_sample_takes_the_row_that_its_seed_draws(values: torch.Tensor) -> None:
    table = LabelTable(values)
    rows = [int(seeds.generator(9, "labels", i).integers(3)) for i in range(20)]
    whole = table.rows(range(20), 9, 2)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, (torch.eye(2)[values] if values.ndim == 1 else values)[rows])
    assert torch.equal(table.rows(range(7, 9), 9, 2), whole[7:9])  # no matter what is around it
    assert not torch.equal(table.rows(range(20), 8, 2), whole)


def test_labels_come_as_often_as_the_table_has_them() -> None:
    table = LabelTable(torch.tensor([0] * 19 + [1]))
    share = table.rows(range(2000), 0, 2)[:, 1].mean().item()
    # 2000 draws at 0.05: a standard deviation of 0.0049, four of them.
    assert share == pytest.approx(0.05, abs=0.02)


def test_labels_in_turn() -> None:
    assert torch.equal(as_table(VECTORS).rows([4, 5, 6], 0, 2), VECTORS[[1, 2, 0]])


@pytest.mark.parametrize(
    ("values", "c_dim", "problem"),
    [
        (torch.tensor([0, 1]), 2, None),
        (torch.tensor([0, 1]), 5, None),  # the highest classes need not occur
        (torch.tensor([0, 2]), 2, "class 2, the model takes classes 0 to 1"),
        (VECTORS, 2, None),
        (VECTORS, 3, "vectors of length 2, the model takes vectors of length 3"),
        (VECTORS, 0, "the model takes no labels"),
    ],
)
def test_what_fits(values: torch.Tensor, c_dim: int, problem: str | None) -> None:
    table = LabelTable(values)
    assert table.misfit(c_dim) == problem
    if problem is not None:
        with pytest.raises(UsageError, match=problem):
            table.rows([0], 0, c_dim)


def test_the_hash_names_labels_and_their_order() -> None:
    tables = [torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0, 1, 1]), torch.eye(2)]
    assert len({LabelTable(values).content_hash for values in tables}) == 4
    assert LabelTable(torch.tensor([0, 1])).content_hash == LabelTable(tables[0]).content_hash


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([2, 0], torch.tensor([2, 0])),
        (torch.tensor([2, 0], dtype=torch.uint8), torch.tensor([2, 0])),
        ([[1, 0], [0.5, -2]], torch.tensor([[1.0, 0.0], [0.5, -2.0]])),
        (torch.eye(2, dtype=torch.float64), torch.eye(2)),
    ],
)
def test_written_labels(labels: Any, expected: torch.Tensor) -> None:
    values = as_table(labels).values
    assert values.dtype == expected.dtype
    assert torch.equal(values, expected)


@pytest.mark.parametrize(
    ("labels", "finding"),
    [
        ([], r"labels are float32 \[0\]"),
        ([0.5, 1.0], "labels hold 0.5, which is not a class number"),
        ([float("nan")], "labels hold nan, which is not a class number"),
        ([[0.5], [1.0, 2.0]], "no common form"),
        (["a"], "no common form"),
        ([True, False], "labels are bool"),
        ([-1], "labels hold -1, which is not a class number"),
        ([[float("nan"), 0.0]], "not finite"),
        (torch.tensor([[1e39]], dtype=torch.float64), "not finite in float32"),
    ],
)
def test_labels_that_are_none_are_refused(labels: Any, finding: str) -> None:
    with pytest.raises(UsageError, match=finding):
        as_table(labels)
