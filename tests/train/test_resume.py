"""A run that is killed, stopped or damaged at any moment ends with the bytes of one that never was."""

import json
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from resjax.cli import load
from resjax.data.loader import open_dataset
from resjax.models import onednn
from resjax.train import loop

ROOT = Path(__file__).parents[2]
SAME = ("state_digest", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "validation_loss", "steps")


def same_end(workdir, whole, read_records):
    """Asserts that the run in `workdir` has the results and the logs of the uninterrupted one."""
    summary, expected = (json.loads((w / "summary.json").read_text()) for w in (workdir, whole))
    assert {key: summary[key] for key in SAME} == {key: expected[key] for key in SAME}
    assert read_records(workdir) == read_records(whole)
    assert (workdir / "curves.png").is_file()


@pytest.mark.parametrize(
    ("step", "workers", "workers_after"),
    [(3, 0, 2), (random.randint(31, 80), 0, 0), pytest.param(random.randint(31, 80), 2, 2, marks=pytest.mark.long)],
    ids=["before the first save", "random", "random with workers"],
)
def test_killed(start, run, rich, whole, tmp_path, read_records, step, workers, workers_after):
    flags = (*rich, f"--workdir={tmp_path / 'run'}")
    with start(*flags, f"--config.data.workers={workers}") as running:
        running.wait_for(step)
        running.send(signal.SIGKILL)
        # This waits until the workers, too, have let go of stdout.
        assert running.end().returncode == -signal.SIGKILL, f"it was to be killed after step {step}"
    assert not (tmp_path / "run" / "summary.json").exists()

    done = run(*flags, f"--config.data.workers={workers_after}")
    assert done.returncode == 0, done.stderr
    assert ("resumed  from step" in done.stderr) == (step > 30)  # a save has to be done when the next one begins
    same_end(tmp_path / "run", whole, read_records)


IN_CALLS = ("--config.steps_per_call=7", "--config.data.placement=device")
DIES = """
import os, signal, sys
from resjax import cli, main
from resjax.train import program, progress

where, calls = sys.argv.pop(1), int(sys.argv.pop(1))
owner = {"take": program.Program, "absorb": progress.Progress}[where]
original = getattr(owner, where)

def dies(*args, **options):
    global calls
    calls -= 1
    if not calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **options)

setattr(owner, where, dies)
cli.run(main.main)
"""


