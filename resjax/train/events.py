"""TensorBoard's event files, written in this thread.

tensorboardX's own SummaryWriter hands everything to a thread; when that dies, as on a full disk, the run waits for
it forever. Here a write that fails is an OSError where it was asked for.
"""

import time
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

FLUSH_SECONDS = 60.0


class Events:
    """A new event file in `folder`, which is made.

    Args:
      purge_step: TensorBoard hides what older files of the folder tell of this step and later ones.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=purge_step, session_log=start))
        self._flushed = time.monotonic()

    def add(self, value: Any, step: int = 0) -> None:
        """Records what a function of `tensorboardX.summary` returned."""
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=value))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flushed = time.monotonic()
            self._writer.flush()

    def scalar(self, name: str, value: float, step: int) -> None:
        """Records a number."""
        self.add(summary.scalar(name, value), step)

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()
