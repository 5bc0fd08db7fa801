"""What a drill found: a faulted job compared with the undisturbed one, and the tables."""

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resjax import files, markdown
from resjax.drill.job import Job
from resjax.train import log

TIMES = ("seconds", "images_per_second", "input_wait")
WIDTH = 100  # characters of what was said
SHOWN = 5  # differences of a job
COLUMNS = ["#", "fault", "moment", "exit code", "after, s", "goes on from", "steps lost", "what was said"]


def differences(undisturbed: Path, job: Path) -> list[str]:
    """How what a finished job left differs from what the undisturbed one left, times apart."""
    there, here = (files.read_json(workdir / "summary.json") for workdir in (undisturbed, job))
    found = _fields(there, here)
    there, here = (_records(workdir / "metrics.jsonl") for workdir in (undisturbed, job))
    for name in sorted(there.keys() | here.keys()):
        one, other = there.get(name, []), here.get(name, [])
        where = "step {} {}".format(*name)
        if len(one) != len(other):
            found.append(f"{where}: {len(one)} records there, {len(other)} here")
        else:
            found += [f"{where}: {text}" for pair in zip(one, other, strict=True) for text in _fields(*pair)]
    if not (job / "curves.png").is_file():
        found.append("curves.png is missing")
    return found


def _fields(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    return [
        f"{key}: {there.get(key)} there, {here.get(key)} here"
        for key in sorted(there.keys() | here.keys())
        if key not in TIMES and there.get(key) != here.get(key)
    ]


def _records(path: Path) -> dict[tuple[int, str], list[dict[str, Any]]]:
    """A run's own records by step and split; a fault may have put others beside them."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for _, record in files.lines(path):
        if record is not None and log.is_own(record):
            found.setdefault((record["step"], record["split"]), []).append(record)
    return found


def collect(jobs: Sequence[Job], undisturbed: Path) -> dict[str, Any]:
    """All that was found as JSON values: `faults`, `jobs`, and in `wrong` one line for everything that is."""
    faults: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    wrong: list[str] = []
    for number, job in enumerate(jobs, 1):
        for row in job.rows:
            said = [_without_path(line, job.workdir) for line in row.said]
            faults.append({"job": number, **dataclasses.asdict(row), "said": said, "steps_lost": row.cost})
            wrong += [f"fault {row.number}, {row.kind}: {_without_path(what, job.workdir)}" for what in row.wrong]
        wrong += [f"job {number}: {_without_path(what, job.workdir)}" for what in job.wrong]
        different = [] if job.broken else differences(undisturbed, job.workdir)
        digest = None if job.broken else files.read_json(job.workdir / "summary.json").get("state_digest")
        ends.append({"state_digest": digest, "differences": different})
        wrong += [f"job {number}: {difference}" for difference in different[:SHOWN]]
        if more := different[SHOWN:]:
            wrong.append(f"job {number}: {len(more)} more differences; drill.json has them all")
    return {"faults": faults, "jobs": ends, "wrong": wrong}


def text(found: dict[str, Any]) -> str:
    """The faults as a Markdown table, and the verdict."""
    same = len(found["jobs"])
    jobs = f"{same} job{'s' if same > 1 else ''}"
    if found["wrong"]:
        verdict = "\n".join(f"* {line}" for line in found["wrong"])
    else:
        verdict = f"digest equal: {jobs} ended with the state and the records of the undisturbed one"
    return f"{markdown.table(COLUMNS, [_cells(fault) for fault in found['faults']])}\n\n{verdict}\n"


def _cells(fault: dict[str, Any]) -> list[str]:
    return [
        str(fault["number"]),
        f"{fault['kind']}: {fault['what']}" if fault["what"] else fault["kind"],
        fault["moment"],
        "goes on" if fault["code"] is None else str(fault["code"]),
        "" if fault["seconds"] is None else f"{fault['seconds']:.1f}",
        "" if fault["resumed"] is None else str(fault["resumed"]),
        str(fault["steps_lost"]),
        textwrap.shorten("; ".join(fault["said"]), WIDTH, placeholder=" ..."),
    ]


def _without_path(line: str, workdir: Path) -> str:
    return line.replace(str(workdir.absolute()), "WORKDIR").replace(str(workdir), "WORKDIR")
