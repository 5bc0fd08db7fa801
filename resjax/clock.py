"""How fast training goes, without compilation, evaluation and checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Counts the steps between two moments at which the device was waited for, and the seconds they took."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self.rate = 0.0  # steps per second at the last tick
        self.wait_share = 0.0  # share of that time in which the loop waited for input
        self.restart()

    def restart(self) -> None:
        """Starts measuring anew: what came since the last tick does not count."""
        self._mark, self._waited = time.perf_counter(), 0.0

    def tick(self, steps: int) -> None:
        """`steps` more are done, and the device has been waited for."""
        elapsed = time.perf_counter() - self._mark
        self.steps += steps
        self.seconds += elapsed
        self.rate = steps / elapsed
        self.wait_share = self._waited / elapsed
        self.restart()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The body waits for input."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began
