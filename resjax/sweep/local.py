"""Runs on this machine, a few at a time: each is one process in a session of its own."""

import shlex
import subprocess
import time
from collections import deque
from collections.abc import Callable
from typing import IO

from resjax import machine
from resjax.errors import INTERRUPTED
from resjax.sweep import share
from resjax.sweep.plan import Run
from resjax.sweep.progress import Display
from resjax.train.preemption import StopRequest

POLL_SECONDS = 0.1
Running = dict[int, tuple[Run, subprocess.Popen[bytes]]]  # by slot


def execute(runs: list[Run], jobs: int, progress: Display, lock: IO[str], changed: Callable[[], object]) -> None:
    """Runs all of `runs`, `jobs` at a time; one that fails leaves its exit code and stops no other.

    A signal is passed on to the children as one SIGTERM: each saves and exits, and the next sweep resumes it.

    Args:
      lock: an open file that the children inherit, so that its lock lasts as long as any of them.
      changed: called after every run that ended.
    """
    waiting = deque(runs)
    running: Running = {}
    with StopRequest("") as stop, progress:
        told = False
        try:
            while running or (waiting and not stop.requested):
                if stop.requested and not told:
                    told = True
                    progress.say("stopping: the runs save first (again: leave at once)")
                    _terminate(running)
                ended = {slot: job for slot, job in running.items() if job[1].poll() is not None}
                for slot, (run, process) in ended.items():
                    del running[slot]
                    # A run that the signal met before it could listen has nothing to save and did not fail.
                    code = INTERRUPTED if told and process.returncode < 0 else process.returncode
                    if code not in (0, INTERRUPTED):
                        run.exit.write_text(f"{code}\n")
                    progress.ended(run, code)
                for slot in range(jobs):
                    if slot not in running and waiting and not stop.requested:
                        run = waiting.popleft()
                        running[slot] = run, start(run, slot, jobs, lock)
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


def command(run: Run) -> str:
    """The command line that repeats a run bit for bit by itself, on any number of cores."""
    return shlex.join([f"{machine.THREADS}={machine.threads()}", *run.command])


def start(run: Run, slot: int, jobs: int, lock: IO[str]) -> subprocess.Popen[bytes]:
    """Starts one run on its share of the machine, with its output in its log."""
    run.log.parent.mkdir(parents=True, exist_ok=True)
    run.exit.unlink(missing_ok=True)
    environment = share.environment(slot, jobs)  # counts all cores, so before `share.cores`
    with run.log.open("a") as log:
        log.write(f"$ {command(run)}\n")
        log.flush()
        with share.cores(slot, jobs):
            return subprocess.Popen(
                run.here,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(lock.fileno(),),
                # Ctrl-C goes to all of a terminal's foreground group; a second signal would keep a run from saving.
                start_new_session=True,
            )


def _terminate(running: Running) -> None:
    for _, process in running.values():
        process.terminate()
