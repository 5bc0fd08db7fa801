"""Trains several runs in one process: each is a thread, and equal networks and data sets exist once.

    python -m resjax.sweep.together -- --config=configs/digits.py --workdir=runs/0 -- --config=configs/digits.py \\
        --config.seed=1 --workdir=runs/1

What follows each `--` are the flags of `resjax.main` for one run. Runs whose configs differ in the seed alone share
a compiled program. Each writes its folder as it does by itself, and what it says into `WORKDIR.log`. A line on
stdout tells of each that ended: its exit code and its folder. One that fails ends alone; a signal stops all, and
each saves its own step. Several devices are dealt out: each run has its part of them, and all work at once.

Exit codes: 0 done, 1 a run failed, 2 bad input, 75 stopped by a signal with the states saved.
"""

from resjax import allocation, interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds
    allocation.keep()
elif __name__ == "__mp_main__":
    from resjax.data import worker

    worker.live_and_die_with_parent()

import os
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

import jax
from absl import flags
from ml_collections import ConfigDict

from resjax import cli, experiment
from resjax.errors import DONE, FAILED, INTERRUPTED, BadInput, NotSaved
from resjax.main import train_run
from resjax.sweep.share import share
from resjax.train import hosts
from resjax.train.peers import Alone
from resjax.train.preemption import StopRequest

SEPARATOR = "--"


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_integer("parts", None, "Of the devices; by default one for each run.", flag_values=values)


def define_run(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "The run's folder; runs/NAME by default.", flag_values=values)


def main(argv: list[str]) -> int:
    own, *each = split(argv)
    parts = cli.parse(own, define, config=False).parts
    if not each:
        raise BadInput(f"there are no runs: give the flags of each after a {SEPARATOR}")
    parts = len(each) if parts is None else parts
    if parts < len(each):
        raise BadInput(f"--parts={parts}: must be at least {len(each)}, one for each run")
    asked = []
    for given in each:
        values = cli.parse(given, define_run)
        asked.append((Path(values.workdir or Path("runs") / values.config.name), values.config, given))
    workdir, count = Counter(workdir for workdir, _, _ in asked).most_common(1)[0]
    if count > 1:  # a lock keeps other processes out, but not other threads
        raise BadInput(f"--workdir={workdir} is that of {count} runs: give each its own")
    if hosts.place(None, None, None, hosts.PATIENCE):
        raise BadInput("this process is one of several of a job, and its runs would need one: start it by itself")
    cli.use_compilation_cache()
    devices, shared = jax.devices(), experiment.Shared()
    with (
        StopRequest("each run saves and stops after its step (again: leave at once)") as stop,
        redirect_stdout(cast(TextIO, Own(sys.stdout))),
        redirect_stderr(cast(TextIO, Own(sys.stderr))),
    ):
        runs = [Member(*one, stop, share(devices, i, parts), shared) for i, one in enumerate(asked)]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
    codes = {run.code for run in runs}
    code = FAILED if codes - {DONE, INTERRUPTED} else max(codes)
    if any(run.stuck for run in runs):
        os._exit(code)  # as `cli.run` does
    return code


def split(argv: list[str]) -> list[list[str]]:
    """The parts of a command line before, between and after its separators."""
    parts: list[list[str]] = [[]]
    for argument in argv:
        if argument == SEPARATOR:
            parts.append([])
        else:
            parts[-1].append(argument)
    return parts


class Own:
    """A standard stream: in the thread of a run it is the run's log, in all others what it was."""

    here = threading.local()

    def __init__(self, before: TextIO) -> None:
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self.here, "log", self._before), name)


class Stopping(Alone):
    """The job of a run that stops when its process is asked to."""

    def __init__(self, stop: StopRequest) -> None:
        super().__init__()
        self._process = stop

    def stops(self, step: int) -> bool:
        """Whether to stop here."""
        return self._process.requested


class Member(threading.Thread):
    """One run.

    Attributes:
      code: its exit code, once it has ended.
      stuck: whether it left threads behind that nothing ends; see `NotSaved`.
    """

    def __init__(
        self,
        workdir: Path,
        config: ConfigDict,
        argv: list[str],
        stop: StopRequest,
        devices: Sequence[jax.Device],
        shared: experiment.Shared,
    ) -> None:
        super().__init__(name=str(workdir))
        self.code, self.stuck = FAILED, False
        self._workdir, self._config, self._argv = workdir, config, argv
        self._stop_request, self._devices, self._shared = stop, devices, shared

    def run(self) -> None:
        """Trains, and tells the exit code."""
        with suppress(OSError):  # of a full disk, which the log is on, too
            self._workdir.parent.mkdir(parents=True, exist_ok=True)
            with self._workdir.with_name(self._workdir.name + ".log").open("a", buffering=1) as log:
                Own.here.log = log
                try:
                    self.code = self._train()
                except Exception:
                    traceback.print_exc()
                finally:
                    del Own.here.log
        with suppress(OSError):  # nobody reads any more
            print(f"{self.code} {self._workdir}", flush=True)

    def _train(self) -> int:
        if self._stop_request.requested:
            return INTERRUPTED
        try:
            job = Stopping(self._stop_request)
            return train_run(self._workdir, self._config, self._argv, job, self._devices, self._shared)
        except BadInput as error:
            self.stuck = cli.led_to(error, NotSaved)
            return cli.refuse(error)


if __name__ == "__main__":
    cli.run(main)
