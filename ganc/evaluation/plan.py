"""What an evaluation measures: metrics asked for, and those that requirements speak of."""

from collections.abc import Iterable
from dataclasses import dataclass

from ganc.evaluation.metrics import check_metrics
from ganc.evaluation.options import EvalOptions
from ganc.evaluation.requirements import Requirement, check_of_teacher, parse_requirement

DEFAULT_METRICS = ("macs", "params", "latency")
DEFAULT_WITH_TEACHER = (*DEFAULT_METRICS, "l1", "psnr")


@dataclass(frozen=True)
class Plan:
    """What an evaluation measures.

    Attributes:
        metrics: Of the model: those asked for and those that a requirement speaks of.
        teacher_metrics: Of the teacher, as a requirement's bound.
        requirements: To be checked at the end.
    """

    metrics: list[str]
    teacher_metrics: list[str]
    requirements: list[Requirement]

    @property
    def of_teacher(self) -> set[str]:
        """Names of the teacher's values that a requirement speaks of."""
        return {row.value_name for row in self.requirements if row.of_teacher}


def make_plan(
    metrics: Iterable[str] | None,
    require: Iterable[str],
    *,
    has_teacher: bool,
    has_data: bool,
    has_target: bool = False,
    has_labels: bool = False,
) -> Plan:
    """Check everything that can be checked without opening a file.

    Args:
        metrics: Names; None takes cheap ones that always work, or, where ``require`` is given,
            just what that needs.
        require: Conditions, see ``requirements``.
    Raises:
        UsageError: A name is unknown, a condition does not parse, or there is no teacher, or no
            real images, for what needs them.
    """
    requirements = [parse_requirement(text) for text in require]
    if metrics is None and not requirements:
        metrics = DEFAULT_WITH_TEACHER if has_teacher else DEFAULT_METRICS
    wanted = [*(metrics or ()), *(requirement.metric for requirement in requirements)]
    names = check_metrics(wanted, has_teacher=has_teacher, has_data=has_data,
                          has_target=has_target, has_labels=has_labels)  # fmt: skip
    relative = [requirement for requirement in requirements if requirement.of_teacher]
    for requirement in relative:
        check_of_teacher(requirement, has_teacher=has_teacher, has_data=has_data)
    teacher_names = list(dict.fromkeys(requirement.metric for requirement in relative))
    return Plan(names, teacher_names, requirements)


def plan_of(
    metrics: Iterable[str] | None,
    require: Iterable[str],
    options: EvalOptions,
    *,
    has_teacher: bool,
) -> Plan:
    """Return ``make_plan`` of what the options bring along."""
    return make_plan(
        metrics, require, has_teacher=has_teacher, has_data=options.data is not None,
        has_target=options.target is not None,
        has_labels=options.labels is not None and options.segmenter is not None,
    )  # fmt: skip
