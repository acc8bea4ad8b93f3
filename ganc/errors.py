"""Every failure a user can cause, with the exit code the command line gives it.

This module imports nothing: the command line loads it before anything else.
"""

import difflib
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_REQUIREMENT = 1
EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_COMPUTATION = 4
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141
EXIT_TERMINATED = 143

EXIT_CODES = {
    EXIT_DONE: "done",
    EXIT_REQUIREMENT: "a --require was not met: nothing else gives 1",
    EXIT_USAGE: "wrong usage: an unknown flag, method or metric, a bad value, flags that exclude"
    " each other",
    EXIT_INPUT: "bad input or state: a file, a checkpoint, data, an existing output, missing"
    " weights, a full disk",
    EXIT_COMPUTATION: "the computation failed: a non-finite loss, an export that does not match,"
    " out of memory",
    EXIT_INTERRUPTED: "Ctrl-C",
    EXIT_PIPE: "stdout was closed early: its reader, such as head, stopped before all was written",
    EXIT_TERMINATED: "SIGTERM",
}
"""Exit code → what it means, in short up to the colon."""


class GancError(Exception):
    """A failure that the user can act on.

    Args:
        message: One sentence: where, what was found, what is allowed. Lower case, no final stop.
        hint: What to do about it, or None where the message already says so.
    """

    exit_code = EXIT_INPUT

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(GancError, ValueError):
    """Wrong usage: an unknown name, a value out of range, options that exclude each other."""

    exit_code = EXIT_USAGE


class InputError(GancError, ValueError):
    """Bad input or state: a file, a checkpoint, data, an existing output, foreign scores."""

    exit_code = EXIT_INPUT


class CheckpointError(InputError):
    """A checkpoint that cannot be read, or does not describe what its tensors hold."""


class DataError(InputError):
    """An image, a folder or a zip that cannot serve as data."""


class ScoresError(InputError):
    """Scores that cannot be read, or belong to another checkpoint."""


class OutputError(InputError):
    """An output that exists already, or cannot be written."""


class WeightsError(InputError):
    """Weights of a feature network that are missing, damaged or of another version."""


class MissingDependencyError(InputError, ImportError):
    """An optional package that is needed for what was asked, and the extra that brings it."""


class ShapeError(UsageError):
    """A tensor argument whose shape does not fit."""


class ComputationError(GancError, ArithmeticError):
    """The computation itself failed: a non-finite loss, an export that does not match."""

    exit_code = EXIT_COMPUTATION


class PeerError(ComputationError):
    """Another process of the same run did not come, cannot be reached, or ended too early."""


class Interrupted(GancError):
    """A signal ended a run after its state was saved. ``exit_code`` is 130 or 143."""

    def __init__(self, message: str, exit_code: int, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name most like ``name``, or None where nothing is close."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(what: str, name: str, allowed: Iterable[str]) -> UsageError:
    """Build the error for a name that is not in a table, with its nearest match.

    Args:
        what: What the name stands for, as the user knows it: "method", "metric", "--allocation".
        name: What the user wrote.
        allowed: All valid names.
    """
    names = list(allowed)
    match = nearest(name, names)
    hint = f"did you mean `{match}`?" if match else None
    return UsageError(f"unknown {what} `{name}`; allowed: {', '.join(names)}", hint)
