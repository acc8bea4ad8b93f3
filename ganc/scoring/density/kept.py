"""The files that a search keeps beside its scores: neighbourhoods, states, a log."""

import dataclasses
import os
from pathlib import Path

from ganc.errors import OutputError, UsageError
from ganc.files import check_output
from ganc.scoring.request import ScoreRequest
from ganc.scoring.sides import SIDES

STATE_SUFFIX = ".state"


def with_names(request: ScoreRequest, stem: str, output: str) -> ScoreRequest:
    """Name the files by the checkpoint and the scores; a search that ends in a stream has none.

    Raises:
        UsageError: It is to go on with a search nevertheless.
    """
    if output == "-":
        if request.resume:
            raise UsageError("-o - keeps no state to resume", "name a file with -o")
        return request
    place = request.neighbourhoods or f"{stem}.neighbourhoods.safetensors"
    return dataclasses.replace(request, neighbourhoods=place, state=output + STATE_SUFFIX)


def state_path(state: str | os.PathLike[str], network: str) -> Path:
    """Return the file of one side's search; ``state`` is the first direction's."""
    path = Path(state)
    return path if network == "generator" else path.with_name(f"{path.name}.{network}")


def saved_states(state: str | os.PathLike[str], network: str | None = None) -> list[Path]:
    """Return the states that are there, of one generator or, a CycleGAN's, of both.

    The second direction's begins where the first has ended.
    """
    networks = SIDES if network is None else (network,)
    paths = (state_path(state, name) for name in networks)
    return [path for path in paths if path.exists()]


def check_files(request: ScoreRequest, *, force: bool) -> None:
    """Refuse files that would be lost: an unfinished search, a log.

    Raises:
        OutputError: One is there.
    """
    if request.resume or force:
        return
    for path in saved_states(request.state) if request.state else ():
        raise OutputError(
            f"{path} holds an unfinished search",
            "pass --resume to continue it, or --force to start again",
        )
    if request.log is not None:
        check_output(Path(request.log), force=force)


def clear(request: ScoreRequest) -> None:
    """Remove the states of a search, of both directions."""
    for path in saved_states(request.state) if request.state else ():
        path.unlink()
