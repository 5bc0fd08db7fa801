"""SIGTERM and Ctrl-C: the first asks the run to save and stop, a second one leaves at once.

In a job of several processes a signal to any of them stops all at the same step. Python gives signals to the first
thread of a process alone: runs in other threads ask their `job`.
"""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType

from resjax.train.peers import Alone, Peers


class Preempted(Exception):
    """The run was asked to stop; its state is saved."""


class StopRequest:
    """While entered, a signal sets `requested`; the loop asks between two steps whether to stop there.

    In another thread than the first it leaves signals alone.

    Args:
      message: written to stderr at the first signal; empty: nothing.
      job: the processes that stop together.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(
        self,
        message: str = "saving and stopping after this step (again: leave at once)",
        job: Peers | Alone | None = None,
    ) -> None:
        self.requested = False
        self._message = message
        self._job = job or Alone()
        self._passed_on = False

    def at(self, step: int) -> bool:
        """Whether the run stops after this step; all processes of a job ask after the same steps, and agree."""
        if self.requested and not self._passed_on:
            self._passed_on = True
            self._job.request_stop()
        return self._job.stops(step)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True
        if self._message:
            # Written without locks: a print here could interrupt a print.
            who = f"process {self._job.index}: " if self._job.index else ""
            os.write(sys.stderr.fileno(), f"\n{who}{signal.Signals(number).name}: {self._message}\n".encode())

    def __enter__(self) -> "StopRequest":
        first = threading.current_thread() is threading.main_thread()
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS if first}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
