"""A process that prepares batches: it leaves signals to its parent, and ends when that ends.

It imports what its parent runs before it begins its work, which takes seconds. So the commands that have workers
call `live_and_die_with_parent` before their imports where they are imported for one, and Grain when it begins.
"""

import multiprocessing
import os
import signal
import threading
import time

POLL = 0.2  # seconds


def live_and_die_with_parent(index: int = 0, workers: int = 0) -> None:
    """Ignores the signals of a terminal or scheduler, which the parent handles, and ends when the parent does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent, known = multiprocessing.parent_process(), os.getppid()

    def watch() -> None:
        if parent:
            parent.join()
        else:  # not known before the work begins; until then, whoever the system says it is
            while os.getppid() == known:
                time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
