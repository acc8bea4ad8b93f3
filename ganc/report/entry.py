"""What a report is made of: models with what was measured of them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ganc.errors import InputError, UsageError
from ganc.models.model import Model
from ganc.models.network import ImageGenerator
from ganc.models.sampling import pick_generator


@dataclass(frozen=True)
class Entry:
    """One model of a report.

    Attributes:
        name: What the page calls it; unique within a report.
        model: It is left where and as it is.
        result: What ``ganc.evaluate`` returned for it, JSON data: "metrics", "settings",
            "requirements", "teacher_metrics"; "checkpoint" and "std" ({metric: deviation over
            repeats}) where there are any.
        is_teacher: Whether the others are measured against it; at most one is.
    """

    name: str
    model: Model
    result: Mapping[str, Any]
    is_teacher: bool = False

    @cached_property
    def generator(self) -> ImageGenerator:
        """The network that was measured."""
        return pick_generator(self.model, self.result["settings"]["network"])

    @property
    def metrics(self) -> Mapping[str, float]:
        """Value by name."""
        numbers: Mapping[str, float] = self.result["metrics"]
        return numbers


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries, teacher first, if they can stand on one page.

    Raises:
        UsageError: There is none, two share a name, or two are the teacher.
        InputError: They take inputs of different kinds or sizes, or make images of different sizes:
            nothing could be shown side by side.
    """
    if not entries:
        raise UsageError("a report needs at least one model, got none")
    name, count = Counter(entry.name for entry in entries).most_common(1)[0]
    if count > 1:
        raise UsageError(f"{count} models of the report are called `{name}`", "name them apart")
    teachers = [entry.name for entry in entries if entry.is_teacher]
    if len(teachers) > 1:
        raise UsageError(f"a report has at most one teacher, got {', '.join(teachers)}")
    first = entries[0]
    wanted = first.generator.interface()
    for entry in entries[1:]:
        found = entry.generator.interface()
        if found != wanted:
            raise InputError(
                f"{entry.name} has {found}, {first.name} {wanted}",
                "write a report for each kind of model",
            )
    return sorted(entries, key=lambda entry: not entry.is_teacher)


def short_names(paths: Collection[str]) -> dict[str, str]:
    """Return path → file name without its ending; with ending and folders where names are alike."""
    whole = {path: Path(path) for path in paths if path != "-"}
    shortest = [
        {path: full.stem for path, full in whole.items()},
        {path: full.name for path, full in whole.items()},
        *(
            {path: "/".join(full.parts[-depth:]) for path, full in whole.items()}
            for depth in (2, 3)
        ),
        {path: path for path in whole},
    ]
    names = next(names for names in shortest if len(set(names.values())) == len(names))
    return {path: names.get(path, "stdin") for path in paths}
