"""Drills a job: kills, stops, damages and crowds it, and compares its end with that of an undisturbed one.

    python -m resjax.drill --config=configs/digits.py --faults=20 --seed=0

The job is `resjax.main` with the same flags, and every step logged. It runs once undisturbed; a finished run in
WORKDIR/undisturbed is taken as that. Then it runs again and, at moments drawn from the seed, suffers one fault at a
time: in its start-up, at a step, while it saves, at its end. After each that ends it the same command goes on, and
a job that is done before the last fault is begun anew. Every job must end with the state digest and the records
of the undisturbed run, and each fault with the exit code and the one line that it should. WORKDIR/drill.json and
table.md hold what was found, WORKDIR/jobs what the jobs left and said.

Exit codes: 0 all is equal, 1 it is not, 2 bad input.
"""

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

import shlex
import shutil
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

import resjax
from resjax import cli, files
from resjax.drill import damage, report
from resjax.drill.faults import KINDS, NEED_A_CHECKPOINT_BEFORE, Whole, draw
from resjax.drill.job import Job
from resjax.drill.process import Command, Process
from resjax.errors import DONE, FAILED, BadInput, unknown
from resjax.train import lock

OWN = ("undisturbed", "undisturbed.log", "jobs", "drill.json", "table.md", lock.NAME)
PATIENCE = 10  # jobs that may be over before the same fault comes
LAUNCH = Path(resjax.__file__).parents[1] / "launch" / "local"
EVERY_STEP = "--config.log_every_steps=1"  # so that each is compared, and a moment can be any


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_integer("faults", 20, "How many.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "What kinds and moments are drawn from.", flag_values=values)
    flags.DEFINE_integer("processes", 1, "How many a job has, joined by launch/local.", flag_values=values)
    flags.DEFINE_integer("devices", None, "Split the CPU of each into so many devices.", flag_values=values)
    kinds = "; ".join(f"{kind}: {meaning}" for kind, meaning in KINDS.items())
    flags.DEFINE_list("kinds", None, f"Which faults; all by default. {kinds}.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The drill's folder; runs/drill-NAME by default.", flag_values=values)


def main(argv: list[str]) -> int:
    values = cli.parse(argv, define)
    if values.faults < 1:
        raise BadInput(f"--faults={values.faults}: must be at least 1")
    kinds = [kind for kind in KINDS if kind != "disk" or sys.platform == "linux"]
    if values.kinds is not None:
        kinds = values.kinds
    if not kinds:
        raise BadInput(f"--kinds is empty: name some of {', '.join(KINDS)}, or leave it out for all")
    for kind in kinds:
        if kind not in KINDS:
            raise BadInput(unknown("--kinds", kind, KINDS))
    if "disk" in kinds and sys.platform != "linux":
        raise BadInput(f"--kinds={','.join(kinds)}: disk works on Linux only; leave it out")
    command = started_by([*cli.recipe(argv), EVERY_STEP], values.processes, values.devices)
    workdir = Path(values.workdir or Path("runs") / f"drill-{values.config.name}")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # all as Ctrl-C
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        if workdir.exists() and not (workdir.is_dir() and all(path.name in OWN for path in workdir.iterdir())):
            raise BadInput(f"workdir={workdir} exists and is not a drill's; choose an empty or new folder")
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"workdir={workdir} is not writable: {error}; choose another --workdir") from error
    with lock.hold(workdir):
        return drill(command, workdir, kinds, values.faults, values.seed)


def started_by(arguments: list[str], processes: int, devices: int | None) -> Command:
    """What starts `resjax.main` with `arguments`, alone or, by `launch/local`, as several processes.

    Raises:
      BadInput: for several without a checkout.
    """
    split = [] if devices is None else [f"--devices={devices}"]
    if processes == 1:
        return Command([sys.executable, "-m", "resjax.main", *arguments, *split])
    if processes < 1 or not LAUNCH.is_file():
        raise BadInput(f"--processes={processes}: must be 1, or in a checkout, which has launch/local, more")
    return Command([sys.executable, str(LAUNCH), f"--processes={processes}", *split, "--", *arguments], processes)


def drill(command: Command, workdir: Path, kinds: list[str], faults: int, seed: int) -> int:
    """Runs `command` undisturbed and then through the faults, and writes what was found.

    Raises:
      BadInput: if the job itself fails, or has no checkpoint that could be damaged.
    """
    undisturbed = workdir / "undisturbed"
    summary = run_undisturbed(command, undisturbed)
    kept = damage.checkpoints(undisturbed)
    needing = [kind for kind in kinds if kind in NEED_A_CHECKPOINT_BEFORE]
    if needing and len(kept) < 2:
        raise BadInput(
            f"--kinds={','.join(needing)}: the job keeps {len(kept)} checkpoint, and to damage the newest "
            "there must be one before it; set checkpoint_every_steps lower and checkpoint_keep to at least 2"
        )
    largest = max(path.stat().st_size for path in kept[0].rglob("*") if path.is_file())
    whole = Whole(summary["steps"], largest, 60 + 3 * summary["seconds"])
    shutil.rmtree(workdir / "jobs", ignore_errors=True)  # of an earlier drill
    (workdir / "jobs").mkdir()
    waiting = draw(kinds, faults, seed)
    jobs: list[Job] = []
    while waiting and not any(job.broken and not job.rows for job in jobs):
        with closing(Job(command, workdir / "jobs" / str(len(jobs) + 1), whole)) as job:
            jobs.append(job)
            while waiting and (row := job.suffer(waiting[0])):
                waiting.pop(0)
                told = [f"{row.number:>3} of {faults}", row.kind, row.what, row.moment, *row.wrong]
                say("  ".join(part for part in told if part))
            job.finish()
            if waiting and waiting[0].missed == PATIENCE:
                kind = waiting[0].kind
                raise BadInput(f"--kinds={kind}: {PATIENCE} jobs were over before it could come; leave it out")
        say(f"job {len(jobs)} is {'broken' if job.broken else 'done'}")
    found = report.collect(jobs, undisturbed)
    about = {"command": shlex.join(["python", "-m", "resjax.drill", *sys.argv[1:]]), "undisturbed": summary}
    files.write_json(workdir / "drill.json", about | found)
    text = report.text(found)
    files.replace(workdir / "table.md", text)
    print(text, end="")
    return FAILED if found["wrong"] else DONE


def run_undisturbed(command: Command, workdir: Path) -> dict[str, Any]:
    """The summary of the run that no fault meets; a finished one is taken as it is."""
    say(f"{shlex.join(command.argv[1:])}, undisturbed")
    with Process(command, workdir, threading.TIMEOUT_MAX) as process:
        if process.end() != DONE:
            last = (process.lines or [""])[-1]
            raise BadInput(f"the job itself fails with exit code {process.code}: {last.removeprefix('error: ')}")
    return files.read_json(workdir / "summary.json")


def _stop(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
