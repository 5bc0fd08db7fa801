"""A job that goes through faults: the same command, run again after each, until it is done."""

import dataclasses
import itertools
import re
import signal
import time
from pathlib import Path

from resjax.drill import damage
from resjax.drill.faults import STOPS, Fault, Whole
from resjax.drill.process import Command, Hang, Process
from resjax.errors import BAD_INPUT, DONE, INTERRUPTED

# What every run says; the rest is news.
USUAL = re.compile(
    "(resjax|device|network|data|training|logs|note|resumed|compiled|step|done|digest|results) | |to go on,|SIG"
    "|.* is finished: |.*resource_tracker.py"
)
ENDED_BY_FORCE = re.compile("launch/local: SIG.* still running")
CRASH = re.compile(r"Traceback |Exception |Fatal |[\w.]+Error\b")


@dataclasses.dataclass
class Row:
    """What became of one fault.

    Attributes:
      number: which fault it was, from 1.
      kind: one of `faults.KINDS`.
      what: what was done, where the kind alone does not say it.
      moment: when it came.
      code: how the process ended, or the second one; None if it went on.
      seconds: from the fault to that end.
      reached: the last step of the process that the fault ended; None before its first.
      resumed: the step that the job went on from.
      said: what the process said to it, and the next one.
      wrong: what should not have been.
    """

    number: int
    kind: str
    what: str = ""
    moment: str = ""
    code: int | None = None
    seconds: float | None = None
    reached: int | None = None
    resumed: int | None = None
    said: list[str] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)

    @property
    def cost(self) -> int:
        """How many steps had to be done again."""
        return 0 if self.reached is None or self.resumed is None else self.reached - self.resumed


