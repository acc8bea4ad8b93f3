"""``ganc export``."""

import dataclasses
from typing import Annotated

import typer

from ganc.commands import _shared as shared
from ganc.exporters.formats import ABOUT


def export(
    ckpt: shared.Checkpoint,
    output: shared.Output,
    format: Annotated[
        str,
        typer.Option("--format", help=f"{shared.choices(ABOUT)}."),
    ] = "onnx",
    inputs: Annotated[
        str | None,
        typer.Option(
            "--inputs", help="What the file takes: z (default) or ws; of translators x, images."
        ),
    ] = None,
    network: shared.Network = "generator",
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="Precision, of onnx and openvino; files of other formats are fp32.",
        ),
    ] = "fp32",
    opset: Annotated[
        int | None, typer.Option("--opset", help="ONNX operator set, 18 (default) to 23.")
    ] = None,
    force: shared.Force = False,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
) -> None:
    """Write a deployable file and check it against PyTorch.

    The file is loaded in its own runtime and compared on fresh inputs at other batch sizes.

    Example: ganc export small.safetensors -o small.onnx
    """
    options = {
        "format": format,
        "inputs": inputs,
        "network": network,
        "dtype": dtype,
        "opset": opset,
    }
    if dry_run:
        settings = {"checkpoint": ckpt, "output": output, **options}
        return shared.emit_settings("export", settings, as_json)
    from ganc.exporters.export import export as export_model
    from ganc.exporters.export import resolve
    from ganc.exporters.format import ExportSettings

    shared.check_output(output, force)
    resolve(ExportSettings(format, inputs, dtype, opset, network)).check_name(output)
    model = shared.load_model(ckpt, quiet)
    with shared.progress_bar(quiet) as progress, shared.destination(output) as path:
        written = export_model(
            model, path, format=format, inputs=inputs, network=network, dtype=dtype,
            opset=opset, force=force, progress=progress,
        )  # fmt: skip
    warn = shared.warner(quiet)
    for message in written.notes:
        warn(message)
    if written.unfit_widths:
        warn(
            f"{len(written.unfit_widths)} groups have other widths than {format}'s code gives them:"
            " it loads the file only where widths can be set one by one (see unfit_widths)"
        )
    result = dataclasses.asdict(written)
    if output != "-":
        latency = {name: str(timing) for name, timing in written.latency.items()}
        every = (result | {"latency": latency}).items()
        told = {name: value for name, value in every if value or value == 0}  # an error may be 0
        shared.emit(result, as_json, lambda: [shared.key_values(told)])
    return None
