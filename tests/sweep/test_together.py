"""Several runs in one process: each leaves what it leaves by itself, and ends by itself."""

import json
import os
import re
import shlex
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from resjax import cli, experiment
from resjax.errors import BadInput
from resjax.sweep import share, together
from resjax.sweep.__main__ import main
from resjax.train.checkpoint import Checkpoints

DONE, FAILED, NON_FINITE, INTERRUPTED = 0, 1, 3, 75
SEEDS = (0, 1)
RUN = ("--config=configs/digits.py",)
# A step takes a millisecond, and every tenth is saved: what a process has in common meets all the time.
OVERRIDES = {
    "model.units": (1,),
    "model.widths": (4,),
    "model.stem_width": 4,
    "model.stochastic_depth": 0.2,
    "batch_size": 32,
    "total_steps": 300,
    "log_every_steps": 1,
    "eval_every_steps": 100,
    "checkpoint_every_steps": 10,
    "data.validation_split": "train[1300:]",
    "data.train_split": "train[:1300]",
    "schedule.warmup": "none",
}


@pytest.fixture(scope="module")
def sweep_of(tmp_path_factory):
    """Writes the file of a sweep of these variants: name -> further overrides."""

    def write(seeds=SEEDS, **variants):
        runs = {name: OVERRIDES | further for name, further in variants.items()}
        path = tmp_path_factory.mktemp("sweep") / "sweep.py"
        path.write_text(
            f"from resjax.sweep import Sweep\ndef get_sweep():\n"
            f"    return Sweep('configs/digits.py:v1-8', {runs!r}, {seeds!r})\n"
        )
        return path

    return write


@pytest.fixture(scope="module")
def beside(sweep_of, run, tmp_path_factory):
    """A sweep of four runs in one process, two of which diverge; and the two others by themselves."""
    path, workdir = sweep_of(A={}, bad={"optimizer.learning_rate": 1e30}), tmp_path_factory.mktemp("beside") / "W"
    flags = (f"--sweep={path}", f"--workdir={workdir}", "--together=4")
    done = run(*flags, module="resjax.sweep", JAX_LOG_COMPILES="1")
    alone = {}
    for seed in SEEDS:
        first = (workdir / f"runs/A/seed{seed}.log").read_text().splitlines()[0]
        command = first.replace(str(workdir), str(workdir.parent / "alone"))
        assert command.startswith("$ ")
        threads, _, _, module, *given = shlex.split(command)[1:]
        assert run(*given, module=module, **dict([threads.split("=")])).returncode == DONE
        alone[seed] = workdir.parent / f"alone/runs/A/seed{seed}"
    return SimpleNamespace(done=done, workdir=workdir, alone=alone)


def left(workdir):
    """What a run leaves, without times: its files, its records, its summary, what its checkpoints say."""
    names = {str(path.relative_to(workdir)) for path in workdir.rglob("*") if "tfevents" not in path.name}
    summary = json.loads((workdir / "summary.json").read_text())
    timeless = {name: v for name, v in summary.items() if name not in ("seconds", "images_per_second")}
    config = json.loads((workdir / "config.json").read_text())
    checkpoints = Checkpoints(workdir)
    digests = {step: checkpoints.meta(step)["digest"] for step in checkpoints.steps()}
    # Orbax names the files of its arrays at random.
    return {name for name in names if "/d/" not in name}, timeless, config, digests


