"""The pass that all metrics share."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganc.evaluation.sampling import RunningMean, batch_ranges
from ganc.models.sampling import BATCH_UNIT


@given(st.lists(st.integers(0, 60), max_size=4), st.integers(1, 40))
def test_ranges_cover_everything_once_and_stop_at_each_limit(limits: list[int], batch: int) -> None:
    ranges = list(batch_ranges(limits, batch, BATCH_UNIT))
    assert [i for indices in ranges for i in indices] == list(range(max(limits, default=0)))
    assert {limit for limit in limits if limit} <= {indices.stop for indices in ranges}
    assert all(0 < len(indices) <= max(batch, BATCH_UNIT) for indices in ranges)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(1, 40), st.integers(1, 40))
def test_what_is_not_a_whole_block_is_the_same_at_every_batch(
    limits: list[int], one: int, other: int
) -> None:
    """Whole blocks of rows give the same bits however many there are; the rest must not move."""

    def rest(batch: int) -> list[range]:
        return [r for r in batch_ranges(limits, batch, BATCH_UNIT) if len(r) % BATCH_UNIT]

    assert rest(one) == rest(other)


def test_without_blocks_a_batch_is_what_was_asked_for() -> None:
    assert list(batch_ranges([5], 2, 1)) == [range(2), range(2, 4), range(4, 5)]


def test_running_mean_is_numpys() -> None:
    values = torch.linspace(-1, 3, 101).square()
    mean = RunningMean()
    for part in values.split(7):
        mean.update(part)
    exact = values.double().numpy()
    assert mean.mean == pytest.approx(exact.mean(), rel=1e-12)
    assert mean.ci95 == pytest.approx(1.96 * exact.std(ddof=1) / np.sqrt(101), rel=1e-9)
