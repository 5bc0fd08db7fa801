"""Runs the rows of a suite, each in a process with a time-out, and keeps what is known after every one."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

import resjax
from resjax import files, tie
from resjax.benchmark import report
from resjax.benchmark.suites import SUITES, Found, Row, tiny
from resjax.errors import BadInput

LEAST = 10.0  # seconds, with less left a row is not begun
VERSIONS = {"resjax": resjax.__version__, "jax": jax.__version__}


def conduct(suite: str, out: Path, limit: float, small: bool) -> dict[str, Any]:
    """Measures all rows of a suite and returns what `out` holds after each, whole at any moment.

    A row that fails, or is not done in time, is a row that says so. Rows that `out` has already are not measured
    again, unless it was this limit that ended or left them out.

    Args:
      limit: seconds for all of it; what does not fit in is left out.
      small: tiny networks, to see that all of it works.

    Raises:
      BadInput: if `out` holds something else, or cannot be written.
    """
    began = time.monotonic()
    before = earlier(suite, out, small)
    result: dict[str, Any] = {"suite": suite, "tiny": small, "versions": VERSIONS, "complete": False, "rows": []}
    rows: Found = result["rows"]
    for row in planned(SUITES[suite], rows, small):
        left = limit - (time.monotonic() - began)
        known = before.get(row.command)
        if known is None and left >= LEAST:
            report.say(f"{row.name} ...")
            known = one(row, min(row.limit, left))
            if known["status"] == "timed out" and left < row.limit:
                known |= {"status": "left out", "why": f"the limit of {limit:g} s came before its end"}
        elif known is None:
            known = {"status": "left out", "why": f"the limit of {limit:g} s was reached"}
        rows.append({"name": row.name, "kind": row.kind, "command": row.command} | known)
        report.say(report.line(rows[-1]))
        with files.writing(out):
            files.write_json(out, result)
    result["complete"] = all(row["status"] != "left out" for row in rows)
    with files.writing(out):
        files.write_json(out, result)
    return result


def planned(rows: Callable[[Found], Iterator[Row]], found: Found, small: bool) -> Iterator[Row]:
    """The rows of a suite, of which later ones look at what was found; none that is another by a second name."""
    seen = set()
    for row in map(tiny, rows(found)) if small else rows(found):
        if row.command not in seen:
            seen.add(row.command)
            yield row


def earlier(suite: str, out: Path, small: bool) -> dict[str, dict[str, Any]]:
    """The rows by command that `out` has already, but those that a limit left out.

    Raises:
      BadInput: if it holds something else, or what other versions measured.
    """
    if not out.exists():
        return {}
    content = files.read_json(out)
    if not (isinstance(content, dict) and content.get("suite") == suite and content.get("tiny") == small):
        raise BadInput(f"--out={out} holds something else than this suite: choose another file")
    if content["versions"] != VERSIONS:
        raise BadInput(
            f"--out={out} was measured with {content['versions']}, and this is {VERSIONS}: choose another file"
        )
    return {row["command"]: row for row in content["rows"] if row["status"] != "left out"}


def one(row: Row, limit: float) -> dict[str, Any]:
    """Measures one row: its figures and `status` done, failed or timed out, with `why`."""
    with tempfile.TemporaryDirectory(prefix="resjax-benchmark-") as folder:
        place = Path(folder)
        out, said = place / "point.json", place / "stderr"
        environment = os.environ | {
            "XLA_FLAGS": " ".join(filter(None, [os.environ.get("XLA_FLAGS"), row.flags])),
            # Empty ones, so that what compiles here compiles anew.
            "JAX_COMPILATION_CACHE_DIR": str(place / "xla"),
            "TORCHINDUCTOR_CACHE_DIR": str(place / "inductor"),
        }
        began = time.monotonic()
        with said.open("w") as log:
            process = subprocess.Popen(
                tie.tied_to_us([*row.argv, f"--out={out}"]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with suppress(ProcessLookupError):  # also what it started
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        seconds = {"seconds": time.monotonic() - began}
        if code == 0:
            return {"status": "done"} | seconds | files.read_json(out)
        if code is None:
            return {"status": "timed out", "why": f"not done after {limit:g} s"} | seconds
        lines = said.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        ended = f"exit code {code}" if code > 0 else f"signal {-code}"
        return {"status": "failed", "why": f"{ended}: {lines[-1][:300]}"} | seconds
