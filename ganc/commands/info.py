"""``ganc info``."""

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

    result = describe(shared.opened(ckpt), note=shared.noter(quiet))
    shared.emit(result, as_json, lambda: _tables(result))


def _tables(result: dict[str, Any]) -> list["Table"]:
    from rich.table import Table

    names = ("architecture", "resolution", "params", "macs", "macs_published")
    summary = {name: result[name] for name in names if name in result}
    summary["networks"] = list(result["networks"])
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
    several = [_networks(result["networks"])] if len(result["networks"]) > 1 else []
    return [shared.key_values(summary), *several, widths, steps]


def _networks(networks: dict[str, dict[str, Any]]) -> "Table":
    from rich.table import Table

    table = Table(title="networks", title_justify="left")
    told = {name for counts in networks.values() for name in counts}
    columns = [name for name in ("params", "macs", "macs_published") if name in told]
    for column in ("network", "architecture"):
        table.add_column(column)
    for column in columns:
        table.add_column(column, justify="right")
    for name, counts in networks.items():
        numbers = [shared.format_value(counts.get(column)) for column in columns]
        table.add_row(name, counts["architecture"], *numbers)
    return table
