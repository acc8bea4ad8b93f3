"""Mixes of methods: ranks, weights, settings."""

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.scores import Scores
from ganc.scoring.mix import Share, mixed, normalised_ranks, parse_mix
from ganc.scoring.score import resolve, score

numbers = st.lists(st.integers(0, 5), min_size=2, max_size=12)


@settings(deadline=None)
@given(numbers)
def test_ranks_are_scipys(values: list[int]) -> None:
    got = normalised_ranks(torch.tensor(values, dtype=torch.float64))
    expected = (scipy.stats.rankdata(values) - 1) / (len(values) - 1)
    torch.testing.assert_close(got, torch.from_numpy(expected))


@settings(deadline=None)
@given(numbers, st.floats(0.1, 10))
def test_units_do_not_matter(values: list[int], unit: float) -> None:
    one = torch.tensor(values, dtype=torch.float64)
    assert torch.equal(normalised_ranks(one), normalised_ranks(one * unit))


def test_a_lone_channel_is_in_the_middle() -> None:
    assert normalised_ranks(torch.tensor([7.0])).tolist() == [0.5]


def test_weights_by_hand() -> None:
    a = Scores({"g": torch.tensor([0.0, 1.0, 2.0])}, "a", {"samples": 9}, "hash")
    b = Scores({"g": torch.tensor([5.0, 1.0, 3.0])}, "b", {"samples": 0}, "hash")
    got = mixed("a:3,b:1", [Share(3, a), Share(1, b)])
    assert got["g"].tolist() == pytest.approx([0.25, 0.375, 0.875])
    assert got.content_hash == "hash"
    assert got.settings["samples"] == 9
    assert got.settings["mix"]["a"] == {"weight": 3, "samples": 9}


def test_a_mix_is_its_methods(model: Model) -> None:
    mix = score(model, "diversity:0.7,random:0.3", samples=4, batch=2, num_directions=3, seed=5)
    parts = {
        "diversity": score(model, "diversity", samples=4, batch=2, num_directions=3, seed=5),
        "random": score(model, "random", seed=5),
    }
    for name, values in mix.values.items():
        ranks = [normalised_ranks(part[name]) for part in parts.values()]
        torch.testing.assert_close(values, 0.7 * ranks[0] + 0.3 * ranks[1])
    assert mix.method == "diversity:0.7,random:0.3"
    assert mix.settings["mix"]["diversity"]["samples"] == 4
    assert mix.content_hash == parts["random"].content_hash


def test_a_name_alone_weighs_one() -> None:
    assert parse_mix("diversity") == {"diversity": 1.0}
    assert parse_mix("diversity, content:2") == {"diversity": 1.0, "content": 2.0}


@pytest.mark.parametrize("text", ["a:", "a:x", "a:0", "a:-1", "a:nan", "a:inf"])
def test_weights_are_positive_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="a number above 0"):
        parse_mix(text)


def test_what_a_mix_cannot_be() -> None:
    with pytest.raises(UsageError, match="names random twice"):
        resolve("random:1,random:2")
    with pytest.raises(UsageError, match="unknown method `divrsity`") as caught:
        resolve("divrsity:1,random:1")
    assert "diversity" in str(caught.value.hint)
    with pytest.raises(UsageError, match="takes no --alpha"):
        resolve("random:1,l1-out:1", alpha=3.0)
    with pytest.raises(UsageError, match="takes no --samples"):
        resolve("random:1,l1-out:1", samples=3)
    assert [part.request.samples for part in resolve("random:1,diversity:1", samples=30)] == [0, 30]
