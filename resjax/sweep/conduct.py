"""Runs a sweep with the chosen launcher, and keeps its table up to date."""

import fcntl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from absl import flags

from resjax.errors import FAILED, INTERRUPTED, BadInput
from resjax.sweep import local, share, slurm
from resjax.sweep.plan import LOCK, Run, check_data, check_workdir, store
from resjax.sweep.progress import Display

MOST_TOGETHER = 64  # whose command lines one process can be given

Write = Callable[[list[Run], Path], str]


def define(values: flags.FlagValues) -> None:
    """The flags of every command that runs a sweep."""
    flags.DEFINE_string("workdir", None, "The sweep's folder.", flag_values=values)
    flags.DEFINE_integer("jobs", None, "Processes at a time.", flag_values=values)
    flags.DEFINE_integer("together", 1, "Runs at a time in a process; 0: chosen.", flag_values=values)
    flags.DEFINE_enum("launcher", "local", ["local", "slurm"], "Where the runs go.", flag_values=values)
    flags.DEFINE_string("sbatch", "", "Options of sbatch, such as --gres=gpu:1.", flag_values=values)
    flags.DEFINE_boolean("dry_run", False, "Print the commands or the job; run nothing.", flag_values=values)


def conduct(
    runs: list[Run], chosen: list[Run], workdir: Path, values: flags.FlagValues, write: Write, jobs: int = 1
) -> int:
    """Runs those of `chosen` that are not finished, and writes the table of all `runs` after each.

    Args:
      values: the flags of `define`.
      write: writes the table and returns it as text.
      jobs: how many processes work at a time here if the flags do not say.

    Returns:
      The exit code: 0, 1 if a run failed, 75 if the sweep was stopped.

    Raises:
      BadInput: before anything is written, for input that cannot work.
    """
    if values.jobs is not None and values.jobs < 1:
        raise BadInput(f"--jobs={values.jobs}: must be at least 1")
    if not 0 <= values.together <= MOST_TOGETHER:
        raise BadInput(f"--together={values.together}: must be at least 0 and at most {MOST_TOGETHER}")
    if values.together > 1 and values.launcher == "slurm":
        raise BadInput(f"--together={values.together}: on SLURM every run is a task of its own; leave it out")
    together = values.together or share.together(values.jobs or jobs)
    check_workdir(runs, workdir)
    missing = [run for run in chosen if not run.summary()]
    if values.dry_run:
        if values.launcher == "local":
            print("\n".join(local.command(batch, together) for batch in local.batches(missing, together)))
        elif missing:
            print(slurm.script(missing, workdir, values.jobs, values.sbatch), end="")
        say(f"{len(missing)} runs to do, {len(chosen) - len(missing)} finished")
        return 0
    check_data(missing)
    queued = slurm.queued(workdir)
    if queued and values.launcher == "local":
        raise BadInput(f"workdir={workdir}: {len(queued)} of its runs are in SLURM's queue; use --launcher=slurm")
    with lock(workdir) as held:
        store(runs, workdir)
        if values.launcher == "slurm":
            return _submit(runs, missing, queued, workdir, values, write)
        jobs = min(values.jobs or jobs, len(local.batches(missing, together)) or 1)
        progress = Display(chosen, jobs * together)
        local.execute(missing, jobs, together, progress, workdir, held, lambda: write(runs, workdir))
        print(write(runs, workdir), end="")
    say(f"table in {workdir / 'table.md'} (.csv, .json)")
    if progress.interrupted():
        say("stopped; to go on, run the same command again")
        return INTERRUPTED
    failed = [run.name for run in chosen if run.error()]
    if failed:
        say(f"{len(failed)} failed: {', '.join(failed)}; the same command tries them again")
    return FAILED if failed else 0


def lock(workdir: Path) -> IO[str]:
    """Creates `workdir` and locks it for as long as the file, or a child's copy of it, stays open.

    Raises:
      BadInput: if the folder cannot be written, or another sweep runs in it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK).open("a")
    except OSError as error:
        raise BadInput(f"workdir={workdir} is not writable: {error.strerror}; choose another --workdir") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BadInput(f"workdir={workdir}: a sweep is running in it; wait until it ends") from None
    return file


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _submit(
    runs: list[Run], missing: list[Run], queued: set[str], workdir: Path, values: flags.FlagValues, write: Write
) -> int:
    rest = [run for run in missing if run.name not in queued]
    if rest:
        job = slurm.submit(rest, workdir, values.jobs, values.sbatch)
        say(f"submitted {len(rest)} runs as SLURM job {job}; {len(queued)} are in the queue already")
    else:
        say(f"nothing to submit: {len(missing)} runs are missing, all of them in the queue")
    print(write(runs, workdir), end="")
    say("the same command submits what is missing by then, and renews the table")
    return 0