def digest(workdir):
    return json.loads((workdir / "summary.json").read_text())["state_digest"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_leaves_what_it_leaves_by_itself(seed, beside, read_records):
    own, alone = beside.workdir / f"runs/A/seed{seed}", beside.alone[seed]
    assert left(own) == left(alone)
    assert read_records(own) == read_records(alone)
    log = own.with_name(own.name + ".log").read_text()
    assert f"results   {own / 'summary.json'}" in log
    assert len(re.findall(r"^step +\d+/300 ", log, re.MULTILINE)) == 300
    assert str(own.with_name(f"seed{1 - seed}")) not in log


def test_one_that_diverges_ends_alone(beside):
    assert beside.done.returncode == FAILED, beside.done.stderr
    table = json.loads((beside.workdir / "table.json").read_text())["rows"]
    assert {row["name"]: (row["n"], row["failed"]) for row in table} == {"A": (2, 0), "bad": (0, 2)}
    assert "seed 0, 1: the " in table[1]["error"]
    for seed in SEEDS:
        assert (beside.workdir / f"runs/bad/seed{seed}.exit").read_text() == f"{NON_FINITE}\n"
        assert not (beside.workdir / f"runs/A/seed{seed}.exit").exists()


def test_runs_that_differ_in_their_seed_compile_once(beside):
    said = (beside.workdir / "together.log").read_text()
    assert said.count("Compiling jit(train_step)") == 2  # of A, and of the one with another learning rate
    assert said.count("Compiling jit(eval_step)") <= 2


def test_killed_then_stopped_then_finished(beside, sweep_of, start, tmp_path):
    workdir = tmp_path / "W"
    flags = (f"--sweep={sweep_of(A={})}", f"--workdir={workdir}", "--together=2")
    runs = [workdir / f"runs/A/seed{seed}" for seed in SEEDS]

    def reach(sweep, step):
        """Returns when all runs have come so far; gives the process that they are in."""
        while not all(f'"step": {step}, ' in text(run / "metrics.jsonl") for run in runs):
            assert sweep.process.poll() is None, sweep.end()
            time.sleep(0.002)
        [process] = {json.loads(text(run / "lock"))["pid"] for run in runs}
        return process

    with start(*flags, module="resjax.sweep") as sweep:
        os.kill(reach(sweep, 20), signal.SIGKILL)
        assert sweep.end().returncode == FAILED
    assert [text(run.with_name(run.name + ".exit")) for run in runs] == ["-9\n", "-9\n"]

    with start(*flags, module="resjax.sweep") as sweep:
        reach(sweep, 50)
        sweep.send(signal.SIGTERM)
        assert sweep.end().returncode == INTERRUPTED
    for run in runs:
        assert f"saved in {run}" in text(run.with_name(run.name + ".log"))
        last = int(re.findall(r'"step": (\d+)', text(run / "metrics.jsonl"))[-1])
        assert Checkpoints(run).steps()[0] == last

    with start(*flags, module="resjax.sweep") as sweep:
        assert sweep.end().returncode == DONE
    assert [digest(run) for run in runs] == [digest(beside.alone[seed]) for seed in SEEDS]
    assert not any(run.with_name(run.name + ".exit").exists() for run in runs)


def text(path):
    return path.read_text() if path.exists() else ""


@pytest.mark.long
def test_devices_are_dealt_out(sweep_of, run, tmp_path):
    """Of eight, each of two runs has four; on them it gives the bits of a single run on as many."""
    short, workdir = {"total_steps": 12, "eval_every_steps": 12}, tmp_path / "W"
    path = sweep_of(seeds=(0,), four=short, one=short | {"mesh.data": 1})
    flags = (f"--sweep={path}", f"--workdir={workdir}", "--together=2")
    done = run(*flags, module="resjax.sweep", JAX_NUM_CPU_DEVICES="8", PJRT_NPROC="8")
    assert done.returncode == DONE, done.stderr
    for name, devices in (("four", 4), ("one", 1)):
        own, alone = workdir / f"runs/{name}/seed0", tmp_path / name
        first = text(own.with_name("seed0.log")).splitlines()[0].replace(str(own), str(alone))
        given = shlex.split(first)[5:]
        assert run(*given, JAX_NUM_CPU_DEVICES=str(devices), PJRT_NPROC="8").returncode == DONE
        assert json.loads(text(own / "summary.json"))["device"] == f"{devices} x cpu"
        assert digest(own) == digest(alone)


def test_what_runs_share(tmp_path):
    config = cli.load(["--config=configs/digits.py:v1-8", "--config.mesh.data=1"])
    shared, devices = experiment.Shared(), jax.devices()[:1]

    def opened(devices=devices, **fields):
        own = config.copy_and_resolve_references()
        for name, value in fields.items():
            own[name] = value
        return experiment.open(own, tmp_path, devices, shared)

    first, alike = opened(), opened(seed=1)
    assert (first.config.seed, alike.config.seed) == (0, 1)
    assert first.program is alike.program
    assert first.dataset is alike.dataset
    elsewhere = opened(devices=jax.devices()[1:2])
    for other in (opened(batch_size=64), opened(checkpoint_keep=9), elsewhere):
        assert other.program is not first.program
        assert other.dataset is first.dataset
        assert (other.program.data is first.program.data) == (other is not elsewhere)


def test_dry_run_prints_a_command_for_every_process(sweep_of, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PJRT_NPROC", "3")
    path, workdir = sweep_of(seeds=(0, 1, 2), A={}), tmp_path / "W"
    assert main([f"--sweep={path}", f"--workdir={workdir}", "--together=2", "--dry_run"]) == DONE
    two, one = map(shlex.split, capsys.readouterr().out.splitlines())
    head = ["PJRT_NPROC=3", "python", "-m", "resjax.sweep.together", "--parts=2"]
    assert two[:5] == one[:5] == head
    assert [flags[-2:] for flags in together.split(two[5:])[1:]] == [
        [f"--config.seed={seed}", f"--workdir={workdir}/runs/A/seed{seed}"] for seed in SEEDS
    ]
    assert len(together.split(one[5:])) == 2
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--together=-1"], "--together=-1: must be at least 0"),
        (["--together=65"], "--together=65: must be at least 0 and at most 64"),
        (["--together=2", "--launcher=slurm"], "--together=2: on SLURM every run is a task of its own"),
    ],
)
def test_bad_flags(flags, message, sweep_of, tmp_path):
    with pytest.raises(BadInput, match=message):
        main([f"--sweep={sweep_of(A={})}", f"--workdir={tmp_path / 'W'}", *flags])
    assert not (tmp_path / "W").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "there are no runs"),
        (["--parts=1", "--", *RUN, "--workdir=a", "--", *RUN, "--workdir=b"], "--parts=1: must be at least 2"),
        (["--", *RUN, "--workdir=a", "--", *RUN, "--workdir=a"], "--workdir=a is that of 2 runs"),
        (["--", *RUN, "--mode=eval"], "--mode is unknown"),
    ],
)
def test_bad_runs(flags, message, tmp_path, monkeypatch):
    config = Path(RUN[0].partition("=")[2]).absolute()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=message):
        together.main([flag.replace(RUN[0], f"--config={config}") for flag in flags])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("gpus", "jobs", "expected"), [("", 1, 4), ("", 2, 2), ("", 8, 1), ("0", 1, 4), ("0,1", 1, 8), ("0,1", 2, 4)]
)
def test_how_many_are_chosen(gpus, jobs, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    assert share.together(jobs) == expected


def test_one_that_cannot_save_ends_alone(sweep_of, start, tmp_path):
    workdir = tmp_path / "W"
    good, bad = (workdir / f"runs/A/seed{seed}" for seed in SEEDS)
    with start(f"--sweep={sweep_of(A={})}", f"--workdir={workdir}", "--together=2", module="resjax.sweep") as sweep:
        while not Checkpoints(bad).steps():
            assert sweep.process.poll() is None, sweep.end()
            time.sleep(0.002)
        (bad / "checkpoints").rename(bad / "elsewhere")
        (bad / "checkpoints").touch()
        done = sweep.end()
    assert done.returncode == FAILED
    assert text(bad.with_name("seed1.exit")) == "2\n"
    assert "a checkpoint could not be saved" in text(bad.with_name("seed1.log")).splitlines()[-1]
    assert json.loads(text(good / "summary.json"))["steps"] == OVERRIDES["total_steps"]
