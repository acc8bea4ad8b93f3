"""The numbers of a report in plain words."""

from collections.abc import Sequence

from ganc.report.entry import Entry
from ganc.report.tables import times
from ganc.report.values import best, short
from ganc.values import VALUES, diversity_kept


def summarise(entries: Sequence[Entry]) -> list[str]:
    """Return a few sentences: what was compared, what came out best, what is not met.

    Args:
        entries: Teacher first.
    """
    sentences = [_what(entries)]
    students = [entry for entry in entries if not entry.is_teacher]
    name = main_quality(students)
    if name is not None and len(entries) > 1:
        sentences.append(_best_quality(entries, students, name))
    if name is not None and len(students) > 1:
        sentences.append(_front(students, name))
    kept = [diversity_kept(entry.name, entry.metrics) for entry in students]
    return [*sentences, *filter(None, kept), *_unmet(entries)]


def main_quality(entries: Sequence[Entry]) -> str | None:
    """Return the quality that the summary speaks of: one that every model has."""
    for name, shown in VALUES.items():
        if shown.is_quality and entries and all(name in entry.metrics for entry in entries):
            return name
    return None


def front(entries: Sequence[Entry], name: str) -> list[Entry]:
    """Return the models that no other one equals or beats in both quality and cost."""
    sign = -1 if VALUES[name].is_higher_better else 1
    points = {entry.name: (sign * entry.metrics[name], entry.generator.macs()) for entry in entries}

    def is_beaten(entry: Entry) -> bool:
        mine = points[entry.name]
        return any(
            other != mine and other[0] <= mine[0] and other[1] <= mine[1]
            for other in points.values()
        )

    return [entry for entry in entries if not is_beaten(entry)]


def _what(entries: Sequence[Entry]) -> str:
    generator = entries[0].generator
    families = ", ".join(dict.fromkeys(entry.generator.architecture for entry in entries))
    students = [entry for entry in entries if not entry.is_teacher]
    count = f"{len(entries)} models" if len(entries) > 1 else "One model"
    if len(students) < len(entries) and students:
        count = f"{len(students)} students" if len(students) > 1 else "One student"
        count += f" beside {'their' if len(students) > 1 else 'its'} teacher"
    return f"{count}: {families} at {generator.img_resolution} px."


def _best_quality(entries: Sequence[Entry], students: Sequence[Entry], name: str) -> str:
    numbers = {entry.name: entry.metrics[name] for entry in students}
    winners = best(name, numbers) or set(numbers)
    winner = next(entry for entry in students if entry.name in winners)
    side = "highest" if VALUES[name].is_higher_better else "lowest"
    among = f"has the {side} {name} of the students" if len(students) > 1 else f"has {name}"
    teacher = entries[0] if entries[0].is_teacher else None
    if teacher is None:
        among = among.replace("of the students", "of all")
    text = f"{winner.name} {among}, {short(numbers[winner.name])}"
    if len(students) == 1:
        text = f"{winner.name} {among} {short(numbers[winner.name])}"
    if teacher is None:
        return f"{text}, at {short(winner.generator.macs())} MACs per image."
    if name in teacher.metrics:
        text += f" (teacher {short(teacher.metrics[name])})"
    cost = times(teacher.generator.macs() / winner.generator.macs())
    return f"{text}, for {cost} arithmetic ({short(winner.generator.macs())} MACs per image)."


def _front(students: Sequence[Entry], name: str) -> str:
    leaders = [entry.name for entry in front(students, name)]
    if len(leaders) == len(students):
        return f"Every one is a different trade-off between {name} and arithmetic."
    if len(leaders) == 1:
        return f"None of the others needs less arithmetic than {leaders[0]}."
    return f"The best trade-offs of {name} and arithmetic are {_listed(leaders)}."


def _unmet(entries: Sequence[Entry]) -> list[str]:
    rows = [row for entry in entries for row in entry.result.get("requirements", ())]
    if not rows:
        return []
    met = sum(bool(row["met"]) for row in rows)
    if met == len(rows):
        return ["Every requirement is met." if met > 1 else "The requirement is met."]
    return [f"{met} of {len(rows)} requirements are met."]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
