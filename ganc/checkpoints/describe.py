"""What a checkpoint says about itself, as plain data."""

from pathlib import Path
from typing import Any, BinaryIO

from ganc.checkpoints.header import Header, is_own, read_header
from ganc.progress import Warn, ignore


def info(source: str | Path | BinaryIO, *, note: Warn = ignore) -> dict[str, Any]:
    """Describe a checkpoint.

    Of ganc's own files the header alone is read, and torch is not imported; a foreign file is
    converted in memory first.

    Args:
        source: A path, or a binary stream.
        note: Told what was inferred from a foreign file.
    Returns:
        JSON data: "architecture", "resolution", "params", "macs", "macs_published" (where the
        family's papers count otherwise), "networks" {name: its counts}, "widths" {group: n},
        "provenance", "config", "content_hash".
    Raises:
        CheckpointError: It cannot be read, is damaged, or is of no known layout.
    """
    header = _header(source, note)
    published = header.macs_published
    return {
        "architecture": header.architecture,
        "resolution": header.resolution,
        "params": header.params,
        "macs": header.macs,
        **({} if published is None else {"macs_published": published}),
        "networks": header.networks,
        "widths": header.widths,
        "provenance": header.provenance,
        "config": header.config,
        "content_hash": header.content_hash,
    }


def _header(source: str | Path | BinaryIO, note: Warn) -> Header:
    if isinstance(source, str | Path) and is_own(Path(source)):
        return read_header(Path(source))
    # Late, so that headers are read without torch.
    from ganc.checkpoints.native import header_of
    from ganc.checkpoints.store import load

    return header_of(load(source, note=note))
