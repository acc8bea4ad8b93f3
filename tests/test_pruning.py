"""Plans: ratios, budgets, allocations, and what is refused."""

import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganc import seeds
from ganc.checkpoints.store import load, save
from ganc.errors import ScoresError, UsageError
from ganc.models.model import Model
from ganc.pruning.plan import make_plan, prune
from ganc.pruning.slicing import PrunePlan, apply_plan
from ganc.scores import Scores
from ganc.scoring.mix import Share, mixed
from ganc.scoring.score import score
from tests.conftest import Outcome, make_model
from tests.families import FAMILIES, make_cyclegan

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
        ({"prune_ratio": math.nan}, "not a finite number"),
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


def test_scores_of_nobody_knows_what_are_told_of() -> None:
    told: list[str] = []
    nameless = Scores({g.name: torch.rand(g.width) for g in MODEL.groups if g.prunable}, "hand")
    prune(MODEL, nameless, prune_ratio=0.5, warn=told.append)
    assert told == [
        "the scores do not say of which checkpoint they are: only names and widths are checked"
    ]


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


# Scores that carry a budget of their own.

MAKERS = {**FAMILIES, "cyclegan": make_cyclegan}
EACH = pytest.mark.parametrize("name", list(MAKERS))


def learned(model: Model, seed: int = 0) -> Scores:
    """Probabilities and thresholds as learned gates have them: some near 0, some near 1."""
    random = seeds.generator(seed, "test thresholds")
    values, thresholds = {}, {}
    for group in model.groups:
        if group.prunable:
            own = 1 / (1 + torch.exp(torch.tensor(random.normal(2, 4, group.width))))
            values[group.name] = own
            thresholds[group.name] = own[int(random.integers(group.width))].item()
    return Scores(values, "hand", {"samples": 4}, model.content_hash(), thresholds)


@EACH
def test_scores_with_thresholds_need_no_budget(name: str) -> None:
    model = MAKERS[name]()
    scores = learned(model)
    plan = make_plan(model, scores)
    assert plan.keep == {
        group: tuple(c for c, value in enumerate(values.tolist()) if value >= cut)
        for (group, values), cut in zip(
            scores.values.items(), scores.thresholds.values(), strict=True
        )
    }
    assert plan.settings["allocation"] == "threshold"
    assert prune(model, scores).widths == {**model.widths, **plan.widths()}
    # The plan's prune ratio is that of all scored channels, as another budget would count it.
    again = make_plan(model, scores, prune_ratio=plan.settings["prune_ratio"])
    assert again.keep == plan.keep


@EACH
def test_another_budget_shifts_the_thresholds(name: str) -> None:
    model = MAKERS[name]()
    scores = learned(model, 1)
    plans = [make_plan(model, scores, speedup=speedup) for speedup in (1.2, 1.6, 2.2)]
    for plan, speedup in zip(plans, (1.2, 1.6, 2.2), strict=True):
        assert model.macs() / apply_plan(model, plan).macs() >= speedup
    for larger, smaller in itertools.pairwise(plans):
        assert larger.keep != smaller.keep
        for group, channels in smaller.keep.items():
            assert set(channels) <= set(larger.keep[group])
    # Where everything lies at its threshold or above, nothing below it was needed.
    own = make_plan(model, scores)
    for plan in plans:
        total, kept = (sum(map(len, p.keep.values())) for p in (own, plan))
        inner, outer = (own, plan) if total <= kept else (plan, own)
        assert all(set(inner.keep[g]) <= set(outer.keep[g]) for g in own.keep)


def test_own_budget_goes_with_rounding_and_least_widths() -> None:
    scores = learned(MODEL)
    own = make_plan(MODEL, scores).widths()
    rounded = make_plan(MODEL, scores, round_to=2).widths()
    wide = make_plan(MODEL, scores, min_width=3).widths()
    assert rounded == {g: min(MODEL.widths[g], n + n % 2) for g, n in own.items()}
    assert wide == {g: max(3, n) for g, n in own.items()}
    assert own not in (rounded, wide)


