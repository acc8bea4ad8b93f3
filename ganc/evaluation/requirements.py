"""``--require``: conditions on metrics, for pipelines.

Grammar: NAME COMPARISON BOUND; NAME a value that ``ganc eval`` prints (``fid``, ``latency-p90``),
COMPARISON one of <=, <, >=, >, ==, BOUND a number with an optional K, M, G or T (``macs<=4.1G``),
or a multiple of the teacher's own value (``fd<=1.2*teacher``, ``fd<teacher``).
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ganc.errors import UsageError, unknown_name
from ganc.evaluation.metrics import METRICS, value_names
from ganc.options import scaled

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
}

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_PATTERN = re.compile(
    rf"(?P<name>[a-z][a-z0-9_-]*)\s*(?P<comparison><=|>=|==|<|>)\s*"
    rf"(?:(?P<number>{_NUMBER})(?P<suffix>[KMGT]?)|(?:(?P<factor>{_NUMBER})\s*\*\s*)?teacher)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Requirement:
    """A condition.

    Attributes:
        expr: As the user wrote it.
        value_name: The value it is about.
        comparison: A key of ``COMPARISONS``.
        bound: A number, or the factor of the teacher's value.
        of_teacher: Which of the two.
    """

    expr: str
    value_name: str
    comparison: str
    bound: float
    of_teacher: bool

    @property
    def metric(self) -> str:
        """The metric that the value comes from."""
        return value_names()[self.value_name]

    def check(
        self, values: Mapping[str, float], teacher_values: Mapping[str, float]
    ) -> dict[str, Any]:
        """Return the row that reports it: expr, value, bound, met."""
        value = values[self.value_name]
        bound = self.bound * teacher_values[self.value_name] if self.of_teacher else self.bound
        met = COMPARISONS[self.comparison](value, bound)
        return {"expr": self.expr, "value": value, "bound": bound, "met": met}


def parse_requirement(text: str) -> Requirement:
    """Read one condition.

    Raises:
        UsageError: It does not follow the grammar, or names an unknown value.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"--require `{text}` is not NAME COMPARISON BOUND with one of {', '.join(COMPARISONS)}",
            "for example --require 'fd<=80', 'macs<=4.1G' or 'fd<=1.2*teacher'",
        )
    name, of_teacher = match["name"], match["number"] is None
    if name not in value_names():
        raise unknown_name("--require metric", name, value_names())
    number, suffix = (match["factor"] or "1", "") if of_teacher else match.group("number", "suffix")
    try:
        bound = scaled(number, suffix)
    except ValueError as error:
        raise UsageError(f"--require `{text}`: the bound is not a finite number") from error
    return Requirement(text, name, match["comparison"], bound, of_teacher)


def check_of_teacher(requirement: Requirement, *, has_teacher: bool, has_data: bool) -> None:
    """Check that the teacher has a value of its own to be measured by.

    Raises:
        UsageError: There is no teacher, or the value is a comparison with the teacher itself.
    """
    metric = METRICS[requirement.metric]
    needs = metric.needs
    if not has_teacher:
        raise UsageError(
            f"--require `{requirement.expr}` compares with the teacher, but there is none",
            "pass --teacher CKPT",
        )
    if needs == "teacher":
        raise UsageError(
            f"--require `{requirement.expr}`: {requirement.metric} compares with the teacher, which"
            " has no value of its own",
            "give a number",
        )
    if needs == "reference" and not has_data:
        other = f"require {metric.beside_teacher}" if metric.beside_teacher else "give a number"
        raise UsageError(
            f"--require `{requirement.expr}`: without real images {requirement.metric} compares"
            " with the teacher, which has no value of its own",
            f"pass --data with real images, or {other}",
        )