@pytest.fixture(scope="module")
def in_calls(run, rich, tmp_path_factory):
    """The workdir of the `rich` run in calls of 7 steps, never interrupted; to be read only."""
    workdir = tmp_path_factory.mktemp("in_calls") / "run"
    done = run(*rich, *IN_CALLS, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "training  90 steps of 32 images, 2.2 epochs, up to 7 a call\n" in done.stderr
    return workdir


def test_killed_between_and_within_calls(run, rich, tmp_path, in_calls, read_records):
    """Before the 8th call is made, then while the 5th after that is under way; then batches of the host."""
    flags = (*rich, *IN_CALLS, f"--workdir={tmp_path}/run")
    for where, calls in (("take", "8"), ("absorb", "5")):
        command = [sys.executable, "-c", DIES, where, calls, *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    done = run(*flags, "--config.data.placement=host")
    assert done.returncode == 0, done.stderr
    assert "resumed  from step" in done.stderr
    same_end(tmp_path / "run", in_calls, read_records)


def test_killed_with_onednn(run, rich, tmp_path, read_records):
    if not onednn.is_there():
        pytest.skip("XLA has no oneDNN here")
    flags = (*rich, "--config.optimizer.accumulate=1", "--config.model.convolution=onednn")
    whole = run(*flags, f"--workdir={tmp_path}/whole")
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-c", DIES, "take", "50", *flags, f"--workdir={tmp_path}/run"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert "resumed  from step" in run(*flags, f"--workdir={tmp_path}/run").stderr
    same_end(tmp_path / "run", tmp_path / "whole", read_records)


def test_calls_of_several_steps_leave_the_records_of_single_ones(whole, in_calls, read_records):
    """At the same steps, and with the same losses until roundings of another loop have been amplified."""
    one, several = read_records(whole), read_records(in_calls)
    assert [(r["step"], r["split"]) for r in several] == [(r["step"], r["split"]) for r in one]
    losses = [[r["loss"] for r in records if r["split"] == "train"] for records in (one, several)]
    for steps, bound in ((5, 1e-5), (10, 1e-2)):  # a ReLU that rounding flips sets two programs apart
        np.testing.assert_allclose(*(found[:steps] for found in losses), rtol=bound)


SLOW = """
import importlib.abc, os, pathlib, sys, time

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "jax":
            (pathlib.Path(__file__).parent / f"starting-{os.getpid()}").touch()
            time.sleep(600)

if "--multiprocessing-fork" in sys.orig_argv:
    sys.meta_path.insert(0, Slow())
"""


def test_killed_while_its_workers_start(start, tiny, tmp_path):
    """They import for seconds before they begin their work, and must not outlive their parent by that."""
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    flags = (*tiny, "--config.total_steps=5", "--config.data.workers=2", f"--workdir={tmp_path}/run")
    with start(*flags, PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}") as running:
        while len(list(tmp_path.glob("starting-*"))) < 2:
            assert running.process.poll() is None, running.process.stderr.read()
            time.sleep(0.002)
        running.send(signal.SIGKILL)
        running.process.communicate(timeout=30)  # until the workers, too, have let go of stdout


@pytest.mark.parametrize(
    ("number", "group", "workers"),
    [(signal.SIGTERM, False, 0), (signal.SIGINT, True, 2)],
    ids=["SIGTERM", "Ctrl-C, which a terminal sends to the workers too"],
)
def test_stopped(start, run, rich, whole, tmp_path, read_records, number, group, workers):
    workdir = tmp_path / "a run"  # a space: the command that is printed must be one for a shell
    step = random.randint(2, 70)
    with start(*rich, f"--workdir={workdir}", f"--config.data.workers={workers}") as running:
        running.wait_for(step)
        running.send(number, group)
        stopped = running.end()
    assert stopped.returncode == 75, stopped.stderr
    assert "Traceback" not in stopped.stderr
    at = max(record["step"] for record in read_records(workdir))
    assert f"\nstopped at step {at} of 90; saved in {workdir}\n" in stopped.stderr
    assert (workdir / "checkpoints" / str(at)).is_dir()

    again = stopped.stderr.partition("to go on, run the same command again: python -m resjax.main ")[
        2
    ].splitlines()[0]
    done = run(*shlex.split(again))
    assert f"resumed  from step {at}\n" in done.stderr
    same_end(workdir, whole, read_records)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_leave_signals_to_the_run(tiny, number):
    data = open_dataset(**load([*tiny, "--config.data.workers=1"]).data)
    with closing(data.train(8, seed=0)) as batches:
        next(batches)
        [worker] = multiprocessing.active_children()
        os.kill(worker.pid, number)
        for _ in range(20):  # more than were read ahead
            next(batches)
        assert worker.is_alive()


def test_second_signal_leaves_at_once(start, run, rich, whole, tmp_path, read_records):
    flags = (*rich, f"--workdir={tmp_path / 'run'}")
    with start(*flags) as running:
        running.wait_for(20)
        running.send(signal.SIGTERM)
        running.send(signal.SIGINT)
        left = running.end()
    assert left.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT), left.stderr
    assert "stopped at" not in left.stderr
    assert run(*flags).returncode == 0
    same_end(tmp_path / "run", whole, read_records)


def test_signal_during_an_evaluation_saves(call, tiny, tmp_path, monkeypatch, read_records):

    def evaluate(*args):
        if not sent:  # a second one would end this process
            os.kill(os.getpid(), signal.SIGTERM)
        sent.append(True)
        return original(*args)

    original, sent = loop.evaluate, []
    monkeypatch.setattr(loop, "evaluate", evaluate)
    flags = (*tiny, f"--workdir={tmp_path}/run", "--config.total_steps=6", "--config.eval_every_steps=2")
    code, _, err = call(*flags, "--config.mesh.data=1", "--config.checkpoint_every_steps=100")
    assert code == 75, err
    saved = int(err.partition("stopped at step ")[2].split()[0])
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [str(saved)]


def test_signal_during_the_last_save_waits_for_it(call, tiny, tmp_path, monkeypatch):
    def close(checkpoints):
        if checkpoints._manager is not None:
            os.kill(os.getpid(), signal.SIGINT)
        original(checkpoints)

    original = loop.Checkpoints.close
    monkeypatch.setattr(loop.Checkpoints, "close", close)
    code, _, err = call(*tiny, f"--workdir={tmp_path}/run", "--config.total_steps=3", "--config.mesh.data=1")
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 3


def test_interrupt_before_training_is_one_line(call, tiny, tmp_path, monkeypatch):
    from resjax import experiment

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "durations", interrupted)
    code, _, err = call(*tiny, f"--workdir={tmp_path}/run", "--config.total_steps=6")
    assert (code, err) == (130, "stopped\n")


