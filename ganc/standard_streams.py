"""stdout and stderr that outlive their readers.

A reader may leave early (``| head``), a disk may be full, a stream may be closed from the start.
Every printer would meet that in its own way: rich and typer end the process with exit code 1, and
Python tries once more when it exits. Here what cannot be written is dropped and the reason is kept,
so that the command ends as it would have, and the end of the process says what was lost.
"""

import io
import os
import sys
from typing import Any, TextIO


class Outlet(io.BufferedWriter):
    """A stream that takes whatever is written; after the first error it drops the rest.

    A buffer, not a raw file: a signal that arrives while a raw ``write`` of Python's returns would
    leave what was written in the buffer above, to be written twice.

    Attributes:
        error: Why something was dropped, or None where all was written.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write like ``BufferedWriter``; never raises ``OSError``."""
        try:
            return super().write(data)
        except OSError as error:
            self._drop(error)
            return memoryview(data).nbytes

    def flush(self) -> None:
        """Write what is buffered; never raises ``OSError``."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)
            super().flush()

    def _drop(self, error: OSError) -> None:
        """Keep the reason; whatever is buffered and comes later goes nowhere."""
        self.error = self.error or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def open_standard_streams() -> Outlet:
    """Put outlets below ``sys.stdout`` and ``sys.stderr``; terminals, which stay, keep theirs.

    Returns:
        The outlet of stdout.
    """
    stdout, sys.stdout = _through_outlet(sys.stdout)
    _, sys.stderr = _through_outlet(sys.stderr)
    return stdout


def _through_outlet(stream: TextIO | None) -> tuple[Outlet, TextIO]:
    """Return an outlet, and a text stream with the settings of ``stream`` that writes to it."""
    if stream is None:  # closed: writing has to fail here, and must not meet a file opened later
        outlet = Outlet(io.FileIO(os.open(os.devnull, os.O_RDONLY), "w"))
        return outlet, io.TextIOWrapper(outlet, encoding="utf-8")
    outlet = Outlet(io.FileIO(stream.fileno(), "w", closefd=False))
    if stream.isatty():
        return outlet, stream
    settings: dict[str, Any] = {"encoding": stream.encoding, "errors": stream.errors}
    # What is unbuffered (python -u) has no lines to buffer; line by line is the nearest.
    is_prompt = getattr(stream, "line_buffering", True) or getattr(stream, "write_through", True)
    settings["line_buffering"] = is_prompt
    return outlet, io.TextIOWrapper(outlet, **settings)
