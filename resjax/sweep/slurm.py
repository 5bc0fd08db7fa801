"""Runs as one SLURM array job; a repeated submission sends only what is neither finished nor in the queue."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from resjax.errors import BadInput
from resjax.files import write_json
from resjax.sweep.plan import Run

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name="{name}"
#SBATCH --array={array}
#SBATCH --chdir="{here}"
#SBATCH --output="{folder}/%A_%a.out"
# One task a run. Its output goes to its log; if it fails, its exit code is left beside that.

run() {{
    log=$1; shift
    mkdir -p "$(dirname "$log")"; rm -f "${{log%.log}}.exit"
    echo "$ $*" >> "$log"
    "$@" >> "$log" 2>&1
    code=$?
    # 75 and 143: stopped by a signal, to be resumed; no failure.
    case $code in 0 | 75 | 143) ;; *) echo $code > "${{log%.log}}.exit" ;; esac
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
      BadInput: if sbatch is missing or refuses the job.
    """
    if not shutil.which("sbatch"):
        raise BadInput(
            "--launcher=slurm: there is no sbatch here; run this where SLURM is, or use --launcher=local"
        )
    folder = workdir / "slurm"
    folder.mkdir(exist_ok=True)
    sent = _sent(workdir)
    path = folder / f"array{len(sent) + 1}.sh"
    path.write_text(script(runs, workdir, jobs))
    done = subprocess.run(
        ["sbatch", "--parsable", *shlex.split(options), str(path)], capture_output=True, text=True
    )
    job = re.search(r"\d+", done.stdout)
    if done.returncode or not job:
        reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise BadInput(f"--launcher=slurm: sbatch refused {path}: {reason}; see --sbatch for its options")
    write_json(folder / "jobs.json", {**sent, job.group(): [run.name for run in runs]})
    return job.group()


def script(runs: list[Run], workdir: Path, jobs: int | None) -> str:
    """The batch script: task i is the i-th of `runs`."""
    tasks = "\n".join(
        f"{i}) run {shlex.quote(str(run.log))} {shlex.join(run.here)} ;;" for i, run in enumerate(runs)
    )
    return SCRIPT.format(
        name=f"resjax-{workdir.name}",
        array=f"0-{len(runs) - 1}" + (f"%{jobs}" if jobs else ""),
        here=Path.cwd(),
        folder=workdir / "slurm",
        tasks=tasks,
    )


def queued(workdir: Path) -> set[str]:
    """Names of the runs that wait or run in SLURM.

    Raises:
      BadInput: if SLURM does not answer, because then a submission could start a run twice.
    """
    sent = _sent(workdir)
    if not sent or not shutil.which("squeue"):
        return set()
    names = set()
    for job, runs in sent.items():
        command = ["squeue", "--array", "--noheader", "--format=%i", f"--jobs={job}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode and "Invalid job id" not in done.stderr:
            raise BadInput(f"--launcher=slurm: squeue failed: {done.stderr.strip()}; try again when SLURM answers")
        names |= {runs[int(task)] for task in re.findall(rf"{job}_(\d+)", done.stdout)}
    return names


def _sent(workdir: Path) -> dict[str, list[str]]:
    """Job id -> names of its tasks' runs, of all submissions."""
    path = workdir / "slurm" / "jobs.json"
    return json.loads(path.read_text()) if path.is_file() else {}
