"""Figures that benchmarks measure, as JSON beside the tables that people read."""

import argparse
import json
from pathlib import Path
from typing import Any

import filelock


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark write its figures into a file that others write to as well."""
    parser.add_argument("--figures", type=Path, help="JSON file that gets the figures as well")


def record(path: Path | None, benchmark: str, **figures: Any) -> None:
    """Add one row of figures to a JSON list on disk, at once: a run may be cut short.

    Args:
        path: The file; None records nothing.
        benchmark: What was measured.
        figures: Name → number, text or list of them; units stand in the names.
    """
    if path is None:
        return
    with filelock.FileLock(f"{path}.lock"):
        rows = json.loads(path.read_text()) if path.exists() else []
        whole = path.with_suffix(".part")
        whole.write_text(json.dumps([*rows, {"benchmark": benchmark, **figures}], indent=1))
        whole.replace(path)
