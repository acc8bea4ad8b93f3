"""What ``ganc score --method density`` adds to the command: its files, a search that goes on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganc.commands import _shared as shared

if TYPE_CHECKING:
    from ganc.scoring.options import ScoreOptions
    from ganc.scoring.score import Part

STATE_SUFFIX = ".state"


def density_settings(
    settings: Sequence[str] | None,
    options: "ScoreOptions",
    *,
    is_asked: bool,
    ckpt: str,
    output: str,
) -> dict[str, Any]:
    """Return the arguments of ``score`` that only density reads, with the files' default names.

    Args:
        settings: NAME=VALUE, as typed.
        options: The command's others.
        is_asked: Whether density is one of the methods.
        output: The scores; a search that writes them to stdout is not saved.
    Raises:
        UsageError: A setting is not NAME=VALUE.
    """
    from ganc.errors import UsageError

    given: dict[str, Any] = {"density": dict(map(shared.parse_setting, settings or ())) or None}
    if not is_asked:
        return given
    if output == "-":
        if options.resume:
            raise UsageError("-o - keeps no state to resume", "name a file with -o")
        return given
    stem = Path(ckpt).stem if ckpt != "-" else "stdin"
    place = options.neighbourhoods or f"{stem}.neighbourhoods.safetensors"
    return {**given, "neighbourhoods": place, "state": output + STATE_SUFFIX}


def check_files(parts: "Sequence[Part]", force: bool) -> None:
    """Refuse files that are there and would be replaced: an unfinished search, a log.

    Raises:
        OutputError: One is.
    """
    from ganc.errors import OutputError
    from ganc.scoring.density.density import saved_states

    for request in (part.request for part in parts if part.name == "density"):
        if request.resume or force:
            continue
        for path in saved_states(request.state) if request.state else ():
            raise OutputError(
                f"{path} holds an unfinished search",
                "pass --resume to go on with it, or --force to start again",
            )
        if request.log is not None:
            shared.check_output(str(request.log), force)


def forget(settings: dict[str, Any]) -> None:
    """Remove the states of a search whose scores were saved."""
    from ganc.scoring.density.density import saved_states

    for path in saved_states(settings["state"]) if settings.get("state") else ():
        path.unlink()
