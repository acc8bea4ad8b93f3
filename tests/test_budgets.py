"""Budgets against brute force: all plans of an allocation, each counted by a network of its own."""

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc.errors import UsageError
from ganc.models.model import ARCHITECTURES, Model
from ganc.pruning.plan import make_plan, prune
from ganc.pruning.slicing import apply_plan, with_widths
from ganc.scores import Scores
from ganc.scoring.score import score
from tests.conftest import Outcome, make_model
from tests.families import FAMILIES, make_unet

Ganc = Callable[..., Outcome]
Widths = dict[str, int]
Options = dict[str, int]

every_family = pytest.mark.parametrize("family", list(FAMILIES))
cached: dict[tuple[str, tuple[int, ...]], tuple[int, int]] = {}


@cache
def source(family: str) -> Model:
    return FAMILIES[family]()


def costs(model: Model, widths: Widths) -> tuple[int, int]:
    """Return MACs and parameters, as a generator that is built at these widths counts its own."""
    own = {name: n for name, n in widths.items() if not name.startswith("discriminator.")}
    key = (model.architecture, tuple(own.values()))
    if key not in cached:
        with torch.device("meta"):
            config = with_widths(model.generator.config, own)
            generator = ARCHITECTURES[model.architecture].generator
            assert generator is not None
            network = generator(**config)
        cached[key] = network.macs(), network.params()
    return cached[key]


def rounded(widths: Mapping[str, int], full: Widths, round_to: int, min_width: int) -> Widths:
    """Round up to a multiple after the least width; never above what is there."""
    result = {}
    for name, width in widths.items():
        wanted = max(width, min_width)
        while wanted % round_to:
            wanted += 1
        result[name] = min(wanted, full[name])
    return result


def uniform_plans(full: Widths, values: Mapping[str, Tensor], min_width: int) -> Iterator[Widths]:
    """Yield all plans, the largest first, in exact arithmetic."""
    for ratio in sorted({Fraction(k, n) for n in full.values() for k in range(n)}):
        yield {name: n - math.floor(ratio * n) for name, n in full.items()}


def global_plans(full: Widths, values: Mapping[str, Tensor], min_width: int) -> Iterator[Widths]:
    """Remove one channel after the other: the least in units of its group's mean."""
    ranked = sorted(
        (float(value / values[name].mean()), name) for name in full for value in values[name]
    )
    left = dict(full)
    yield dict(left)
    for _, name in ranked:
        if left[name] > min_width:
            left[name] -= 1
            yield dict(left)


PLANS = {"uniform": uniform_plans, "global": global_plans}


def check_budget(model: Model, scores: Scores, data: st.DataObject, allocation: str) -> None:
    options = {
        "round_to": data.draw(st.sampled_from([1, 2, 3, 4])),
        "min_width": data.draw(st.sampled_from([1, 2, 3, 9])),
    }
    full = {name: len(values) for name, values in scores.values.items()}
    plans = [
        rounded(widths, full, **options)
        for widths in PLANS[allocation](full, scores.values, options["min_width"])
    ]
    kind = data.draw(st.sampled_from(["macs", "params", "speedup"]))
    counts = [costs(model, widths)[kind == "params"] for widths in plans]
    assert counts == sorted(counts, reverse=True)
    # Exactly a plan's count, one less, or something in between.
    target: float = data.draw(st.sampled_from(counts)) - data.draw(st.sampled_from([0, 1, 0.5]))
    value = counts[0] / target if kind == "speedup" else target
    # The speedup that anybody would compute of two counts is the one that is meant.
    fits = [counts[0] / c >= value if kind == "speedup" else c <= target for c in counts]
    fitting = [i for i, is_met in enumerate(fits) if is_met]
    if not fitting:
        with pytest.raises(UsageError, match="no plan has at most"):
            make_plan(model, scores, allocation=allocation, **{kind: value}, **options)
        return
    plan = make_plan(model, scores, allocation=allocation, **{kind: value}, **options)
    small = apply_plan(model, plan)
    count = small.params() if kind == "params" else small.macs()
    assert costs(model, plan.widths()) == (small.macs(), small.params())
    assert count == max(counts[i] for i in fitting)
    assert plan.widths() == plans[fitting[0]]


@every_family
@pytest.mark.parametrize("allocation", PLANS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_the_largest_plan_within_the_budget(
    family: str, allocation: str, data: st.DataObject
) -> None:
    model = source(family)
    seed = data.draw(st.integers(0, 1000))
    check_budget(model, score(model, "random", seed=seed), data, allocation)


@every_family
def test_a_speedup_that_a_plan_has_is_met_by_it(family: str) -> None:
    model = source(family)
    scores = score(model, "random")
    for step in range(1, 30):  # for two of these 145 quotients, macs / (macs / small) < small
        plan = make_plan(model, scores, prune_ratio=step / 30 - 1e-9)
        small, _ = costs(model, plan.widths())
        again = make_plan(model, scores, speedup=model.macs() / small)
        assert costs(model, again.widths())[0] == small


@pytest.mark.parametrize("speedup", [1e-308, 0.5, 1.0])
def test_no_speedup_removes_nothing(speedup: float) -> None:
    model = make_model()
    assert prune(model, score(model, "l1-in"), speedup=speedup).widths == model.widths


@pytest.mark.parametrize("make", [make_model, make_unet])
@pytest.mark.parametrize("allocation", PLANS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_budgets_are_the_generators_where_both_are_scored(
    make: Callable[[], Model], allocation: str, data: st.DataObject
) -> None:
    model = make()
    check_budget(model, score(model, "random", discriminator=True), data, allocation)


@every_family
@settings(max_examples=6, deadline=None)
@given(
    ratio=st.floats(0, 0.999),
    allocation=st.sampled_from(["uniform", "global"]),
    round_to=st.integers(1, 9),
    min_width=st.integers(1, 9),
)
def test_rounding_and_least_widths(
    family: str, ratio: float, allocation: str, round_to: int, min_width: int
) -> None:
    model = source(family)
    scores = score(model, "l1-in")
    small = prune(
        model, scores, prune_ratio=ratio, allocation=allocation, round_to=round_to,
        min_width=min_width,
    )  # fmt: skip
    exact = prune(model, scores, prune_ratio=ratio, allocation=allocation, min_width=min_width)
    for name, values in scores.values.items():
        width = small.widths[name]
        assert min(min_width, len(values)) <= exact.widths[name] <= width <= len(values)
        assert width == len(values) or width % round_to == 0
        assert width - exact.widths[name] < round_to
    assert (small.macs(), small.params()) == costs(model, small.widths)


def test_dry_run_refuses_what_the_run_would(ganc: Ganc) -> None:
    arguments = ("prune", "absent", "--scores", "absent", "-o", "x.safetensors")
    for wrong, finding in (
        (("--prune-ratio", 1.2), "--prune-ratio 1.2 is outside [0, 1)"),
        (("--prune-ratio", -0.1), "outside [0, 1)"),
        (("--speedup", 0), "--speedup 0 must be a positive number"),
        (("--speedup", "nan"), "--speedup nan"),
        (("--macs", "0"), "--macs 0"),
        (("--macs", "4G", "--params", "3"), "got --macs and --params"),
        (("--macs", "4G", "--allocation", "globl"), "did you mean `global`"),
        (("--macs", "4G", "--round-to", 0), "--round-to 0 is below 1"),
        (("--macs", "4G", "--min-width", 0), "--min-width 0 is below 1"),
    ):
        outcome = ganc(*arguments, *wrong, "--dry-run")
        assert outcome.code == 2, wrong
        assert finding in outcome.err
        assert outcome.out == ""
