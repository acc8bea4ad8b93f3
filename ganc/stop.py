"""Stopping at the end of a step when a signal asks for it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


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
    before = {number: signal.getsignal(number) for number in _EXIT_CODES}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        request.exit_code = _EXIT_CODES[signal.Signals(number)]
        restore()

    for number in _EXIT_CODES:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
