"""Finished runs judged as the papers judge them: many views of every image, and several runs as one.

`python -m resjax.evaluate` judges them, once, and leaves what it found beside a run's folder.
"""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resjax import files
from resjax.errors import DONE, FAILED
from resjax.papers.table import Table
from resjax.sweep.conduct import say
from resjax.sweep.plan import Run

ENSEMBLE = "ensemble.json"


def views(table: Table, data: str) -> str:
    """The views of a table on a data set; empty where its runs are judged by their own test errors."""
    return table.views if data == table.data[0] else ""


def kept(run: Run, views: str) -> Path:
    """Where the judgement of a run is."""
    return run.workdir.with_name(f"{run.workdir.name}.{views}.json")


def members(table: Table, runs: Sequence[Run], taken: Mapping[str, str]) -> list[Run]:
    """The runs that a table's ensemble is made of; none if it has no ensemble, or a run is not finished."""
    if not table.ensemble:
        return []
    by_name = {(run.variant, run.seed): run for run in runs if run.summary()}
    wanted = [
        (taken[name], table.ensemble.members[:i].count(name)) for i, name in enumerate(table.ensemble.members)
    ]
    return [by_name[one] for one in wanted] if set(wanted) <= by_name.keys() else []


def judge(table: Table, data: str, runs: Sequence[Run], taken: Mapping[str, str], workdir: Path) -> int:
    """Judges what is finished and not yet judged, and returns the exit code: 0, or 1 if that failed somewhere."""
    chosen, tasks = views(table, data), []
    if chosen:
        tasks += [([run], kept(run, chosen)) for run in runs if run.summary()]
    if together := members(table, runs, taken):
        tasks.append((together, workdir / ENSEMBLE))
    code = DONE
    for judged, out in tasks:
        if not read(out, judged):
            out.unlink(missing_ok=True)
            flags = [*(f"--workdir={run.workdir}" for run in judged), f"--out={out}"]
            flags += [f"--views={chosen}"] if chosen else []
            say(shlex.join(["python", "-m", "resjax.evaluate", *flags]))
            done = subprocess.run([sys.executable, "-m", "resjax.evaluate", *flags], stdout=subprocess.DEVNULL)
            if done.returncode:
                code = FAILED
    return code


def read(path: Path, runs: Sequence[Run]) -> dict[str, Any] | None:
    """What was found of these runs after their last step, as errors are in a summary; None if nothing was yet."""
    found = files.read_json(path) if path.is_file() else None
    of = [[str(run.workdir), summary["steps"]] for run in runs if (summary := run.summary())]
    if not of or not found or [[one["workdir"], one["step"]] for one in found["runs"]] != of:
        return None
    return {"test_accuracy": found["top1"]["accuracy"], "test_accuracy_top5": found["top5"]["accuracy"]}
