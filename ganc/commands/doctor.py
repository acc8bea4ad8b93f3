"""``ganc doctor``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared

if TYPE_CHECKING:
    from rich.table import Table


def doctor(
    device: shared.Device = "auto",
    build: Annotated[
        bool,
        typer.Option(
            "--build",
            help="Compile operators that make StyleGAN2 faster on the CPU; needs g++ or clang++.",
        ),
    ] = False,
    as_json: shared.Json = False,
) -> None:
    """Check the installation: versions, device, optional packages, cache.

    The device has to compute the same images as the CPU on one tiny model.

    Example: ganc doctor --device auto
    """
    from ganc.diagnosis import doctor as examine

    result = examine(device, build)
    shared.emit(result, as_json, lambda: _tables(result))


def _tables(result: dict[str, Any]) -> list["Table"]:
    shown = {name: value for name, value in result.items() if name not in ("packages", "weights")}
    shown["cuda"] = result["cuda"] or None
    if result["built"] is None:
        del shown["built"]
    packages = {
        f"extra {extra}": {name: version or "not installed" for name, version in names.items()}
        for extra, names in result["packages"].items()
    }
    weights = {name: "there" if there else "missing" for name, there in result["weights"].items()}
    return [shared.key_values({**shown, **packages, "weights": weights})]
