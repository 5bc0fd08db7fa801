"""The faults: which there are, when they come, and which exit codes are right after them."""

import dataclasses
import math
import random
import signal
from collections.abc import Sequence

from resjax.drill import damage
from resjax.drill.process import Process
from resjax.errors import BAD_INPUT, DONE, INTERRUPTED, KILLED, PEER_LOST

# What the help says of each.
KINDS = {
    "kill": "SIGKILL",
    "stop": "SIGTERM",
    "interrupt": "Ctrl-C: SIGINT to all of the process group",
    "twice": "two signals one after the other",
    "pause": "SIGSTOP, then SIGCONT",
    "cut": "SIGKILL, and a file of the newest checkpoint is cut short",
    "flip": "SIGKILL, and a bit of the newest checkpoint flips",
    "missing": "SIGKILL, and a file of the newest checkpoint is deleted",
    "half": "SIGKILL, and a checkpoint is half-written",
    "garble": "SIGKILL, and garbage in the JSON files",
    "disk": "no file may grow beyond a size, so a write fails",
    "second": "a second process is started on the same workdir",
}
NEED_A_CHECKPOINT_BEFORE = ("cut", "flip", "missing", "half")
STOPS = (signal.SIGTERM, signal.SIGINT)

# Where a fault falls, and how often: in the start-up, at a step, while a checkpoint is saved, at the end.
MOMENTS = {"start": 5, "step": 7, "save": 5, "end": 3}
BOOT = 0.2  # seconds that Python itself takes to start, in which a signal is not the run's to answer
WINDOW = 0.3  # seconds after an event within which a fault comes: about what a save takes


@dataclasses.dataclass(frozen=True)
class Whole:
    """What the drill knows of the undisturbed run.

    Attributes:
      steps: how many it has.
      largest: bytes of the largest file of a checkpoint.
      patience: seconds within which anything happens, or else hangs.
    """

    steps: int
    largest: int
    patience: float


class Fault:
    """One fault, drawn from the seed of the drill and its number."""

    def __init__(self, number: int, kind: str, seed: int) -> None:
        self.number, self.kind, self.missed = number, kind, 0
        self.rng = random.Random(f"{seed} {number} {kind}")
        moments = {name: share for name, share in MOMENTS.items() if name != "start" or kind not in damage.DAMAGES}
        [self.moment] = self.rng.choices(list(moments), list(moments.values()))

    def again(self) -> None:
        """For another job, because this one was over before: at some step, which comes in every job."""
        self.moment = "step"
        self.missed += 1

    def wait(self, process: Process, whole: Whole, startup: float) -> bool:
        """Returns True when the moment has come; False if the process has ended before.

        Args:
          startup: about how many seconds pass before the first step.

        Raises:
          Hang: if neither comes.
        """
        rng = self.rng
        if self.moment == "start" and process.ready is None:
            return process.sleep(rng.uniform(BOOT, max(BOOT, startup)))
        if not process.until(lambda: process.step() is not None):
            return False
        checkpoints = process.workdir / "checkpoints"
        if self.kind in NEED_A_CHECKPOINT_BEFORE and not process.until(
            lambda: len(damage.checkpoints(process.workdir)) > 1
        ):
            return False
        if self.moment == "save":
            return process.until(process.saving) and process.sleep(rng.uniform(0, WINDOW))
        target = min(whole.steps, (process.step() or 0) + math.ceil(rng.uniform(0, whole.steps / 4)))
        if self.moment == "end":
            target = whole.steps
        if not process.until(lambda: (process.step() or 0) >= target):
            return False
        if target < whole.steps:
            return process.sleep(rng.uniform(0, WINDOW / 10))
        after = rng.choice((None, checkpoints / str(whole.steps), process.workdir / "summary.json"))
        return process.until(lambda: after is None or after.exists()) and process.sleep(rng.uniform(0, WINDOW))

    def codes(self, begun: bool, done: bool, joined: bool) -> set[int]:
        """The exit codes that are right.

        Args:
          begun: it had done a step when the fault came.
          done: it has done the last.
          joined: it is of several processes, and the code is the one that `launch/local` makes of theirs.
        """
        ended = {DONE} if done else set()
        if self.kind == "disk":
            return {BAD_INPUT, *ended}
        if self.kind in ("stop", "interrupt", "twice"):
            codes = {INTERRUPTED, *ended}
            if self.kind == "twice":  # the second may come too late, or before the first could be answered
                codes |= {KILLED, *(128 + number for number in STOPS)}
            if self.kind == "interrupt" and (done or not begun):  # nothing to save
                codes |= {KILLED}
            if not begun:  # before its first line; a process that waits for another is not stopped but loses it
                codes |= {PEER_LOST} if joined else {-number for number in STOPS}
            return codes
        return {PEER_LOST if joined else -signal.SIGKILL, *ended}


def draw(kinds: Sequence[str], count: int, seed: int) -> list[Fault]:
    """`count` faults, each of `kinds` as often as any other, in a random order."""
    rng = random.Random(seed)
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += rng.sample(list(kinds), len(kinds))
    return [Fault(i + 1, kind, seed) for i, kind in enumerate(drawn[:count])]
