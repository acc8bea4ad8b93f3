"""Plans: ratios, budgets, allocations, and what is refused."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganc.errors import ScoresError, UsageError
from ganc.models.model import Model
from ganc.pruning import PrunePlan, apply_plan, make_plan, prune
from ganc.scores import Scores
from ganc.scoring.score import score
from tests.conftest import make_model

MODEL = make_model()
SCORES = score(MODEL, "random")


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_ratio_removes_int_of_the_product(ratio: float) -> None:
    student = prune(MODEL, SCORES, prune_ratio=ratio)
    for group in MODEL.generator.groups():
        assert student.widths[group.name] == group.width - int(ratio * group.width)
    assert student.widths["discriminator.b8.conv0"] == MODEL.widths["discriminator.b8.conv0"]


def test_highest_scores_stay_and_ties_go_to_the_lower_index() -> None:
    values = dict(SCORES.values)
    values["b8.conv0"] = torch.tensor([1.0, 3, 3, 0, 3, 2])
    plan = make_plan(MODEL, Scores(values, "hand"), prune_ratio=0.67)
    assert plan.keep["b8.conv0"] == (1, 2)


@settings(max_examples=25, deadline=None)
@given(
    share=st.floats(0.15, 1.0),
    kind=st.sampled_from(["macs", "params", "speedup"]),
    allocation=st.sampled_from(["uniform", "global"]),
    round_to=st.sampled_from([1, 2, 3]),
    min_width=st.sampled_from([1, 2]),
)
def test_budgets_are_met_and_not_undercut(
    share: float, kind: str, allocation: str, round_to: int, min_width: int
) -> None:
    full = MODEL.macs() if kind != "params" else MODEL.params()
    smallest_share = 0.45 if kind == "params" else 0.55
    share = max(share, smallest_share)  # what is left at --round-to 3 and one channel
    target = full * share
    value = 1 / share if kind == "speedup" else target
    extra = {"allocation": allocation, "round_to": round_to, "min_width": min_width}
    plan = make_plan(MODEL, SCORES, **{kind: value}, **extra)
    student = apply_plan(MODEL, plan)
    cost = student.params() if kind == "params" else student.macs()
    assert cost <= target
    assert all(n >= min(min_width, MODEL.widths[name]) for name, n in plan.widths().items())
    # The next larger plan of the family does not fit (or this one is the whole model).
    level = plan.settings["prune_ratio"]
    total = sum(g.width for g in MODEL.generator.groups())
    steps = (
        [k / total for k in range(total)] if allocation == "global"
        else [k / g.width for g in MODEL.generator.groups() for k in range(g.width)]
    )  # fmt: skip
    larger = [s for s in steps if s < level - 1e-12]
    if level > 0 and larger:
        ratio = math.nextafter(max(larger), 1.0)
        before = apply_plan(MODEL, make_plan(MODEL, SCORES, prune_ratio=ratio, **extra))
        assert (before.params() if kind == "params" else before.macs()) > target


@pytest.mark.parametrize("round_to", [2, 4])
def test_round_to_rounds_up(round_to: int) -> None:
    student = prune(MODEL, SCORES, prune_ratio=0.6, round_to=round_to)
    for group in MODEL.generator.groups():
        exact = group.width - int(0.6 * group.width)
        width = student.widths[group.name]
        assert exact <= width < exact + round_to
        assert width % round_to == 0 or width == group.width


def test_global_allocation_removes_the_lowest_relative_scores() -> None:
    values = {g.name: torch.ones(g.width) for g in MODEL.generator.groups()}
    values["b4.const"] = torch.tensor([10.0, 10, 10, 10, 10, 1, 2, 10])  # mean 7.875
    plan = make_plan(MODEL, Scores(values, "hand"), prune_ratio=2.01 / 33, allocation="global")
    assert plan.keep["b4.const"] == (0, 1, 2, 3, 4, 7)
    assert all(len(k) == MODEL.widths[n] for n, k in plan.keep.items() if n != "b4.const")


def test_discriminator_is_pruned_only_when_scored() -> None:
    values = {g.name: torch.arange(g.width) + 1.0 for g in MODEL.groups}
    student = prune(MODEL, Scores(values, "hand"), prune_ratio=0.5)
    assert student.widths["discriminator.b16.conv0"] == 3
    assert student.widths["discriminator.b8.conv1"] == 8  # before minibatch standard deviation


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        ({}, "exactly one of"),
        ({"prune_ratio": 0.5, "macs": 1e3}, "exactly one of"),
        ({"prune_ratio": 1.2}, "outside"),
        ({"prune_ratio": -0.1}, "outside"),
        ({"prune_ratio": math.nan}, "outside"),
        ({"macs": 10}, "no plan has at most"),
        ({"params": 0}, "positive"),
        ({"speedup": 1e9}, "no plan has at most"),
        ({"prune_ratio": 0.5, "allocation": "globl"}, "unknown allocation"),
        ({"prune_ratio": 0.5, "round_to": 0}, "--round-to"),
        ({"prune_ratio": 0.5, "min_width": 0}, "--min-width"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], finding: str) -> None:
    with pytest.raises(UsageError, match=finding):
        prune(MODEL, SCORES, **arguments)


def foreign_width() -> Scores:
    return Scores({**SCORES.values, "b8.conv0": torch.ones(9)}, "hand")


def foreign_group() -> Scores:
    return Scores({"b64.conv0": torch.ones(9)}, "hand")


def foreign_hash() -> Scores:
    return score(make_model(seed=5), "random")


@pytest.mark.parametrize("scores", [foreign_width, foreign_group, foreign_hash])
def test_scores_of_another_model_are_refused(scores: Any) -> None:
    with pytest.raises(ScoresError):
        prune(MODEL, scores(), prune_ratio=0.5)


def test_plan_to_json_and_back() -> None:
    plan = make_plan(MODEL, SCORES, prune_ratio=0.5)
    again = PrunePlan.from_json(plan.to_json())
    assert {k: list(v) for k, v in plan.keep.items()} == again.keep
    assert again.settings == plan.settings


def test_provenance_records_the_plan() -> None:
    student: Model = prune(MODEL, SCORES, prune_ratio=0.5)
    step = student.provenance[-1]
    assert step["command"] == "prune"
    assert step["parent"] == MODEL.content_hash()
    assert step["kept"]["b16.conv1"] == list(
        make_plan(MODEL, SCORES, prune_ratio=0.5).keep["b16.conv1"]
    )


def test_scores_must_be_finite_and_non_negative() -> None:
    for bad in (torch.tensor([1.0, math.nan]), torch.tensor([-1.0]), torch.ones(2, 2)):
        with pytest.raises(ScoresError, match="group a"):
            Scores({"a": bad}, "hand")
