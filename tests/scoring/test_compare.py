"""Two scores side by side: SciPy's rank correlation, sets of kept channels, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import ganc as public
from ganc.checkpoints.store import save
from ganc.commands.score import _tables
from ganc.errors import ScoresError, UsageError
from ganc.models.model import Model
from ganc.scores import Scores
from ganc.scoring.compare import compare_scores, spearman
from ganc.scoring.score import score
from tests.conftest import Outcome, make_model
from tests.test_cli import assert_one_line, scores_of

Ganc = Callable[..., Outcome]

# Few distinct values, so that ties are the rule.
vectors = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
    )
)


def made(hash_: str | None = None, **groups: list[float]) -> Scores:
    return Scores({name: torch.tensor(v) for name, v in groups.items()}, "made", {}, hash_)


@given(vectors)
def test_rank_correlation_is_scipy_s(pair: tuple[list[int], list[int]]) -> None:
    one, other = pair
    found = spearman(torch.tensor(one), torch.tensor(other))
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert found is None
    else:
        expected = scipy.stats.spearmanr(one, other).statistic
        assert found == pytest.approx(expected, abs=1e-12)


def test_groups_and_total_by_hand() -> None:
    a = made(up=[1.0, 2, 3, 4], flat=[5.0, 5], one=[1.0])
    b = made(up=[1.0, 2, 4, 3], flat=[1.0, 2], one=[7.0])
    result = compare_scores(a, b, 0.5)
    up, flat, one = result["groups"]
    assert up.pop("spearman") == pytest.approx(0.8)
    assert up == {"name": "up", "width": 4, "kept": 2, "overlap": 1.0}
    # Equal scores keep the lower index: a keeps channel 0, b channel 1.
    assert flat == {"name": "flat", "width": 2, "kept": 1, "overlap": 0.0, "spearman": None}
    assert one == {"name": "one", "width": 1, "kept": 1, "overlap": 1.0, "spearman": None}
    assert (result["width"], result["kept"], result["prune_ratio"]) == (7, 4, 0.5)
    assert result["overlap"] == 3 / 4
    assert result["spearman"] == pytest.approx(0.8)


def test_total_correlation_is_weighted_by_width() -> None:
    result = compare_scores(made(a=[1.0, 2], b=[1.0, 2, 3, 4]), made(a=[2.0, 1], b=[1.0, 2, 3, 4]))
    assert [group["spearman"] for group in result["groups"]] == pytest.approx([-1, 1])
    assert result["spearman"] == pytest.approx((-1 * 2 + 1 * 4) / 6)
    assert compare_scores(made(a=[1.0]), made(a=[1.0]))["spearman"] is None


def test_a_monotone_change_changes_nothing(model: Model) -> None:
    scores = score(model, "l1-out")
    cubed = Scores({name: v**3 for name, v in scores.values.items()}, "cubed")
    result = public.compare_scores(scores, cubed, prune_ratio=0.6)
    assert result["spearman"] == pytest.approx(1)
    assert result["overlap"] == 1
    other = score(model, "random")
    assert compare_scores(scores, other) == compare_scores(other, scores)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (made("other", a=[1.0, 2]), "another checkpoint (other…, not this…)"),
        (made("this", a=[1.0, 2, 3]), "3 channels in group a, not 2 channels"),
        (made("this", b=[1.0, 2]), "no channels in group a, not 2 channels"),
        (made("this", a=[1.0, 2], b=[1.0]), "1 channels in group b, not no channels"),
    ],
)
def test_scores_of_something_else_are_refused(other: Scores, message: str) -> None:
    with pytest.raises(ScoresError) as caught:
        compare_scores(made("this", a=[1.0, 2]), other)
    assert message in str(caught.value)


def test_unknown_checkpoints_are_compared_by_their_groups() -> None:
    assert compare_scores(made("this", a=[1.0, 2]), made(None, a=[1.0, 3]))["overlap"] == 1
    with pytest.raises(UsageError, match="outside"):
        compare_scores(made(a=[1.0]), made(a=[1.0]), 1.0)


def test_command_compares(ganc: Ganc, checkpoint: Path, tmp_path: Path) -> None:
    other = scores_of(ganc, checkpoint, "l1-out")
    output = tmp_path / "mine.safetensors"
    arguments = ("score", checkpoint, "--method", "random", "-o", output, "--prune-ratio", 0.5)
    result = json.loads(ganc(*arguments, "--compare", other, "--json").out)
    expected = compare_scores(Scores.load(output), Scores.load(other), 0.5)
    assert result["compare"] == {"scores": str(other), "method": "l1-out", **expected}
    assert result["prune_ratio"] == 0.5
    assert {g["name"]: g["kept"] for g in result["groups"]}["b8.conv1"] == 3  # of 5

    table = ganc(*arguments, "--compare", other, "--force").out
    assert f"{expected['overlap']:.4g}" in table.splitlines()[-2]
    assert f"{expected['spearman']:.4g}" in table.splitlines()[-2]


def test_command_refuses_other_scores_before_it_scores(
    ganc: Ganc, checkpoint: Path, tmp_path: Path
) -> None:
    save(make_model(seed=9), tmp_path / "other.safetensors")
    other = scores_of(ganc, tmp_path / "other.safetensors")
    output = tmp_path / "mine.safetensors"
    outcome = ganc("score", checkpoint, "-o", output, "--compare", other)
    assert_one_line(outcome, 3, str(other), "another checkpoint")
    assert "scoring" not in outcome.err
    assert not output.exists()
    outcome = ganc("score", checkpoint, "-o", output, "--compare", checkpoint)
    assert_one_line(outcome, 3, "holds no scores")
    outcome = ganc("score", checkpoint, "-o", "-", "--compare", other)
    assert_one_line(outcome, 2, "--compare", "stdout")


@pytest.mark.parametrize("columns", [80, 160])
def test_tables_fit_the_terminal(columns: int) -> None:
    name, numbers = "discriminator.b1024.conv0", {"width": 512, "kept": 154}
    result = {
        "output": "a/long/folder/" * 12 + "scores.safetensors", "method": "diversity",
        "prune_ratio": 0.7, "plot": "scores.png",
        "groups": [{"name": name, **numbers, "min": 1.234e-11, "mean": 1.234e-10, "max": 1e10}],
        "compare": {
            "scores": "other.safetensors", "method": "l1-out", **numbers, "overlap": 0.98765,
            "spearman": -0.98765,
            "groups": [{"name": name, **numbers, "overlap": 0.98765, "spearman": None}],
        },
    }  # fmt: skip
    console = Console(width=columns, markup=False, emoji=False, highlight=False, record=True)
    for table in _tables(result, "1 225 (auto, of 5 000 at most)"):
        console.print(table)
    text = console.export_text()
    assert all(len(line) <= columns for line in text.splitlines())
    assert "…" not in text
    assert sum(name in line for line in text.splitlines()) == 2
    assert "kept at --prune-ratio 0.7" in text


def test_auto_says_how_many_samples_it_took(ganc: Ganc, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("score", checkpoint, "--method", "activation", "--samples", "auto", "--force")
    arguments += ("--prune-ratio", 0, "--noise-mode", "none")
    output = tmp_path / "s.safetensors"
    result = json.loads(ganc(*arguments, "-o", output, "--json").out)
    # All channels stay at ratio 0, so the first looks settle it.
    assert result["samples"] == Scores.load(output).settings["samples"] < 1000
    taken = f"{result['samples']:,}".replace(",", " ")
    assert f"{taken} (auto, of 1 000 at most)" in ganc(*arguments, "-o", output).out
