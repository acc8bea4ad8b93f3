"""``ganc info``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganc.checkpoints.header import Header, read_header
from ganc.commands import _shared as shared

if TYPE_CHECKING:
    from rich.table import Table


def info(ckpt: shared.Checkpoint, as_json: shared.Json = False) -> None:
    """Show what a checkpoint holds: architecture, widths, params, MACs.

    Reads the header alone where the file is ganc's own.

    Example: ganc info faces.safetensors --json
    """
    header = _header(ckpt)
    result = {
        "architecture": header.architecture,
        "resolution": header.resolution,
        "params": header.params,
        "macs": header.macs,
        "widths": header.widths,
        "provenance": header.provenance,
        "config": header.config,
        "content_hash": header.content_hash,
    }
    shared.emit(result, as_json, lambda: _tables(result))


def _header(path: str) -> Header:
    if path != "-" and _is_own(Path(path)):
        return read_header(Path(path))
    from ganc.checkpoints.native import header_of

    return header_of(shared.load_model(path))


def _is_own(path: Path) -> bool:
    """Whether a file's first bytes are those of a safetensors file."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False  # the loader says what is wrong with the path


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
