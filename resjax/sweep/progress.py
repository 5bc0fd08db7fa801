"""What a sweep shows while it runs: a live table on a terminal, a line for every event elsewhere."""

import heapq
import os
import statistics
import sys
import time
from collections.abc import Iterable
from types import TracebackType

from tqdm import tqdm

from resjax.errors import INTERRUPTED
from resjax.models import counts
from resjax.sweep.plan import Run

REFRESH_SECONDS = 1.0
NAME_WIDTH = 18  # longer names lose their middle


class Attempt:
    """One run at work: when it started, and the steps that its log reached.

    A log records only some steps, so the first one seen stands for the start-up and some steps; the pace is
    measured after it.
    """

    def __init__(self, now: float, step: int) -> None:
        self.start = self.first = self.last = (now, step)

    def see(self, now: float, step: int) -> None:
        """The log has reached `step` at the time `now`."""
        if step > self.last[1]:
            self.first = (now, step) if self.first == self.start else self.first
            self.last = now, step


class Display:
    """Counts runs by state and estimates the time left.

    Start-up (imports, compilation) and pace are measured apart. A step of a deep network takes longer, so the pace
    is in multiply-adds per second.

    Args:
      runs: all that are wanted, finished ones too.
      jobs: how many run at a time.
    """

    def __init__(self, runs: Iterable[Run], jobs: int) -> None:
        self._state: dict[Run, str] = {}
        self._steps: dict[Run, int] = {}
        self._at: dict[Run, int] = {}  # the step reached
        for run in runs:
            summary = run.summary()
            self._state[run] = "done" if summary else "waiting"
            self._steps[run] = summary["steps"] if summary else run.steps
            self._at[run] = summary["steps"] if summary else min(run.step(), run.steps)
        self._attempts: dict[Run, Attempt] = {}
        self._jobs = jobs
        self._live = sys.stderr.isatty()
        self._drawn = time.monotonic()
        self._lines = 0  # of the live table; the cursor waits below it

    def __enter__(self) -> "Display":
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        print(self._erased(), end="", file=sys.stderr, flush=True)

    def started(self, run: Run) -> None:
        """A run has started or resumed."""
        self._state[run] = "running"
        self._attempts[run] = Attempt(time.monotonic(), run.step())
        at = f" from step {run.step()}" if run.step() else ""
        self.say(f"start   {run.name}{at}, log {run.log}")

    def ended(self, run: Run, code: int) -> None:
        """A run has ended with an exit code."""
        summary, what = run.summary(), run.error()
        if summary:
            self._state[run] = "done"
            self._see(run, self._steps[run])
            what = f"test error {100 * (1 - summary['test_accuracy']):.2f} %, {summary['seconds']:.0f} s"
        else:
            self._state[run] = "interrupted" if code == INTERRUPTED else "failed"
        counts = "" if self._live else f"\n        {self.counts()}"  # the live table has them
        self.say(f"{self._state[run]:<7} {run.name}  {what}{counts}")

    def update(self) -> None:
        """Reads how far the runs are and redraws the live table, at most once a second."""
        if time.monotonic() - self._drawn > REFRESH_SECONDS:
            self._drawn = time.monotonic()
            for run in self._running():
                self._see(run, run.step())
            self._draw()

    def counts(self) -> str:
        """How many runs are done and failed, and the time left."""
        states = list(self._state.values())
        text = f"{states.count('done')} of {len(states)} done"
        text += "".join(f", {n} {state}" for state in ("failed", "interrupted") if (n := states.count(state)))
        seconds = self.seconds_left()
        return f"{text}, about {tqdm.format_interval(seconds)} left" if seconds else text

    def share(self) -> float:
        """The share of all multiply-adds that is done, from 0 to 1; failed runs count as done."""
        total = sum(self._work(run, self._steps[run]) for run in self._state)
        left = sum(self._left(run) for run in self._state)
        return 1 - left / total if total else 1.0

    def interrupted(self) -> bool:
        """True if a run was stopped before its end, or never started."""
        return any(state in ("interrupted", "waiting") for state in self._state.values())

    def seconds_left(self) -> float | None:
        """The time until the last run ends; None before any run has shown its pace, or after a stop."""
        if "interrupted" in self._state.values():
            return None
        now, attempts = time.monotonic(), self._attempts.items()
        moving = {run: a for run, a in attempts if a.last != a.first}
        seconds = sum(a.last[0] - a.first[0] for a in moving.values())
        pace = (
            sum(self._work(run, a.last[1] - a.first[1]) for run, a in moving.items()) / seconds if seconds else 0.0
        )

        def stepping(work: float) -> float:
            return work / pace if pace else 0.0

        seen = {run: a for run, a in attempts if a.first != a.start}
        if not seen or not (pace or any(self._state[run] == "done" for run in seen)):
            return None
        start_up = statistics.fmean(
            max(0.0, a.first[0] - a.start[0] - stepping(self._work(run, a.first[1] - a.start[1])))
            for run, a in seen.items()
        )
        free = [0.0] * self._jobs  # when each job takes its next run
        for run in self._running():
            attempt = self._attempts[run]
            left = stepping(self._left(run)) + (0.0 if run in seen else start_up)
            heapq.heapreplace(free, max(0.0, left - (now - attempt.last[0])))
        for run, state in self._state.items():
            if state == "waiting":
                heapq.heapreplace(free, free[0] + start_up + stepping(self._left(run)))
        return max(free)

    def say(self, text: str) -> None:
        """Writes a line that stays."""
        self._draw(text + "\n")

    def _running(self) -> list[Run]:
        return [run for run, state in self._state.items() if state == "running"]

    def _see(self, run: Run, step: int) -> None:
        self._at[run] = min(step, self._steps[run])
        if run in self._attempts:
            self._attempts[run].see(time.monotonic(), self._at[run])

    def _work(self, run: Run, steps: int) -> float:
        """The multiply-adds of so many steps."""
        return float(steps * run.config.batch_size * counts.total(run.spec).macs)

    def _left(self, run: Run) -> float:
        if self._state[run] in ("done", "failed"):
            return 0.0
        return self._work(run, self._steps[run] - self._at[run])

    def _erased(self) -> str:
        """What erases the live table, and what the terminal wrote where the cursor waits, such as ^C."""
        lines, self._lines = self._lines, 0
        return f"\r\x1b[{lines}A\x1b[J" if lines else ""

    def _draw(self, above: str = "") -> None:
        """Writes `above` and, on a terminal, the live table below it, in one piece: nothing flickers."""
        if not self._live:
            print(above, end="", file=sys.stderr, flush=True)
            return
        columns, lines = os.get_terminal_size(sys.stderr.fileno())
        rows = [("all runs", self.share(), self.counts())]
        rows += [
            (shorten(run.name), self._at[run] / self._steps[run], f"step {self._at[run]:,} of {self._steps[run]:,}")
            for run in self._running()[: (lines or 24) - 2]
        ]
        names, notes = max(len(name) for name, _, _ in rows), max(len(note) for _, _, note in rows)
        # One column stays free: a full line would break into two.
        text = "".join(
            line(name.ljust(names), part, note.ljust(notes), (columns or 80) - 1) + "\n"
            for name, part, note in rows
        )
        print(self._erased() + above + text, end="", file=sys.stderr, flush=True)
        self._lines = len(rows)


def line(name: str, part: float, note: str, columns: int) -> str:
    """`name  45 % |████      | note`, not wider than `columns`."""
    bar = "{desc} {percentage:3.0f} % |{bar}| " + note
    return tqdm.format_meter(min(1.0, part), 1.0, 0.0, ncols=columns, bar_format=bar, prefix=name)


def shorten(name: str) -> str:
    """At most `NAME_WIDTH` characters of a name: its beginning, and its end with the seed."""
    if len(name) <= NAME_WIDTH:
        return name
    head = NAME_WIDTH - 10
    return f"{name[:head]}…{name[-9:]}"
