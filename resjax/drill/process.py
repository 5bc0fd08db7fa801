"""A running job: in a process group of its own, watched, hit by signals, and never left behind."""

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from resjax import tie

POLL_SECONDS = 0.004
BEGINS_AT = re.compile(r"resumed  from step (\d+)|.* is finished: (\d+) steps")


class Hang(Exception):
    """A process did not do in time what it should; it has been killed."""


@dataclasses.dataclass(frozen=True)
class Command:
    """What starts a job, as soon as a --workdir is appended; `processes` of them, if more than one, joined."""

    argv: list[str]
    processes: int = 1


class Process:
    """`command` on `workdir`, from its start.

    Attributes:
      lines: what it has said so far, stdout and stderr together.
      began: `time.monotonic()` at its start.
      ready: seconds from there to its first step; None before.
      start: the step that it goes on from; None before it says so.
    """

    def __init__(self, command: Command, workdir: Path, patience: float) -> None:
        self.workdir = workdir
        self.lines: list[str] = []
        self.began = time.monotonic()
        self.ready: float | None = None
        self.start: int | None = None
        self._patience = patience
        self._since = time.time()
        self._joined = command.processes > 1
        argv = [*command.argv, f"--workdir={workdir}"]
        self._popen = subprocess.Popen(
            tie.tied_to_us(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # not a file: that would count when its disk is full
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(argv,), daemon=True)
        self._reader.start()

    def _read(self, argv: list[str]) -> None:
        """Keeps what it says, also in a log beside the workdir."""
        said = self._popen.stdout
        assert said is not None
        with said, self.workdir.with_name(f"{self.workdir.name}.log").open("a", buffering=1) as log:
            log.write(f"$ {shlex.join(argv)}\n")
            for line in said:
                log.write(line)
                line = re.sub(r"^\[\d+\] ", "", line)  # which of several processes said it
                if found := BEGINS_AT.match(line):
                    self.start = int(found[1] or found[2])
                elif line.startswith("compiled first step"):
                    self.start, self.ready = self.start or 0, time.monotonic() - self.began
                self.lines.append(line.rstrip("\n"))

    def step(self) -> int | None:
        """The last step that this process has logged; None before its first."""
        if self.ready is None:
            return None
        return last_step(self.workdir / "metrics.jsonl")

    def saving(self) -> bool:
        """Whether it is writing a checkpoint at this moment."""
        begun = [path for path in listed(self.workdir / "checkpoints") if "checkpoint-tmp" in path.name]
        with suppress(OSError):  # it may be done by now
            return any(path.stat().st_mtime > self._since for path in begun)
        return False

    @property
    def id(self) -> int:
        """Its number in the system, and that of its group."""
        return self._popen.pid

    @property
    def code(self) -> int | None:
        """Its exit code, minus the number of the signal that ended it; None while it runs."""
        return self._popen.poll()

    def until(self, reached: Callable[[], bool]) -> bool:
        """Waits until `reached()`; False if the process has ended before.

        Raises:
          Hang: if neither came in time.
        """
        deadline = time.monotonic() + self._patience
        while not reached():
            if self.code is not None:
                return False
            if time.monotonic() > deadline:
                self.kill()
                raise Hang(f"nothing came of it for {self._patience:.0f} s")
            time.sleep(POLL_SECONDS)
        return True

    def sleep(self, seconds: float) -> bool:
        """Waits so long; False if the process has ended by then."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
        return self.code is None

    def send(self, number: int, member: int | None = None) -> None:
        """Sends a signal to one of `members`, or to the whole group as a terminal does; nothing if it has ended."""
        if self.code is None:
            with suppress(ProcessLookupError):
                if member is None:
                    os.killpg(self.id, number)
                else:
                    os.kill(member, number)

    def members(self) -> list[int]:
        """The ids of the processes that are joined, if they have started; else of the one that was started."""
        children = Path(f"/proc/{self.id}/task/{self.id}/children")
        found = children.read_text().split() if self._joined and children.exists() else []
        return [int(child) for child in found] or [self.id]

    def hold(self) -> None:
        """Stops all of it until `go_on`."""
        self._to_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets it go on after `hold`."""
        self._to_all(signal.SIGCONT)

    def _to_all(self, number: int) -> None:
        for member in self.members() if self.code is None else ():
            with suppress(ProcessLookupError):
                os.killpg(member, number)  # each leads a group

    def limit_files(self, size: int) -> None:
        """From now on no file that it writes can grow beyond `size` bytes."""
        import resource  # here, because prlimit is Linux's

        for member in self.members():
            with suppress(ProcessLookupError):
                _, most = resource.prlimit(member, resource.RLIMIT_FSIZE)
                resource.prlimit(member, resource.RLIMIT_FSIZE, (size, most))

    def end(self) -> int:
        """Waits for its end, and for that of all that it started; returns the exit code.

        Raises:
          Hang: if it does not end in time, or leaves processes behind.
        """
        try:
            code = self._popen.wait(self._patience)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Hang(f"it did not end within {self._patience:.0f} s") from None
        self._reader.join(self._patience)  # its output is closed when nobody holds it any more
        if self._reader.is_alive():
            self.kill()
            raise Hang(f"processes that it started live on {self._patience:.0f} s after its end")
        return code

    def kill(self) -> None:
        """Kills its whole group, which is there as long as its output is open."""
        if self.code is None or self._reader.is_alive():
            with suppress(ProcessLookupError):
                os.killpg(self.id, signal.SIGKILL)
        self._popen.wait()
        self._reader.join(5)

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def listed(folder: Path) -> list[Path]:
    """What a folder holds; nothing if it is not there."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def last_step(path: Path) -> int | None:
    """The step of the last whole record of a metrics.jsonl, None without one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            tail = file.read()
    except OSError:
        return None
    for line in reversed(tail.split(b"\n")[:-1]):
        with suppress(ValueError):
            record: Any = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                return record["step"]
    return None
