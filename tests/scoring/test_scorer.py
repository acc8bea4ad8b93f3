"""How batches are run: in order, until two halves agree, shared out over processes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.scores import Scores, kept_channels
from ganc.scoring.request import ScoreRequest
from ganc.scoring.score import score
from ganc.scoring.scorer import Scorer, State, batch_ranges, overlap, run
from tests import forked


class Noisy(Scorer):
    """Channel c scores c, plus noise that averages out over the samples."""

    spread = 0.0

    def batches(self) -> Sequence[range]:
        return batch_ranges(self.request.samples, self.request.batch)

    def empty(self) -> State:
        return {g.name: torch.zeros(g.width, dtype=torch.float64) for g in self.groups}

    def step(self, number: int, indices: range) -> State:
        random = torch.Generator().manual_seed(number)
        return {
            g.name: len(indices) * (
                torch.arange(g.width) + self.spread * torch.randn(g.width, generator=random)
            )
            for g in self.groups
        }  # fmt: skip

    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        return {name: (values / samples).clamp(min=0) for name, values in total.items()}


def seen(spread: float, **settings: Any) -> tuple[dict[str, Tensor], int, list[int]]:
    from tests.conftest import make_model

    done: list[int] = []
    request = ScoreRequest(progress=lambda what, n, total: done.append(n), **settings)
    scorer = Noisy(make_model(), request)
    scorer.spread = spread
    found = run(scorer, request)
    return found.values, found.samples, done


def test_batches_add_up_and_are_reported() -> None:
    values, samples, done = seen(0.0, samples=10, batch=3)
    assert samples == 10
    assert done == [3, 6, 10]  # the last batch takes the remainder
    torch.testing.assert_close(values["b8.conv0"], torch.arange(6, dtype=torch.float64))


def test_it_stops_when_two_halves_agree() -> None:
    _, sure, _ = seen(0.0, samples=600, batch=3, until_stable=True)
    _, unsure, _ = seen(1.0, samples=600, batch=3, until_stable=True)
    _, never, _ = seen(1.0, samples=600, batch=3)
    assert sure == 48  # looks at 8 and 16 batches
    assert sure < unsure < never == 600


def test_an_early_stop_keeps_the_channels_of_the_full_run() -> None:
    early, samples, _ = seen(1.0, samples=3000, batch=3, until_stable=True)
    full, _, _ = seen(1.0, samples=3000, batch=3)
    assert samples < 1000
    assert overlap(early, full, 0.7) == 1.0


def test_overlap_by_hand() -> None:
    one = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([1.0, 0.0])}
    other = {"a": torch.tensor([4.0, 1.0, 3.0, 2.0]), "b": torch.tensor([1.0, 0.0])}
    assert kept_channels(one["a"], 0.5) == (2, 3)
    assert overlap(one, other, 0.5) == pytest.approx(2 / 3)
    assert overlap(one, one, 0.5) == 1.0


def test_auto_is_recorded(model: Model) -> None:
    scores = score(model, "l1-out", effective=True, samples="auto", batch=5, prune_ratio=0.5)
    assert scores.settings["until_stable"] is True
    assert scores.settings["prune_ratio"] == 0.5
    taken = scores.settings["samples"]
    assert 80 <= taken < 1000
    same = score(model, "l1-out", effective=True, samples=taken, batch=5)
    assert all(torch.equal(same[name], values) for name, values in scores.values.items())


def test_counts_of_samples_that_cannot_be(model: Model) -> None:
    with pytest.raises(UsageError, match="neither a count nor auto"):
        score(model, "diversity", samples="many")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"--prune-ratio 1 is outside"):
        score(model, "diversity", samples="auto", prune_ratio=1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--method", "diversity", "--samples", "11", "--batch", "2", "--num-directions", "3"),
        ("--method", "l1-out", "--effective", "--samples", "auto", "--batch", "5"),
        ("--method", "l1-out", "--effective", "--samples", "7", "--batch", "3"),
        ("--method", "diversity:1,random:2", "--samples", "6", "--batch", "2"),
        ("--method", "rebuild", "--samples", "30", "--batch", "5"),
    ],
    ids=["diversity", "auto", "effective", "mix", "rebuild"],
)
def test_two_processes_give_the_scores_of_one(
    checkpoint: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    command = ("score", checkpoint, "--json", *options, "-o")
    alone = forked.ganc_group(1, tmp_path, *command, "one").wait()
    shared = forked.ganc_group(2, tmp_path, *command, "two").wait()
    assert [outcome.code for outcome in (*alone, *shared)] == [0, 0, 0], shared
    one, two = (Scores.load(tmp_path / name) for name in ("one", "two"))
    for name, values in one.values.items():
        torch.testing.assert_close(two[name], values, rtol=1e-12, atol=0)
    assert two.settings == one.settings
    assert two.content_hash == one.content_hash
    assert shared[1][1:] == ("", "")  # the other process says nothing
    results = [json.loads(outcomes[0].out) for outcomes in (alone, shared)]
    assert results[0]["samples"] == results[1]["samples"]
