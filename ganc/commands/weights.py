"""``ganc weights``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared

if TYPE_CHECKING:
    from rich.table import Table

    from ganc.progress import Progress

ACTIONS = ("list", "fetch", "verify")


def weights(
    action: Annotated[
        str,
        typer.Argument(
            metavar="ACTION",
            help="list: show what is there; fetch: download, or install --from a file; verify:"
            " check SHA-256s, load every network and run its self-test.",
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Names as list shows them. Default of list: all; of verify: all that are present."
            " fetch all takes every file with an address.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE", help="fetch: install this file instead of downloading."
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="fetch: never use the network, only check what is there."),
    ] = False,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
) -> None:
    """Manage the cached weights of feature, perceptual and mask networks.

    They lie in $GANC_CACHE, else in the platform's cache folder. A download that was cut goes on
    where it stopped; proxies come from HTTPS_PROXY and NO_PROXY, certificates from SSL_CERT_FILE.

    Example: ganc weights fetch inception vgg16
    """
    run = _action(action, names, source, offline)
    with shared.progress_bar(quiet) as progress:
        result = run(progress)
    shared.emit(result, as_json, lambda: _tables(result))
    _say_what_was_recorded(result["weights"], quiet)
    _refuse_failures(result["weights"])


def _action(
    action: str, names: list[str] | None, source: str | None, offline: bool
) -> "Callable[[Progress], dict[str, Any]]":
    """Check the arguments and return what is to be done."""
    from ganc.errors import UsageError, unknown_name

    if action not in ACTIONS:
        raise unknown_name("action of ganc weights", action, ACTIONS)
    if source is not None and action != "fetch":
        raise UsageError(f"--from belongs to fetch, not to {action}", "drop it")
    chosen = names or None
    if action == "fetch" and chosen is None:
        raise UsageError("ganc weights fetch needs a NAME", "all fetches everything")
    if action == "verify":
        from ganc.weights.check import verify_weights

        return lambda progress: verify_weights(chosen, progress=progress)
    from ganc.weights.manage import fetch_weights, list_weights

    if action == "list":
        return lambda progress: list_weights(chosen, progress=progress)
    return lambda progress: fetch_weights(
        chosen or (), source=source, offline=offline, progress=progress
    )


def _tables(result: dict[str, Any]) -> list["Table"]:
    from rich.table import Table

    rows = result["weights"]
    is_tested = any("self_test" in row for row in rows)
    table = Table(title=f"weights in {result['cache']}", title_justify="left")
    for column in ("name", "state", "size", "for"):
        table.add_column(column, justify="right" if column == "size" else "left")
    table.add_column("self-test", justify="right")
    table.add_column("must be" if is_tested else "file", overflow="fold")
    for row in rows:
        cells = [row["name"], row["state"], _size(row), row["purpose"]]
        known = _number(row["self_test_known"])
        last = [_number(row["self_test"]), known] if is_tested else [known, _file(row)]
        table.add_row(*cells, *last)
    return [table]


def _size(row: dict[str, Any]) -> str:
    whole = "?" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f} MB"
    return f"{row['bytes_there'] / 1e6:.1f} of {whole}" if row["state"] == "partial" else whole


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.6g}"


def _file(row: dict[str, Any]) -> str:
    from pathlib import Path

    return Path(row["path"]).name if row["path"] else row["source"]


def _say_what_was_recorded(rows: list[dict[str, Any]], quiet: bool) -> None:
    for row in rows:
        if row["sha256_from"] == "recorded":
            shared.note(
                f"note: `{row['name']}`: the publisher gives no SHA-256; recorded when first seen:"
                f" {row['sha256']}",
                quiet,
            )


def _refuse_failures(rows: list[dict[str, Any]]) -> None:
    """End with an error where ``verify`` found one; the table is printed already."""
    from ganc.errors import WeightsError

    failed = [row for row in rows if row.get("error")]
    if failed:
        reasons = "; ".join(f"`{row['name']}`: {row['error']}" for row in failed)
        raise WeightsError(
            f"{len(failed)} of {len(rows)} weights cannot be used: {reasons}",
            "delete what is damaged, then: ganc weights fetch NAME, or fetch NAME --from FILE",
        )
