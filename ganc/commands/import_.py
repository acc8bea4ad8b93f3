"""``ganc import``."""

import sys
from typing import Annotated

import typer

from ganc.commands import _shared as shared


def import_(
    sources: Annotated[
        list[str], typer.Argument(metavar="SRC", help="Foreign checkpoints; - reads stdin.")
    ],
    output: shared.Output,
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="Override the detection.")
    ] = None,
    force: shared.Force = False,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
) -> None:
    """Convert a foreign checkpoint into one ganc checkpoint.

    Several files are joined: a generator from one, its discriminator from another.

    Example: ganc import faces.pt -o faces.safetensors
    """
    shared.forbid_json_on_stdout(output, as_json)
    if dry_run:
        settings = {"sources": sources, "output": output, "architecture": architecture}
        return shared.emit_settings("import", settings, as_json)
    shared.check_output(output, force)
    from ganc.checkpoints.store import import_checkpoints

    streams = [sys.stdin.buffer if source == "-" else source for source in sources]
    model = import_checkpoints(streams, architecture=architecture, note=shared.noter(quiet))
    shared.save_model(model, output, force)
    inferred = [step.get("inferred", {}) for step in model.provenance]
    result = {
        "output": output,
        "architecture": model.architecture,
        "networks": [name for name, _ in model.networks()],
        "params": model.params(),
        "macs": model.macs(),
        "inferred": inferred,
    }
    if output != "-":
        shared.emit(result, as_json, lambda: [shared.key_values(result)])
    return None
