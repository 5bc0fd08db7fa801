"""How fast training goes, without compilation, evaluation and checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Counts the steps between two moments at which the device was waited for, and the seconds they took."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self.rate = 0.0  # steps per second up to the last tick; 0 before any was timed
        self.wait_share = 0.0  # share of that time in which the loop waited for input
        self.restart()

    def restart(self) -> None:
        """Starts measuring anew: what came since the last tick does not count."""
        self._mark, self._waited, self._begun = time.perf_counter(), 0.0, 0

    def tick(self) -> None:
        """The device has been waited for, so every step begun is done."""
        if self._begun:
            elapsed = time.perf_counter() - self._mark
            self.steps += self._begun
            self.seconds += elapsed
            self.rate = self._begun / elapsed
            self.wait_share = self._waited / elapsed
        self.restart()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The body waits for the input of one more step."""
        began = time.perf_counter()
        self._begun += 1
        yield
        self._waited += time.perf_counter() - began
