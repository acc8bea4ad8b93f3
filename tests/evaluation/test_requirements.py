"""The grammar of ``--require``, and what is said when it is broken."""

import pytest

from ganc.errors import UsageError
from ganc.evaluation.plan import make_plan
from ganc.evaluation.requirements import parse_requirement


@pytest.mark.parametrize(
    ("text", "name", "comparison", "bound", "of_teacher"),
    [
        ("fid<=8", "fid", "<=", 8.0, False),
        (" psnr > 23.5 ", "psnr", ">", 23.5, False),
        ("macs<=4.1G", "macs", "<=", 4_100_000_000.0, False),
        ("params<5.6m", "params", "<", 5_600_000.0, False),
        ("params==848499", "params", "==", 848_499.0, False),
        ("l1<2e-3", "l1", "<", 0.002, False),
        ("latency-batch8-p90<=.5k", "latency-batch8-p90", "<=", 500.0, False),
        ("fd<=1.2*teacher", "fd", "<=", 1.2, True),
        ("lpips-diversity >= 0.9 * teacher", "lpips-diversity", ">=", 0.9, True),
        ("latency<teacher", "latency", "<", 1.0, True),
    ],
)
def test_grammar(text: str, name: str, comparison: str, bound: float, of_teacher: bool) -> None:
    row = parse_requirement(text)
    found = (row.value_name, row.comparison, row.bound, row.of_teacher)
    assert found == (name, comparison, bound, of_teacher)
    assert row.expr == text


@pytest.mark.parametrize(
    "text", ["", "fid", "fid=8", "fid<=", "fid<=eight", "8>=fid", "fid<=8X", "fid<=2teacher",
             "fid<=8 and l1<1", "fid<=nan", "fid<=1.2*student"],
)  # fmt: skip
def test_what_does_not_parse_names_the_grammar(text: str) -> None:
    with pytest.raises(UsageError, match="NAME COMPARISON BOUND with one of <=, <, >=, >, =="):
        parse_requirement(text)


def test_unknown_value_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown --require metric `latency-p99`") as caught:
        parse_requirement("latency-p99<=5")
    assert caught.value.hint == "did you mean `latency-p90`?"


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("fd<=8", 8.0, True), ("fd<8", 8.0, False), ("fd>=8", 8.0, True), ("fd>8", 8.0, False),
        ("fd==8", 8.0, True), ("fd==8", 8.5, False), ("fd<=1.5*teacher", 15.0, True),
        ("fd<=1.5*teacher", 15.1, False), ("fd>teacher", 10.1, True),
    ],
)  # fmt: skip
def test_conditions(text: str, value: float, met: bool) -> None:
    row = parse_requirement(text).check({"fd": value}, {"fd": 10.0})
    assert (row["expr"], row["value"], row["met"]) == (text, value, met)


def test_requirements_choose_the_metrics() -> None:
    plan = make_plan(
        ["macs"], ["latency-p90<=5", "params<=0.5*teacher"], has_teacher=True, has_data=False
    )
    assert plan.metrics == ["macs", "latency", "params"]
    assert plan.teacher_metrics == ["params"]
    alone = make_plan(None, ["macs<=1G"], has_teacher=False, has_data=False)
    assert alone.metrics == ["macs"]


@pytest.mark.parametrize(
    ("text", "has_teacher", "has_data", "finding"),
    [
        ("macs<=0.5*teacher", False, False, "compares with the teacher, but there is none"),
        ("l1<=2*teacher", True, True, "l1 compares with the teacher"),
        ("fd<=2*teacher", True, False, "without real images fd compares with the teacher"),
    ],
)
def test_a_teacher_without_a_value_of_its_own(
    text: str, has_teacher: bool, has_data: bool, finding: str
) -> None:
    with pytest.raises(UsageError, match=finding):
        make_plan(None, [text], has_teacher=has_teacher, has_data=has_data)
