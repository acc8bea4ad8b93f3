"""``ganc info``."""

import sys
from typing import TYPE_CHECKING, Any

from ganc.commands import _shared as shared

if TYPE_CHECKING:
    from rich.table import Table


def info(
    ckpt: shared.Checkpoint, as_json: shared.Json = False, quiet: shared.Quiet = False
) -> None:
    """Show what a checkpoint holds: architecture, widths, params, MACs.

    Reads the header alone where the file is ganc's own.

    Example: ganc info faces.safetensors --json
    """
    from ganc.checkpoints.describe import info as describe

    result = describe(sys.stdin.buffer if ckpt == "-" else ckpt, note=shared.noter(quiet))
    shared.emit(result, as_json, lambda: _tables(result))


def _tables(result: dict[str, Any]) -> list["Table"]:
    from rich.table import Table

    summary = {k: result[k] for k in ("architecture", "resolution", "params", "macs")}
    widths = Table(title="channels per group", title_justify="left")
    widths.add_column("group")
    widths.add_column("width", justify="right")
    for name, width in result["widths"].items():
        widths.add_row(name, str(width))
    steps = Table(title="provenance", title_justify="left")
    for column in ("step", "settings"):
        steps.add_column(column, overflow="fold")
    for step in result["provenance"]:
        shown = {k: v for k, v in step.items() if k not in ("command", "kept")}
        steps.add_row(step["command"], shared.format_value(shown))
    return [shared.key_values(summary), widths, steps]