def test_finished_and_longer(call, tiny, tmp_path, read_records):
    """A finished run says so; with more steps it goes on, here by the one step that is left."""
    flags = (*tiny, f"--workdir={tmp_path}/run", "--config.mesh.data=1", "--config.schedule.name=constant")
    code, _, err = call(*flags, "--config.total_steps=4")
    assert code == 0, err
    summary = (tmp_path / "run" / "summary.json").read_text()
    before = read_records(tmp_path / "run")
    for total in (4, 3):
        code, _, err = call(*flags, f"--config.total_steps={total}")
        assert code == 0
        assert f"{tmp_path}/run is finished: 4 steps" in err
        assert (tmp_path / "run" / "summary.json").read_text() == summary

    code, _, err = call(*flags, "--config.total_steps=5")
    assert code == 0, err
    assert "resumed  from step 4\n" in err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 5
    after = read_records(tmp_path / "run")
    assert after[: len(before)] == before
    assert [(r["step"], r["split"]) for r in after[len(before) :]] == [(5, "train"), (5, "validation"), (5, "test")]


def test_config_may_change_where_the_result_does_not(call, rich, copy, whole, read_records):
    """What only says how to run may change in mid-run."""
    free = (
        "--config.log_every_steps=7",
        "--config.checkpoint_every_steps=5",
        "--config.checkpoint_keep=3",
        "--config.mesh.data=2",
        "--config.data.workers=1",
        "--config.data.placement=host",
        "--config.steps_per_call=4",
        "--config.model.remat=true",
        "--config.name=other",
    )
    code, _, err = call(*rich, f"--workdir={copy}", *free)
    assert code == 0, err
    assert "resumed  from step 90\n" in err
    assert json.loads((copy / "config.json").read_text())["log_every_steps"] == 7
    expected = json.loads((whole / "summary.json").read_text())
    summary = json.loads((copy / "summary.json").read_text())
    assert {key: summary[key] for key in SAME} == {key: expected[key] for key in SAME}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("optimizer.learning_rate=0.2", "optimizer.learning_rate: 0.1 there, 0.2 here"),
        ("batch_size=64", "batch_size: 32 there, 64 here"),
        ("seed=1", "seed: 0 there, 1 here"),
        ("total_steps=99", "total_steps: 90 there, 99 here"),  # cosine: the whole schedule would change
        ("model.widths=8,16", "model.widths: [4, 8] there, [8, 16] here"),
        ("eval_every_steps=10", "eval_every_steps: 30 there, 10 here"),
    ],
)
def test_config_may_not_change_what_decides_the_result(call, rich, copy, change, difference):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    code, _, err = call(*rich, f"--workdir={copy}", f"--config.{change}")
    assert code == 2
    assert difference in err
    assert len(err.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_times_add_up_over_a_resume(call, rich, copy):
    before = json.loads((copy / "config.json").read_text())
    assert before["total_steps"] == 90
    code, _, err = call(*rich, f"--workdir={copy}")
    assert code == 0, err
    summary = json.loads((copy / "summary.json").read_text())
    assert summary["images_per_second"] > 0  # of the steps before the resume: none were left


def test_one_run_at_a_time(start, run, tiny, tmp_path):
    """A second process is refused by name and changes nothing; after kill -9 the lock is no obstacle."""
    endless = (
        "total_steps=1000000",
        "eval_every_steps=1000000",
        "checkpoint_every_steps=20",
        "schedule.name=constant",
    )
    flags = (*tiny, *(f"--config.{field}" for field in endless), f"--workdir={tmp_path / 'run'}")
    with start(*flags) as first:
        first.wait_for(40)
        second = run(*flags)
        assert second.returncode == 2
        assert f"is in use by process {first.process.pid} on " in second.stderr
        first.send(signal.SIGKILL)
        first.end()
    reached = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit())
    third = run(*flags, f"--config.total_steps={reached + 1}")
    assert third.returncode == 0, third.stderr


def test_other_threads_are_warned_of(run, rich, copy):
    """Roundings depend on them, so the bits do."""
    shutil.rmtree(copy / "checkpoints" / "90")
    done = run(*rich, f"--workdir={copy}", PJRT_NPROC="5")
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stderr.splitlines() if "goes on with" in line]
    assert re.fullmatch(r"the run had \d+ threads and goes on with 5, .* put NPROC=\d+ before the command", line)
    assert json.loads((copy / "summary.json").read_text())["threads"] == 5
