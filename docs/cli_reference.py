"""Render ``docs/cli.md`` from the command line's own help.

``python docs/cli_reference.py`` writes the file; the tests compare it.
"""

from pathlib import Path

from typer.testing import CliRunner

from ganc.cli import COMMANDS, app

PAGE = Path(__file__).parent / "cli.md"

HEAD = """# Command line

Generated from `ganc --help` by `docs/cli_reference.py`; do not edit by hand.

stdout carries only the result: a table for a person, or one JSON document with `--json`. Progress,
warnings and errors go to stderr; there are no progress bars off a terminal; `NO_COLOR` is honoured.
`--debug`, anywhere on the line, shows tracebacks.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a `--require` was not met |
| 2 | wrong usage: an unknown flag, method or metric, a bad value, flags that exclude each other |
| 3 | bad input or state: a file, a checkpoint, data, an existing output, missing weights |
| 4 | the computation failed: a non-finite loss, an export that does not match, out of memory |
| 130, 143 | ended by Ctrl-C, by SIGTERM |
"""


def render() -> str:
    """Return the page."""
    parts = [HEAD]
    runner = CliRunner(env={"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"})
    for name in COMMANDS:
        result = runner.invoke(app, [name, "--help"], prog_name="ganc")
        assert result.exit_code == 0, result.output
        text = "\n".join(line.rstrip() for line in result.output.strip().splitlines())
        parts.append(f"## ganc {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render())
