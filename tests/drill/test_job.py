"""What a drill finds wrong with a run, shown by a stand-in that does it."""

import sys
import textwrap
from contextlib import closing

import pytest

from resjax.drill.faults import Fault, Whole
from resjax.drill.job import Job
from resjax.drill.process import Command

# Counts to ten as a run would, once it has said that it began.
STAND_IN = """
    import json, os, pathlib, signal, subprocess, sys, time
    workdir = pathlib.Path(sys.argv[-1].partition("=")[2])
    workdir.mkdir(exist_ok=True)
    def say(text):
        print(text, flush=True)
    def count(steps):
        for step in range(1, steps + 1):
            with (workdir / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step}) + "\\n")
            time.sleep(0.01)
    def stop(code, *lines):
        def handle(number, frame):
            for line in lines:
                say(line)
            os._exit(code)
        signal.signal(signal.SIGTERM, handle)
"""


@pytest.fixture
def suffer(tmp_path):
    """What is wrong when a job that is `script` suffers one fault of a kind, at a step."""

    def one_fault(script, kind="stop", patience=20.0):
        path = tmp_path / "run.py"
        path.write_text(textwrap.dedent(STAND_IN) + textwrap.dedent(script))
        fault = Fault(1, kind, 0)
        fault.again()
        command = Command([sys.executable, str(path)])
        with closing(Job(command, tmp_path / "job", Whole(100, 100, patience))) as job:
            row = job.suffer(fault)
            if row is None or not row.wrong:
                job.finish()
        return job, job.wrong + [what for row in job.rows for what in row.wrong]

    return one_fault


FIRST = """
    first = not (workdir / "metrics.jsonl").exists()
    say("resumed  from step 0" if first else "resumed  from step 5")
    say("compiled first step")
"""


@pytest.mark.parametrize(
    ("does", "wrong"),
    [
        ("stop(75)", []),
        ("stop(0)", ["exit code 0 instead of 75"]),
        ("stop(75, 'Traceback (most recent call last):', '  a line', 'KeyError: 3')", ["it crashed: KeyError: 3"]),
        ("stop(75, 'error: one', 'error: another')", ["2 error lines"]),
        (
            "stop(2, 'error: one', 'and more')",
            ["exit code 2, and its last line is no error", "exit code 2 instead of 75"],
        ),
    ],
)
def test_an_answer(suffer, does, wrong):
    script = (
        FIRST
        + f"""
    if first:
        {does}
        count(1000)
    """
    )
    job, found = suffer(script)
    if not wrong:
        [row] = job.rows
        assert (row.code, row.resumed, row.cost) == (75, 5, row.reached - 5)
        assert found == [f"it said that it saved, but {row.cost} steps were lost"]
    else:
        assert found == wrong


def test_a_process_that_does_not_end(suffer):
    _, found = suffer(FIRST + "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    count(100000)", patience=3.0)
    assert found == ["it did not end within 3 s"]


def test_a_worker_that_is_left_behind(suffer):
    script = """
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    count(1000)
    """
    _, found = suffer(FIRST + script, kind="kill", patience=3.0)
    assert found == ["processes that it started live on 3 s after its end"]


def test_a_job_that_cannot_go_on(suffer):
    script = """
    if first:
        count(1000)
    say("error: it is lost")
    sys.exit(2)
    """
    job, found = suffer(FIRST + script, kind="kill")
    assert job.broken
    assert found == ["the next process ended with exit code 2: error: it is lost"]


def test_a_second_process_that_is_let_in(suffer):
    _, found = suffer(FIRST + "    if first:\n        count(1000)", kind="second")
    assert found == ["exit code 0 of the second process instead of 2"]


def test_a_job_that_ends_before_its_fault(suffer):
    job, found = suffer(FIRST)
    assert (job.rows, found, job.over, job.broken) == ([], [], True, False)
