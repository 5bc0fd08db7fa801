"""Runs on this machine, a few at a time: each process is in a session of its own, and trains one run or several."""

import os
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

from resjax import machine
from resjax.errors import FAILED, INTERRUPTED
from resjax.sweep import share
from resjax.sweep.plan import Run
from resjax.sweep.progress import Display
from resjax.train.preemption import StopRequest

POLL_SECONDS = 0.1
LOG = "together.log"  # what a process of several runs says beside their own logs


class Process:
    """A process and the runs in it that have not ended."""

    def __init__(self, runs: list[Run], process: subprocess.Popen[bytes]) -> None:
        self._runs = {str(run.workdir): run for run in runs}
        self._process = process
        self._told = b""
        if process.stdout:
            os.set_blocking(process.stdout.fileno(), False)

    def ended(self) -> list[tuple[Run, int]]:
        """The runs that have ended since the last call, with their exit codes, or minus the number of a signal."""
        code = self._process.poll()  # before what it has told is read, which then is all
        found = []
        if self._process.stdout:
            self._told += self._process.stdout.read() or b""
            *lines, self._told = self._told.split(b"\n")
            for line in lines:  # CODE WORKDIR, as `together` writes them
                said, _, workdir = line.decode(errors="replace").partition(" ")
                if workdir in self._runs:
                    found.append((self._runs.pop(workdir), int(said)))
        if code is not None:
            # One that says nothing of some of its runs has not ended well, whatever its code.
            found += [(run, code if not self._process.stdout else code or FAILED) for run in self._runs.values()]
            self._runs = {}
        return found

    def works(self) -> bool:
        """Whether any of its runs has not ended, or the process has not."""
        return bool(self._runs) or self._process.poll() is None

    def terminate(self) -> None:
        """Asks it to save and exit."""
        self._process.terminate()


Running = dict[int, Process]  # by slot


def execute(
    runs: list[Run],
    jobs: int,
    together: int,
    progress: Display,
    workdir: Path,
    lock: IO[str],
    changed: Callable[[], object],
) -> None:
    """Runs all of `runs` in `jobs` processes at a time; one that fails leaves its exit code and stops no other.

    A signal is passed on to the children as one SIGTERM: each saves and exits, and the next sweep resumes it.

    Args:
      together: how many runs, in their order, a process trains at a time; a process of 1 is `resjax.main`.
      lock: an open file that the children inherit, so that its lock lasts as long as any of them.
      changed: called after every run that ended.
    """
    waiting = deque(batches(runs, together))
    running: Running = {}
    with StopRequest("") as stop, progress:
        told = False
        try:
            while running or (waiting and not stop.requested):
                if stop.requested and not told:
                    told = True
                    progress.say("stopping: the runs save first (again: leave at once)")
                    _terminate(running)
                ended = [one for process in running.values() for one in process.ended()]
                for run, returned in ended:
                    # A run that the signal met before it could listen has nothing to save and did not fail.
                    code = INTERRUPTED if told and returned < 0 else returned
                    if code not in (0, INTERRUPTED):
                        run.exit.write_text(f"{code}\n")
                    progress.ended(run, code)
                running = {slot: process for slot, process in running.items() if process.works()}
                for slot in range(jobs):
                    if slot not in running and waiting and not stop.requested:
                        batch = waiting.popleft()
                        running[slot] = start(batch, slot, jobs, together, workdir, lock)
                        for run in batch:
                            progress.started(run)
                if ended:
                    changed()
                else:
                    progress.update()
                    time.sleep(POLL_SECONDS)
        except BaseException:
            # Such as a full disk while the table is written: no run may outlive the sweep unseen.
            _terminate(running)
            raise


def batches(runs: list[Run], together: int) -> list[list[Run]]:
    """What each process trains: neighbours, which are seeds of one network where it has several."""
    return [runs[i : i + together] for i in range(0, len(runs), together)]


def command(batch: list[Run], together: int) -> str:
    """The command line that repeats runs bit for bit by themselves, on any number of cores."""
    run = batch[0].command if together == 1 else ["python", *of_several(batch, together)]
    return shlex.join([f"{machine.THREADS}={machine.threads()}", *run])


def of_several(batch: list[Run], together: int) -> list[str]:
    """What Python is given to train several runs in one process."""
    flags = [flag for run in batch for flag in ("--", *run.flags)]
    return ["-m", "resjax.sweep.together", f"--parts={together}", *flags]


def start(batch: list[Run], slot: int, jobs: int, together: int, workdir: Path, lock: IO[str]) -> Process:
    """Starts a process on its share of the machine, with the output of each run in its log."""
    for run in batch:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        run.exit.unlink(missing_ok=True)
        with run.log.open("a") as log:
            log.write(f"$ {command([run], 1)}\n")
    environment = share.environment(slot, jobs)  # counts all cores, so before `share.cores`
    alone = together == 1
    with (batch[0].log if alone else workdir / LOG).open("a") as log, share.cores(slot, jobs):
        return Process(
            batch,
            subprocess.Popen(
                batch[0].here if alone else [sys.executable, *of_several(batch, together)],
                stdin=subprocess.DEVNULL,
                stdout=log if alone else subprocess.PIPE,
                stderr=log,
                env=environment,
                pass_fds=(lock.fileno(),),
                # Ctrl-C goes to all of a terminal's foreground group; a second signal would keep a run from saving.
                start_new_session=True,
            ),
        )


def _terminate(running: Running) -> None:
    for process in running.values():
        process.terminate()
