"""Headings in a command's help: many options read as several short lists."""

from collections.abc import Iterable
from typing import Any

from ganc.commands._dash import DashCommand
from ganc.options import EXECUTION, OUTPUT

MAIN = "Options"
"""Heading of what has none of its own."""

MANY = 20
"""Options up to which a command shows one list."""


def sections_of(parameters: Iterable[Any]) -> dict[str, list[Any]]:
    """Return heading → a command's options under it: those without one first, output last."""
    options = [p for p in parameters if p.param_type_name == "option"]
    if len(options) <= MANY:
        return {MAIN: options}
    found: dict[str, list[Any]] = {MAIN: []}
    for parameter in options:
        found.setdefault(getattr(parameter, "rich_help_panel", None) or MAIN, []).append(parameter)
    last = {heading: found.pop(heading) for heading in (EXECUTION, OUTPUT) if heading in found}
    return found | last


class SectionedCommand(DashCommand):
    """A command whose help has headings; plain text, which is there at once."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, section by section."""
        parameters = self.get_params(ctx)
        lists = {"Arguments": [p for p in parameters if p.param_type_name == "argument"]}
        for heading, members in (lists | sections_of(parameters)).items():
            records = [record for p in members if (record := p.get_help_record(ctx))]
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
