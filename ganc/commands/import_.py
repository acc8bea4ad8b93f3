"""``ganc import``."""

from typing import Annotated, Any

import typer

from ganc.commands import _shared as shared
from ganc.commands._dash import STDIN
from ganc.commands._options import reader
from ganc.options import parse_setting


def import_(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SRC", help=f"Foreign checkpoints; {STDIN.help}."),
        STDIN,
    ],
    output: shared.Output,
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="Override the detected architecture.")
    ] = None,
    keys: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="KEY",
            help="Pick one of the file's networks, e.g. g or state_dict.decoder; repeatable.",
        ),
    ] = None,
    settings: Annotated[
        list[Any] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Set what the file does not say, e.g. norm_statistics=batch; repeatable.",
            parser=reader(parse_setting),
        ),
    ] = None,
    force: shared.Force = False,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
) -> None:
    """Convert a foreign checkpoint into one ganc checkpoint.

    Several files are joined: a generator from one, its discriminator from another; of a CycleGAN in
    the order G_A, D_A, G_B, D_B.

    Example: ganc import faces.pt -o faces.safetensors
    """
    chosen = dict(settings or ())
    if dry_run:
        resolved = {
            "sources": sources, "output": output, "architecture": architecture,
            "keys": keys or [], "set": chosen,
        }  # fmt: skip
        return shared.emit_settings("import", resolved, as_json)
    shared.check_output(output, force)
    from ganc.checkpoints.store import import_checkpoints

    streams = [shared.opened(source) for source in sources]
    model = import_checkpoints(
        streams, architecture=architecture, keys=keys or (), settings=chosen,
        note=shared.noter(quiet),
    )  # fmt: skip
    shared.save_model(model, output, force)
    inferred = [step["inferred"] for step in model.provenance if "inferred" in step]
    result = {
        "output": output,
        "architecture": model.architecture,
        "networks": [name for name, _ in model.networks()],
        "params": model.params(),
        "macs": model.macs(),
        "inferred": inferred,
    }
    if output != "-":
        shared.emit(result, as_json, lambda: [shared.key_values(_told(result, model.provenance))])
    return None


def _told(result: dict[str, Any], provenance: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the result with what was inferred by file."""
    by_file = {
        f"inferred of {step['source']}": step["inferred"]
        for step in provenance
        if "inferred" in step
    }
    return {name: value for name, value in result.items() if name != "inferred"} | by_file
