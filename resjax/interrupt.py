"""Ctrl-C and SIGTERM while a command has nothing to save: one line, and the process ends.

Python's own KeyboardInterrupt would be a traceback amid an import, or be swallowed where it meets a callback.
"""

import atexit
import os
import signal
from types import FrameType

from resjax.errors import INTERRUPTED, KILLED

CODES = {signal.SIGINT: KILLED, signal.SIGTERM: INTERRUPTED}  # after SIGTERM a launcher starts the command again


def leave_at_once() -> None:
    """From here on these signals end the process; one that it was started without, as by `nohup`, stays ignored.

    Every command calls it before its imports, which take seconds. `StopRequest` takes over while a run trains.
    """
    for number in CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    # The first to be registered is the last to be called. What comes after it is the interpreter's own end, for
    # which Python puts back the default: a signal would take the exit code away from a run that is done.
    atexit.register(_ignore)


def _leave(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, b"stopped\n")  # without locks: a print here could interrupt a print
    finally:
        os._exit(CODES[signal.Signals(number)])  # nothing may be asked to clean up: it may be half imported


def _ignore() -> None:
    for number in CODES:
        signal.signal(number, signal.SIG_IGN)
