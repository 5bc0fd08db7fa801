"""What a sweep tells while it runs: a live table on a terminal, a line for every event elsewhere."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from resjax.config import network
from resjax.errors import INTERRUPTED
from resjax.models import counts
from resjax.sweep.plan import Run

REFRESH_SECONDS = 1.0


class Progress:
    """Counts runs by what became of them and estimates the time left from the arithmetic that is done.

    Args:
      steps: the length of every run that is still to be done.
      finished: how many runs were finished before.
      jobs: how many run at a time.
    """

    def __init__(self, steps: dict[Run, int], finished: int, jobs: int) -> None:
        self._steps = steps
        # A step of a deep network takes longer: runs are weighed by their multiply-adds.
        self._weight = {r: s * r.config.batch_size * counts.total(network(r.config)).macs for r, s in steps.items()}
        self._reached = {run: run.step() / steps[run] for run in steps}
        self._total = sum(w * (1 - self._reached[r]) for r, w in self._weight.items())
        self._state = {run: "waiting" for run in steps}
        self._finished, self._jobs = finished, jobs
        self._live = sys.stderr.isatty()
        self._bars: dict[int, tqdm] = {}
        self._began = self._drawn = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._live:
            layout = "{desc} |{bar}| {percentage:3.0f} %{postfix}"
            self._bars = {i: tqdm(position=i, bar_format=layout, total=1.0) for i in range(self._jobs + 1)}
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in reversed(self._bars.values()):
            bar.leave = False
            bar.close()

    def started(self, run: Run) -> None:
        """A run has started, or goes on."""
        self._state[run] = "running"
        at = f" from step {run.step()}" if run.step() else ""
        self._say(f"start   {run.name}{at}, log {run.log}")

    def ended(self, run: Run, code: int) -> None:
        """A run has ended with an exit code."""
        summary, what = run.summary(), run.error()
        if summary:
            self._state[run] = "done"
            what = f"test error {100 * (1 - summary['test_accuracy']):.2f} %, {summary['seconds']:.0f} s"
        else:
            self._state[run] = "interrupted" if code == INTERRUPTED else "failed"
        self._say(f"{self._state[run]:<7} {run.name}  {what}\n        {self.counts()}")

    def update(self) -> None:
        """Draws the live table anew, once a second."""
        if self._live and time.monotonic() - self._drawn > REFRESH_SECONDS:
            self._drawn = time.monotonic()
            self._draw()

    def counts(self) -> str:
        """How many runs are done, running, failed and waiting, and the time left."""
        n = {state: list(self._state.values()).count(state) for state in ("done", "running", "failed", "waiting")}
        n["done"] += self._finished
        left = tqdm.format_interval(seconds) if (seconds := self._seconds_left()) is not None else "?"
        return ", ".join(f"{count} {state}" for state, count in n.items()) + f"; about {left} left"

    def interrupted(self) -> bool:
        """True if a run was stopped before its end, or never started."""
        return any(state in ("interrupted", "waiting") for state in self._state.values())

    def _part(self, run: Run) -> float:
        """How much of a run is behind it, from 0 to 1."""
        if self._state[run] in ("done", "failed"):
            return 1.0
        return min(1.0, run.step() / self._steps[run]) if self._state[run] == "running" else self._reached[run]

    def _done(self) -> float:
        return sum(w * (self._part(run) - self._reached[run]) for run, w in self._weight.items())

    def _seconds_left(self) -> float | None:
        done = self._done()
        if done <= 0:
            return None
        return (time.monotonic() - self._began) * (self._total - done) / done

    def _draw(self) -> None:
        if not self._live:
            return
        running = [run for run, state in self._state.items() if state == "running"]
        lines = [("all runs", self._done() / self._total if self._total else 1.0, self.counts())]
        lines += [
            (run.name, self._part(run), f"step {run.step()}/{self._steps[run]}") for run in running[: self._jobs]
        ]
        lines += [("", 0.0, "")] * (self._jobs + 1 - len(lines))
        width = max(len(name) for name, _, _ in lines)
        for bar, (name, part, text) in zip(self._bars.values(), lines, strict=True):
            bar.n = min(1.0, part)
            bar.set_description_str(name.ljust(width), refresh=False)
            bar.postfix = text
            bar.refresh()

    def _say(self, text: str) -> None:
        if self._live:
            tqdm.write(text, file=sys.stderr)
            self._draw()
        else:
            print(text, file=sys.stderr, flush=True)
