"""A drill of the real thing: faults of each kind, what it says of a run that differs, and its own end."""

import contextlib
import json
import signal
import time

import pytest

from resjax.drill.__main__ import main
from resjax.drill.faults import KINDS
from resjax.errors import BadInput
from resjax.train import lock

SHORT = ("--config.total_steps=90", "--config.eval_every_steps=30", "--config.checkpoint_every_steps=15")


@pytest.fixture(scope="module")
def drill(start, tiny):
    """Runs `python -m resjax.drill FLAGS` on the tiny network to its end."""

    def to_the_end(*flags):
        with start(*tiny, *SHORT, *flags, module="resjax.drill") as process:
            return process.end(timeout=600)

    return to_the_end


@pytest.fixture(scope="module")
def kinds(request):
    """All, or without --long a signal, what a killed run leaves, and a disk that is full."""
    return list(KINDS) if request.config.getoption("--long") else ["stop", "flip", "disk"]


@pytest.fixture(scope="module")
def drilled(drill, kinds, tmp_path_factory):
    """The workdir of a drill with one fault of each kind, and how it ended; the next tests change and reuse it."""
    workdir = tmp_path_factory.mktemp("drill") / "work"
    return workdir, drill(f"--workdir={workdir}", f"--kinds={','.join(kinds)}", f"--faults={len(kinds)}")


def test_every_kind(drilled, kinds):
    workdir, done = drilled
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\ndigest equal: " in done.stdout
    assert (workdir / "table.md").read_text() == done.stdout
    found = json.loads((workdir / "drill.json").read_text())
    assert sorted(fault["kind"] for fault in found["faults"]) == sorted(kinds)
    assert {job["state_digest"] for job in found["jobs"]} == {found["undisturbed"]["state_digest"]}
    assert str(workdir) not in json.dumps(found["faults"])


@pytest.mark.long
def test_a_job_of_two_processes(drill, tmp_path):
    """One of them is killed, and one of them is told to stop: the other ends too, and the job goes on."""
    flags = ("--processes=2", "--devices=1", "--faults=2", "--kinds=kill,stop", "--seed=2")
    done = drill(f"--workdir={tmp_path / 'work'}", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\ndigest equal: " in done.stdout
    found = json.loads((tmp_path / "work" / "drill.json").read_text())
    assert found["undisturbed"]["device"] == "2 x cpu"
    codes = {fault["kind"]: fault["code"] for fault in found["faults"]}
    assert codes["kill"] == 69
    assert codes["stop"] in (75, 0)  # it may have done its last step by then


def test_a_run_that_differs_is_named(drilled, drill):
    """The undisturbed run is taken as it lies there: here with another digest and another loss."""
    workdir, _ = drilled
    path = workdir / "undisturbed" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {"state_digest": "v2:other"}))
    path = workdir / "undisturbed" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | {"loss": 0.5})
    path.write_text("\n".join([*lines[:-1], ""]))

    done = drill(f"--workdir={workdir}", "--faults=1", "--kinds=pause")
    assert done.returncode == 1, done.stderr
    assert f"* job 1: state_digest: v2:other there, {summary['state_digest']} here\n" in done.stdout
    assert "* job 1: step 1 train: loss: 0.5 there, " in done.stdout
    assert "* job 1: step 90 test: 0 records there, 1 here\n" in done.stdout
    assert "digest equal" not in done.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_drill_that_is_stopped_leaves_no_process(start, tiny, tmp_path, number, code):
    flags = ("--config.total_steps=9000", f"--workdir={tmp_path / 'work'}")
    if code < 0:  # a job of one would notice that nobody reads what it says
        flags += ("--processes=2", "--devices=1")
    with start(*tiny, *flags, module="resjax.drill") as drill:
        workdir = tmp_path / "work" / "undisturbed"
        while not holds(workdir):
            assert drill.process.poll() is None, drill.process.stderr.read()
            time.sleep(0.01)
        drill.send(number)
        done = drill.end()
    assert done.returncode == code, done.stderr
    assert code < 0 or done.stderr.splitlines()[-1] == "stopped"
    deadline = time.monotonic() + (30 if code < 0 else 0)  # what a killed one leaves the system ends a moment later
    while holds(workdir):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def holds(workdir):
    """Whether a process is at work there; one that has ended holds nothing, even before it is reaped."""
    if not (workdir / "config.json").exists():
        return False
    try:
        with lock.hold(workdir):
            return False
    except BadInput:
        return True


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (("--faults=0",), "--faults=0: must be at least 1"),
        (("--kinds=kil",), "--kinds='kil' is unknown; did you mean kill?"),
        (("--kinds=",), "--kinds is empty: "),
        (("--workdir=configs",), "workdir=configs exists and is not a drill's; choose an empty or new folder"),
        (("--config.batch_size=many",), "--config.batch_size='many' has the wrong type"),
        (("--steps=5",), "--steps is unknown"),
    ],
)
def test_bad_flags(call, tiny, tmp_path, flags, error):
    with signals_as_found():
        code, out, err = call(*tiny, f"--workdir={tmp_path / 'work'}", *flags, command=main)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {error}")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (
            ("--config.optimizer.learning_rate=-1",),
            "the job itself fails with exit code 2: optimizer.learning_rate=-1",
        ),
        (("--config.checkpoint_every_steps=90",), "--kinds=cut: the job keeps 1 checkpoint, and "),
    ],
)
def test_a_job_that_cannot_be_drilled(drill, tmp_path, flags, error):
    done = drill(f"--workdir={tmp_path / 'work'}", "--kinds=kill,cut", *flags)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {error}")


@contextlib.contextmanager
def signals_as_found():
    """The command sets handlers, which are for a process of its own."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    found = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, found, strict=True):
        signal.signal(number, handler)