@pytest.mark.parametrize(
    ("scores", "arguments", "finding"),
    [
        (SCORES, {"prune_ratio": 0.5, "allocation": "threshold"}, "these of random have none"),
        (SCORES, {"allocation": "threshold"}, "these of random have none"),
        (SCORES, {}, "only scores that were learned for a budget carry one"),
        (learned(MODEL), {"allocation": "uniform"}, "--allocation uniform needs a budget"),
        (learned(MODEL), {"allocation": "global"}, "--allocation global needs a budget"),
        (learned(MODEL), {"macs": 1e5, "params": 1e5}, "got --macs and --params"),
    ],
)
def test_budgets_that_scores_do_not_carry(
    scores: Scores, arguments: dict[str, Any], finding: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make_plan(MODEL, scores, **arguments)
    assert finding in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_other_allocations_take_scores_with_thresholds(allocation: str) -> None:
    scores = learned(MODEL)
    bare = Scores(scores.values, scores.method)
    arguments: dict[str, Any] = {"speedup": 1.5, "allocation": allocation}
    assert make_plan(MODEL, scores, **arguments).keep == make_plan(MODEL, bare, **arguments).keep


def test_thresholds_in_a_file_and_back() -> None:
    scores = learned(MODEL)
    again = Scores.from_bytes(scores.to_bytes(), "test")
    assert again.thresholds == scores.thresholds
    assert again.to_bytes() == scores.to_bytes()
    assert make_plan(MODEL, again).keep == make_plan(MODEL, scores).keep
    assert Scores.load(io.BytesIO(SCORES.to_bytes())).thresholds == {}
    assert b"thresholds" not in SCORES.to_bytes()  # as before there were any


def test_thresholds_are_of_all_groups_or_none() -> None:
    with pytest.raises(ScoresError, match="every group"):
        Scores({"a": torch.ones(2), "b": torch.ones(2)}, "hand", thresholds={"a": 0.5})
    with pytest.raises(ScoresError, match="every group"):
        Scores({"a": torch.ones(2)}, "hand", thresholds={"a": 0.5, "b": 0.5})


def test_a_mix_has_no_budget_of_its_own() -> None:
    scores = mixed("hand:0.5,random:0.5", [Share(0.5, learned(MODEL)), Share(0.5, SCORES)])
    assert scores.thresholds == {}
    with pytest.raises(UsageError, match="exactly one of"):
        make_plan(MODEL, scores)


def test_command_takes_the_budget_of_the_scores(
    ganc: Callable[..., Outcome], tmp_path: Path
) -> None:
    source, path = tmp_path / "m.safetensors", tmp_path / "s.safetensors"
    save(MODEL, source)
    scores = learned(MODEL)
    scores.save(path)
    words = ("prune", source, "--scores", path, "-o")
    outcome = ganc(*words, tmp_path / "small.safetensors", "--json")
    assert outcome.code == 0, outcome.err
    assert load(tmp_path / "small.safetensors").widths == prune(MODEL, scores).widths
    refused = ganc(*words, tmp_path / "no.safetensors", "--allocation", "uniform")
    assert refused.code == 2
    assert refused.err.startswith("error: --allocation uniform needs a budget")
    SCORES.save(path, force=True)
    for options, finding in (
        (("--prune-ratio", "0.5", "--allocation", "threshold"), "error: --allocation threshold"),
        ((), "error: exactly one of --prune-ratio"),
    ):
        refused = ganc(*words, tmp_path / "no.safetensors", *options)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.startswith(finding)
        assert len(refused.err.splitlines()) == 2  # with its hint
    assert not (tmp_path / "no.safetensors").exists()


@pytest.mark.parametrize("thresholds", ["[1]", "5", '{"a": "high"}', '{"a": null}', "{"])
def test_thresholds_that_are_no_numbers_are_damage(thresholds: str) -> None:
    metadata = {"ganc_scores": "1", "method": "density", "settings": "{}", "content_hash": "",
                "groups": '["a"]', "thresholds": thresholds}  # fmt: skip
    content = safetensors.torch.save({"a": torch.ones(2, dtype=torch.float64)}, metadata)
    with pytest.raises(ScoresError, match="scores is damaged"):
        Scores.from_bytes(content, "scores")
