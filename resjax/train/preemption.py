"""SIGTERM and Ctrl-C: the first asks the run to save and stop, a second one leaves at once."""

import os
import signal
import sys
from types import FrameType, TracebackType


class Preempted(Exception):
    """The run was asked to stop; its state is saved."""


class StopRequest:
    """While entered, a signal sets `requested`, which the loop reads between two steps.

    Args:
      message: written to stderr at the first signal; empty: nothing.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, message: str = "saving and stopping after this step (again: leave at once)") -> None:
        self.requested = False
        self._message = message

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True
        if self._message:
            # Written without locks: a print here could interrupt a print.
            os.write(sys.stderr.fileno(), f"\n{signal.Signals(number).name}: {self._message}\n".encode())

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
