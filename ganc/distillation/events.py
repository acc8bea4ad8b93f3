"""TensorBoard's event files, written at once and in the thread that trains.

torch's ``SummaryWriter`` has a thread that writes every two minutes: a run that is killed loses
what that thread held, and a full disk ends the thread, with a traceback, instead of the run.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary


class EventFile:
    """A new event file in a folder; the files there are read in the order they were begun.

    Args:
        folder: Where.
        start: Steps done before; what an earlier attempt wrote beyond them is no longer shown.
    """

    def __init__(self, folder: Path, start: int) -> None:
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self._write(
            Event(wall_time=time.time(), file_version="brain.Event:2"),
            Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)),
        )

    def add_values(self, values: Mapping[int, Mapping[str, float]]) -> None:
        """Add numbers by name, for several steps: step → name → value."""
        self._write(
            *(
                self._event(step, Summary(value=[_scalar(*item) for item in named.items()]))
                for step, named in values.items()
            )
        )

    def add_image(self, step: int, name: str, image: Tensor) -> None:
        """Add a picture, [C, H, W], uint8."""
        self._write(self._event(step, summary.image(name, image, dataformats="CHW")))

    def close(self) -> None:
        """Close the file; nothing is left to write."""
        self._file.close()

    def _event(self, step: int, content: Summary) -> Event:
        return Event(wall_time=time.time(), step=step, summary=content)

    def _write(self, *events: Event) -> None:
        for event in events:
            self._records.write(event.SerializeToString())
        self._file.flush()


def _scalar(name: str, value: float) -> Summary.Value:
    return Summary.Value(tag=name, simple_value=value)
