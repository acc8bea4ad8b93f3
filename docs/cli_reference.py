"""Render ``docs/cli.md`` from the command line's own help.

``python docs/cli_reference.py`` writes the file; the tests compare it.
"""

import inspect
from pathlib import Path
from typing import Any

from typer.main import get_command

from ganc.cli import COMMANDS, app
from ganc.commands._sections import MAIN, sections_of
from ganc.errors import EXIT_CODES

PAGE = Path(__file__).parent / "cli.md"

HEAD = """# Command line

Generated from `ganc --help` by `docs/cli_reference.py`; do not edit by hand.

stdout carries only the result: a table for a person, or one JSON document with `--json`. Progress,
warnings and errors go to stderr; there are no progress bars off a terminal; `NO_COLOR` is honoured.
`--debug`, anywhere on the line, shows tracebacks.

`-` as a path is stdin or stdout where the option says so, and wrong usage elsewhere; a file of that
name is `./-`. A stream goes to one option: with `-o -` there is no table and no `--json`.

    ganc import faces.pt -o - | ganc info - --json | jq .macs
    ganc eval small.safetensors --teacher faces.pt --report - --quiet > report.html

## Exit codes

| code | meaning |
|---|---|
{codes}

A requirement that is not met gives 1 even where the reader stops early: under `set -o pipefail`,
`ganc eval … --require … | head -1` is 1 then and only then.
"""


def render() -> str:
    """Return the page."""
    commands = get_command(app).commands
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    head = HEAD.format(codes=codes)
    return "\n".join([head, *(section(name, commands[name]) for name in COMMANDS)])


def section(name: str, command: Any) -> str:
    """Return one command's part: its help text, then a table of what it takes."""
    arguments = [
        parameter.metavar if parameter.required else f"[{parameter.metavar}]"
        for parameter in command.params
        if parameter.param_type_name == "argument"
    ]
    text, _, example = inspect.cleandoc(command.help).partition("\n\nExample: ")
    example = " ".join(example.split())
    usage = " ".join(["ganc", name, *arguments, "[OPTIONS]"])
    return f"## ganc {name}\n\n    {usage}\n\n{text}\n\n    {example}\n\n{tables(command)}\n"


def tables(command: Any) -> str:
    """Return one table per heading of the command's help."""
    given = [p for p in command.params if p.param_type_name == "argument"]
    parts = []
    for heading, options in sections_of(command.params).items():
        members = given + options if heading == MAIN else options
        head = [] if heading == MAIN else [f"{heading}:", ""]
        parts.append("\n".join([*head, "| | default | |", "|---|---|---|", *map(row, members)]))
    return "\n\n".join(parts)


def row(parameter: Any) -> str:
    """Return one parameter's table row."""
    if parameter.param_type_name == "argument":
        names = parameter.metavar
    else:
        names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    default = "required" if parameter.required else parameter.default
    shown = "" if default in (None, False) else str(default)
    about = " ".join((parameter.help or "").split()).replace("|", "\\|").replace("<", "&lt;")
    return f"| `{names}` | {shown} | {about} |"


if __name__ == "__main__":
    PAGE.write_text(render())
