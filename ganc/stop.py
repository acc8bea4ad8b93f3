"""What Ctrl-C and SIGTERM do: end a command, or a loop at the end of its step."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from ganc.errors import EXIT_INTERRUPTED, EXIT_TERMINATED

EXIT_CODES = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}
SAME_SEC = 0.1
"""Signals closer than that are one: ``timeout`` and wrappers that pass Ctrl-C on send it twice."""
_SHOW_CURSOR = b"\x1b[?25h"

_Handler = Callable[[int, FrameType | None], None]


class Ended(BaseException):
    """A signal ends the command. No ``Exception``: libraries swallow or wrap those.

    Args:
        exit_code: 130 or 143.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("interrupted" if exit_code == EXIT_INTERRUPTED else "terminated")
        self.exit_code = exit_code


class StopRequest:
    """Whether to stop, and with which exit code."""

    exit_code: int | None = None


@contextlib.contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Turn Ctrl-C and SIGTERM into a request; a second signal ends the process as usual.

    Outside the main thread Python delivers no signals: the request is never made. The handlers
    that were there before are back afterwards.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    came = 0.0

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if request.exit_code is None:
            request.exit_code, came = EXIT_CODES[signal.Signals(number)], time.monotonic()
        elif time.monotonic() - came > SAME_SEC:
            _restore(before)
            signal.raise_signal(number)

    before = _handlers()
    with _handled_by(ask, before):
        yield request


@contextlib.contextmanager
def end_on_signals() -> Iterator[None]:
    """Raise ``Ended`` at the first Ctrl-C or SIGTERM; in the main thread alone.

    Where something swallows it, or makes another exception of it, it is raised at the end.
    """
    exit_code = None

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal exit_code
        if exit_code is None:  # once: what cleans up is not interrupted
            exit_code = EXIT_CODES[signal.Signals(number)]
            logging.disable()  # torch would tell of its own failure
            raise Ended(exit_code)

    try:
        with _handled_by(end, _handlers()):
            yield
    finally:
        if exit_code is not None:
            logging.disable(logging.NOTSET)
            raise Ended(exit_code)


def end_at_second_signal() -> None:
    """Let a second Ctrl-C or SIGTERM end this process at once; call it once, and first.

    Python's handlers wait until C code returns, so a thread counts the signals as they arrive.
    Until a handler is set, and after it, the first one ends the process, without a traceback.
    """
    for number in _handlers():
        signal.signal(number, signal.SIG_DFL)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_wait_for_two, args=(reader,), daemon=True).start()


def _wait_for_two(reader: int) -> NoReturn:
    first = None
    while True:
        number = os.read(reader, 1)[0]
        if number not in EXIT_CODES:
            continue
        first = first or time.monotonic()
        if time.monotonic() - first > SAME_SEC:
            if os.isatty(2):
                os.write(2, _SHOW_CURSOR)  # which a progress bar has hidden
            os._exit(EXIT_CODES[signal.Signals(number)])


def _handlers() -> dict[signal.Signals, Any]:
    """Return the handlers of both signals; of one that is ignored, as in the background, none."""
    handlers = {number: signal.getsignal(number) for number in EXIT_CODES}
    return {number: is_ for number, is_ in handlers.items() if is_ != signal.SIG_IGN}


@contextlib.contextmanager
def _handled_by(handler: _Handler, before: dict[signal.Signals, Any]) -> Iterator[None]:
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        _restore(before)


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
