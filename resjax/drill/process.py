"""One process of a job: in a group of its own, watched, hit by signals, and never left behind."""

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

POLL_SECONDS = 0.004
BEGINS_AT = re.compile(r"resumed  from step (\d+)|.* is finished: (\d+) steps")


class Hang(Exception):
    """A process did not do in time what it should; it has been killed."""


class Process:
    """`command` on `workdir`, from its start.

    Attributes:
      lines: what it has said so far, stdout and stderr together.
      began: `time.monotonic()` at its start.
      ready: seconds from there to its first step; None before.
      start: the step that it goes on from; None before it says so.
    """

    def __init__(self, command: list[str], workdir: Path, patience: float) -> None:
        self.workdir = workdir
        self.lines: list[str] = []
        self.began = time.monotonic()
        self.ready: float | None = None
        self.start: int | None = None
        self._patience = patience
        self._since = time.time()
        command = [*command, f"--workdir={workdir}"]
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # not a file: that would count when its disk is full
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(command,), daemon=True)
        self._reader.start()

    def _read(self, command: list[str]) -> None:
        """Keeps what it says, also in a log beside the workdir."""
        said = self._popen.stdout
        assert said is not None
        with said, self.workdir.with_name(f"{self.workdir.name}.log").open("a", buffering=1) as log:
            log.write(f"$ {shlex.join(command)}\n")
            for line in said:
                log.write(line)
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

    def send(self, number: int, group: bool = False) -> None:
        """Sends a signal to the process, or to all of its group as a terminal does; nothing if it has ended."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self._popen.pid, number)

    def limit_files(self, size: int) -> None:
        """From now on no file that it writes can grow beyond `size` bytes."""
        import resource  # here, because prlimit is Linux's

        with suppress(ProcessLookupError):
            resource.prlimit(self._popen.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

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
        """Kills its whole group."""
        self.send(signal.SIGKILL, group=True)
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
