"""Runs as one SLURM array job; a repeated submission sends only what is neither finished nor in the queue."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from resjax import machine
from resjax.errors import BadInput
from resjax.files import read_json, write_json
from resjax.sweep.plan import Run

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array={array}
#SBATCH --chdir={here}
#SBATCH --output={output}
#SBATCH --open-mode=append
#SBATCH --requeue
# So many seconds before the time limit a run gets SIGTERM, saves, and exits with 75.
#SBATCH --signal=TERM@120

# One task a run. Its output goes to its log; if it fails, its exit code is left beside that. If a signal stopped
# it, it is requeued; but a plain scancel ends this shell too, which does not trap it, so nothing is.
run() {{
    log=$1; shift
    mkdir -p "$(dirname "$log")"; rm -f "${{log%.log}}.exit"
    echo "$ {threads} $*" >> "$log"
    # SLURM sends its signals to the step that srun starts, not to this shell.
    srun --ntasks=1 ${{SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}} \\
        bash -c 'exec "$@" >> "$0" 2>&1' "$log" env {threads} "$@"
    code=$?
    case $code in
        75) scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" && sleep 60 ;;  # it ends this shell
        0 | 143) ;;  # 143: stopped before it could listen
        *) echo $code > "${{log%.log}}.exit" ;;
    esac
    exit $code
}}

case $SLURM_ARRAY_TASK_ID in
{tasks}
esac
"""


def submit(runs: list[Run], workdir: Path, jobs: int | None, options: str) -> str:
    """Writes the script of one array job for `runs`, submits it and returns its id.

    Args:
      jobs: how many may run at a time; None: as many as SLURM allows.
      options: further options of sbatch, such as `--gres=gpu:1 --time=8:00:00`.

    Raises:
      BadInput: if sbatch is missing or refuses the job, or for a folder that its script cannot name.
    """
    if not shutil.which("sbatch"):
        raise BadInput(
            "--launcher=slurm: there is no sbatch here; run this where SLURM is, or use --launcher=local"
        )
    folder = workdir / "slurm"
    text = script(runs, workdir, jobs, options)
    folder.mkdir(exist_ok=True)
    sent = _sent(workdir)
    path = folder / f"array{len(sent) + 1}.sh"
    path.write_text(text)
    done = subprocess.run(
        ["sbatch", "--parsable", *shlex.split(options), str(path)], capture_output=True, text=True
    )
    job = re.search(r"\d+", done.stdout)
    if done.returncode or not job:
        reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise BadInput(f"--launcher=slurm: sbatch refused {path}: {reason}; see --sbatch for its options")
    write_json(folder / "jobs.json", {**sent, job.group(): [run.name for run in runs]})
    return job.group()


def script(runs: list[Run], workdir: Path, jobs: int | None, options: str) -> str:
    """The batch script: task i is the i-th of `runs`; raises BadInput for a folder that it cannot name."""
    here, folder = Path.cwd(), workdir.absolute() / "slurm"
    for path in (here, folder):
        if not str(path).isprintable() or "\\" in str(path):
            raise BadInput(f"{str(path)!r}: SLURM needs a path of printable characters without backslashes")
    tasks = "\n".join(
        f"{i}) run {shlex.quote(str(run.log))} {shlex.join(run.here)} ;;" for i, run in enumerate(runs)
    )
    return SCRIPT.format(
        name=_quoted(f"resjax-{workdir.name}"),
        array=f"0-{len(runs) - 1}" + (f"%{jobs}" if jobs else ""),
        here=_quoted(str(here)),
        output=_quoted(str(folder).replace("%", "%%") + "/%A_%a.out"),
        threads=f"{machine.THREADS}={threads(options)}",
        tasks=tasks,
    )


def threads(options: str) -> int:
    """XLA's threads in every run, on which results depend, however many cores a node has.

    As many as the environment says, else as `options` of sbatch give a task cores, else as there are cores here.
    """
    cores = re.findall(r"(?:^|\s)(?:--cpus-per-task[= ]|-c ?)(\d+)", options)
    if cores and not any(name in os.environ for name in machine.VARIABLES):
        return int(cores[-1])
    return machine.threads()


def queued(workdir: Path) -> set[str]:
    """Names of the runs that wait or run in SLURM.

    Raises:
      BadInput: if SLURM or its record here does not answer, because then a submission could start a run twice.
    """
    if not shutil.which("squeue"):
        return set()
    sent = _sent(workdir)
    names = set()
    for job, runs in sent.items():
        command = ["squeue", "--array", "--noheader", "--format=%i", f"--jobs={job}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode and "Invalid job id" not in done.stderr:
            raise BadInput(f"--launcher=slurm: squeue failed: {done.stderr.strip()}; try again when SLURM answers")
        tasks = {int(task) for task in re.findall(rf"^{job}_(\d+)", done.stdout, re.MULTILINE)}
        names |= {run for task, run in enumerate(runs) if task in tasks}
    return names


def _sent(workdir: Path) -> dict[str, list[str]]:
    """Job id -> names of its tasks' runs, of all submissions."""
    path = workdir / "slurm" / "jobs.json"
    if not path.exists():
        return {}
    damage = BadInput(f"{path} is damaged: once squeue shows no job of this sweep any more, delete it")
    try:
        sent = read_json(path)
    except BadInput:
        raise damage from None
    if not isinstance(sent, dict) or not all(map(str.isdecimal, sent)):
        raise damage
    for runs in sent.values():
        if not isinstance(runs, list) or not all(isinstance(run, str) for run in runs):
            raise damage
    return sent


def _quoted(text: str) -> str:
    """A value as sbatch reads it from a script."""
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
