"""What a run has found out so far, and how fast it goes."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from resjax.evaluation.evaluate import Metrics, add, means


class NonFinite(Exception):
    """The loss became infinite or NaN; the message names the step."""


def check_finite(name: str, value: float, step: int) -> None:
    """Raises NonFinite, which names the step, unless `value` is finite."""
    if not math.isfinite(value):
        raise NonFinite(
            f"the {name} is {value} at step {step}: lower optimizer.learning_rate, warm up, or set "
            "optimizer.clip_norm; checkpoints are from before that"
        )


class Clock:
    """Counts the steps between two moments when the device was waited for, and their seconds.

    Compilation, evaluation and checkpoints do not count.
    """

    def __init__(self, steps: int = 0, seconds: float = 0.0) -> None:
        self.steps = steps
        self.seconds = seconds
        self.waited = 0.0  # the part of these seconds spent waiting for input, in this process
        self.rate = 0.0  # steps per second up to the last tick; 0 before any was timed
        self.wait_share = 0.0  # share of that time in which the loop waited for input
        self.restart()

    def restart(self) -> None:
        """Starts measuring anew: what came since the last tick does not count."""
        self._mark, self._waiting, self._begun = time.perf_counter(), 0.0, 0

    def tick(self) -> None:
        """The device has been waited for, so every step begun is done."""
        if self._begun:
            elapsed = time.perf_counter() - self._mark
            self.steps += self._begun
            self.seconds += elapsed
            self.rate = self._begun / elapsed
            self.waited += self._waiting
            self.wait_share = self._waiting / elapsed
        self.restart()

    @contextmanager
    def waiting(self, steps: int = 1) -> Iterator[None]:
        """Times its body, which waits for the input of `steps` more steps."""
        began = time.perf_counter()
        self._begun += steps
        yield
        self._waiting += time.perf_counter() - began


@dataclasses.dataclass
class Progress:
    """What a run has found out so far; saved beside its state in every checkpoint.

    Attributes:
      interval: sums over the training images since the last evaluation.
      latest: the latest means, by name: `train` (over an interval) and every evaluation.
      clock: training steps and their seconds, of all processes that the run has had.
      unlogged: metrics [n] of the latest steps, not logged yet; None at every step that is saved.
      earlier: seconds of the processes before this one.
      began: `time.monotonic()` when this process started.
    """

    interval: dict[str, float] = dataclasses.field(default_factory=dict)
    latest: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    clock: Clock = dataclasses.field(default_factory=Clock)
    earlier: float = 0.0
    began: float = dataclasses.field(default_factory=time.monotonic)
    unlogged: Metrics | None = None

    @classmethod
    def from_json(cls, saved: Mapping[str, Any], began: float) -> "Progress":
        """The progress that a run resumes from: reads what `json` returned."""
        clock = Clock(saved["train_steps"], saved["train_seconds"])
        return cls(saved["interval"], saved["latest"], clock, saved["seconds"], began)

    def json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "interval": self.interval,
            "latest": self.latest,
            "seconds": self.seconds,
            "train_seconds": self.clock.seconds,
            "train_steps": self.clock.steps,
        }

    @property
    def seconds(self) -> float:
        """Wall time of the run, start-up and compilation included, in all its processes."""
        return self.earlier + time.monotonic() - self.began

    def absorb(
        self, step: int, pending: list[tuple[Metrics, int]], every: int, all: bool = True
    ) -> list[tuple[int, dict[str, float]]]:
        """Takes in the metrics of the latest calls, and returns what to log of them, by step. Waits for the device.

        A line is of the steps since the one before. Losses and accuracies are means over the images of these steps,
        `gradient_norm` is the mean over the steps, `learning_rate` and `weight_norm` are the last.

        Args:
          step: the last of the latest call.
          pending: metrics [k] and how many of these k steps were taken.
          every: there is a line at every multiple of it.
          all: and one at `step`; else what comes after the last line waits for the next.

        Raises:
          NonFinite: naming the first step whose loss, or weights after it, are infinite or NaN.
        """
        calls = jax.device_get(pending)
        self.clock.tick()
        found = _joined([_cut(metrics, 0, n) for metrics, n in calls])  # [n]
        for i, at in enumerate(range(step - len(found["loss"]) + 1, step + 1)):
            check_finite("training loss", found["loss"][i], at)
            # After a finite loss the weights can still overflow, and such a state must not be saved.
            check_finite("norm of the weights", found["weight_norm"][i], at)
        self.interval = add([self.interval, found["sums"]])

        rest = _joined([self.unlogged, found]) if self.unlogged else found
        lines, at = [], step - len(rest["loss"])  # the step of the latest line
        while (n := min(step, at - at % every + every) - at) and (all or (at + n) % every == 0):
            lines.append((at + n, _line(_cut(rest, 0, n))))
            rest, at = _cut(rest, n), at + n
        self.unlogged = rest if at < step else None
        return lines

    def close_interval(self) -> None:
        """Makes the means over the interval the latest of training, and begins a new interval."""
        self.latest["train"], self.interval = means(self.interval), {}


def _joined(parts: list[Metrics]) -> Metrics:
    """Metrics [n], one after the other."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def _cut(found: Metrics, start: int, stop: int | None = None) -> Metrics:
    return jax.tree.map(lambda x: x[start:stop], found)


def _line(found: Metrics) -> dict[str, float]:
    """What to log of some steps: metrics [n] -> numbers."""
    return means(add([found["sums"]])) | {
        "learning_rate": float(found["learning_rate"][-1]),
        "gradient_norm": float(found["gradient_norm"].mean()),
        "weight_norm": float(found["weight_norm"][-1]),
    }