class Job:
    """One job in a folder of its own; `close` ends its process.

    Attributes:
      rows: the faults that it has met.
      wrong: what went wrong before it met any.
      over: it is done, or cannot go on.
      broken: it cannot.
    """

    def __init__(self, command: Command, workdir: Path, whole: Whole) -> None:
        self.rows: list[Row] = []
        self.wrong: list[str] = []
        self.over = self.broken = False
        self.workdir = workdir
        self._command, self._whole = command, whole
        self._process: Process | None = None
        self._startup = 2.0  # seconds to the first step, of the latest process that got there
        self._unsettled: Row | None = None  # where the job goes on after it is not known yet

    def suffer(self, fault: Fault) -> Row | None:
        """Runs the job until the fault comes, and lets it come; None if the job was over before."""
        running = self._running()
        row = Row(fault.number, fault.kind)
        try:
            if not fault.wait(running, self._whole, self._startup):
                self._end()
                fault.again()
                return None
            self.rows.append(row)
            step = running.step()
            row.moment = f"start-up, {time.monotonic() - running.began:.1f} s" if step is None else f"step {step}"
            row.moment += ", saving" if running.saving() else ""
            self._hit(fault, row, running)
        except Hang as error:
            if row not in self.rows:
                self.rows.append(row)
            row.wrong.append(str(error))
            self.close()
        return row

    def finish(self) -> None:
        """Runs the job to its end."""
        while not self.over:
            self._running()
            try:
                self._end()
            except Hang as error:
                self._blame([str(error)])
                self.close()
                self.over = self.broken = True

    def _hit(self, fault: Fault, row: Row, running: Process) -> None:
        rng, at, began = fault.rng, len(running.lines), time.monotonic()
        begun = running.ready is not None
        if fault.kind == "pause":
            seconds = rng.uniform(0, 2)
            row.what = f"{seconds:.1f} s"
            running.hold()
            time.sleep(seconds)
            running.go_on()
            return
        if fault.kind == "second":
            self._second(row, running)
            return
        if fault.kind == "disk":
            size = int(self._whole.largest ** rng.random())
            row.what = f"{size:,} bytes"
            running.limit_files(size)
        elif fault.kind == "interrupt":
            running.send(signal.SIGINT)
        elif fault.kind == "twice":
            first, again = rng.choices(STOPS, k=2)
            row.what = f"{first.name}, {again.name}"
            running.send(first, running.id)
            running.sleep(rng.uniform(0, 0.3))
            running.send(again, running.id)
        else:
            struck = rng.choice(running.members())
            running.send(signal.SIGTERM if fault.kind == "stop" else signal.SIGKILL, struck)
        row.code = running.end()
        row.seconds = time.monotonic() - began
        row.reached = running.step()
        row.said += news(running.lines[at:])
        row.wrong += self._complaints(running, row.code)
        right = fault.codes(begun, self._done(running), self._command.processes > 1)
        if row.code not in right:
            row.wrong.append(f"exit code {row.code} instead of {' or '.join(map(str, sorted(right)))}")
        self._settle(running)
        if row.reached is not None:
            self._unsettled = row
        self._process = None
        if fault.kind in damage.DAMAGES:
            row.what = damage.DAMAGES[fault.kind](self.workdir, rng)

    def _second(self, row: Row, first: Process) -> None:
        """Starts the command once more; of two that start together either may be refused."""
        began, begun = time.monotonic(), first.ready is not None
        second = self._start()
        try:
            if begun:  # it is held, for else it might be done before the second has started
                first.hold()
            refused, stays = (first, second) if second.until(lambda: first.code is not None) else (second, first)
            first.go_on()
            row.code, row.seconds = refused.end(), time.monotonic() - began
        except BaseException:
            second.kill()
            raise
        self._process = stays
        row.said += news(refused.lines)
        row.wrong += self._complaints(refused, row.code)
        if row.code != BAD_INPUT and not (row.code == DONE and self._done(refused)):
            row.wrong.append(f"exit code {row.code} of the second process instead of {BAD_INPUT}")
        if row.code == BAD_INPUT and len(refused.lines) != 1 and self._command.processes == 1:
            row.wrong.append(f"{len(refused.lines)} lines instead of one")

    def _complaints(self, process: Process, code: int) -> list[str]:
        """What is wrong with how a process spoke: a crash, not one line for an error, or a peer that hangs."""
        lines = process.lines
        wrong = [f"it crashed: {line}" for line in lines if CRASH.match(line)][-1:]
        errors = [line for line in lines if line.startswith("error:")]
        if len(errors) > self._command.processes:
            wrong.append(f"{len(errors)} error lines")
        if code == BAD_INPUT and (not errors or (self._command.processes == 1 and lines[-1] != errors[-1])):
            wrong.append("exit code 2, and its last line is no error")
        if process.ready is not None and any(ENDED_BY_FORCE.match(line) for line in lines):
            wrong.append("a process hung after it lost another, and was ended")
        return wrong

    def _done(self, process: Process) -> bool:
        """Whether a process had no step left to do."""
        return max(process.start or 0, process.step() or 0) >= self._whole.steps

    def _end(self) -> None:
        """Waits for the end of the job's process, which no fault brings about."""
        running = self._running()
        code = running.end()
        self._process = None
        self._settle(running)
        self._blame(self._complaints(running, code))
        if code != DONE:
            self._blame([f"the next process ended with exit code {code}: {(running.lines or [''])[-1]}"])
        self.over, self.broken = True, code != DONE

    def _settle(self, process: Process) -> None:
        """Notes where the job went on after its last fault, now that a process has ended that may know."""
        row = self._unsettled
        if row is None or process.start is None:
            return
        before = itertools.takewhile(lambda line: not line.startswith(("resumed ", "compiled ")), process.lines)
        row.resumed = process.start
        row.said += news(list(before))
        if row.code == INTERRUPTED and row.cost:
            row.wrong.append(f"it said that it saved, but {row.cost} steps were lost")
        self._unsettled = None

    def _blame(self, wrong: list[str]) -> None:
        (self.rows[-1].wrong if self.rows else self.wrong).extend(wrong)

    def _running(self) -> Process:
        if self._process is None:
            self._process = self._start()
        elif self._process.ready is not None:
            self._startup = self._process.ready
        return self._process

    def _start(self) -> Process:
        return Process(self._command, self.workdir, self._whole.patience)

    def close(self) -> None:
        """Ends its process."""
        if self._process is not None:
            self._process.kill()
            self._process = None


def news(lines: list[str]) -> list[str]:
    """The lines that not every run says, up to a crash."""
    said = itertools.takewhile(lambda line: not CRASH.match(line), lines)
    return [line for line in said if line and not USUAL.match(line)]
