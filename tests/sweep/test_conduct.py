"""Runs are skipped, resumed, fail alone and stop cleanly; stand-ins take the place of training."""

import fcntl
import json
import os
import shlex
import signal
import threading
import time
from pathlib import Path

import pytest

from resjax.errors import BadInput
from resjax.sweep import definition
from resjax.sweep.__main__ import main
from resjax.sweep.plan import plan
from resjax.sweep.share import share

DONE, FAILED, INTERRUPTED = 0, 1, 75


def go(path, workdir, *flags):
    return main([f"--sweep={path}", f"--workdir={workdir}", *flags])


def rows(workdir):
    return {row["name"]: row for row in json.loads((workdir / "table.json").read_text())["rows"]}


def test_dry_run_prints_the_commands_and_writes_nothing(sweep_file, workdir, capsys, monkeypatch):
    monkeypatch.setenv("PJRT_NPROC", "3")
    path = sweep_file({"A": {}, "wide": {"model.widths": (16, 32, 32)}})
    assert go(path, workdir, "--dry_run") == DONE
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert shlex.split(lines[3]) == [
        *("PJRT_NPROC=3", "python", "-m", "resjax.main"),
        *("--config=configs/digits.py:v1-8", "--config.total_steps=4"),
        *("--config.batch_size=16", "--config.schedule.warmup=none", "--config.model.widths=(16,32,32)"),
        *("--config.seed=1", f"--workdir={workdir}/runs/wide/seed1"),
    ]
    assert not workdir.exists()
    assert go(path, workdir, "--dry_run", "--launcher=slurm", "--jobs=2") == DONE
    assert "#SBATCH --array=0-3%2\n" in capsys.readouterr().out
    assert not workdir.exists()


def test_a_failing_run_stops_no_other_and_is_a_row(stand_in, sweep_file, workdir, capsys):
    path = sweep_file({"bad": {"init_from": "fail | of old"}, "gone": {"init_from": "killed"}, "A": {}})
    assert go(path, workdir) == FAILED
    found = rows(workdir)
    assert (found["A"]["n"], found["A"]["failed"], found["A"]["error"]) == (2, 0, "")
    assert (found["bad"]["n"], found["bad"]["failed"], found["bad"]["test_error_mean"]) == (0, 2, None)
    assert found["bad"]["error"] == "seed 0, 1: fail | of old"
    assert found["gone"]["error"] == "seed 0, 1: SIGKILL"
    table = (workdir / "table.md").read_text()
    assert "| seed 0, 1: fail \\| of old |" in table
    assert table in capsys.readouterr().out
    assert (workdir / "plot.png").stat().st_size > 5000


def test_finished_runs_are_skipped_and_failed_ones_tried_again(stand_in, sweep_file, workdir):
    path = sweep_file({"A": {}, "bad": {"init_from": "fail"}})
    go(path, workdir)
    before = (workdir / "runs/A/order.txt").read_text()
    assert go(path, workdir) == FAILED
    assert (workdir / "runs/A/order.txt").read_text() == before
    assert len((workdir / "runs/bad/order.txt").read_text().splitlines()) == 4


@pytest.mark.parametrize("text", ["", "{", '{"test_accuracy": 1}'])
def test_a_summary_that_is_not_whole_is_no_end(text, stand_in, sweep_file, workdir):
    path = sweep_file({"A": {}}, seeds=(0,))
    go(path, workdir)
    (workdir / "runs/A/seed0/summary.json").write_text(text)
    go(path, workdir)
    assert len((workdir / "runs/A/order.txt").read_text().splitlines()) == 2
    assert rows(workdir)["A"]["n"] == 1


@pytest.mark.parametrize(
    "text", ["", "null", "{}", "[]", '{"seeds": 1, "runs": {}}', '{"seeds": [0], "runs": {"A": 1}}']
)
def test_a_damaged_definition(text, stand_in, sweep_file, workdir):
    path = sweep_file({"A": {}}, seeds=(0,))
    go(path, workdir)
    (workdir / "sweep.json").write_text(text)
    with pytest.raises(BadInput, match=r"sweep\.json is damaged"):
        go(path, workdir)
    assert (workdir / "sweep.json").read_text() == text


@pytest.mark.parametrize("text", ["", "x", "-999", "\0", "1e9"])
def test_a_damaged_exit_code_is_none(text, stand_in, sweep_file, workdir):
    path = sweep_file({"bad": {"init_from": "fail"}}, seeds=(0,))
    assert go(path, workdir) == FAILED
    (workdir / "runs/bad/seed0.exit").write_text(text)
    [run] = plan(definition.load(str(path)), workdir)
    assert (run.exit_code(), run.error(), run.step()) == (0, "", 0)


def test_a_sweep_may_grow(stand_in, sweep_file, workdir):
    go(sweep_file({"A": {}}, seeds=(0,)), workdir)
    assert go(sweep_file({"A": {}, "B": {"model.shortcut": "B"}}, seeds=(0, 1)), workdir) == DONE
    assert {name: row["n"] for name, row in rows(workdir).items()} == {"A": 2, "B": 2}
    assert (workdir / "runs/A/order.txt").read_text().split()[::3] == ["0", "1"]


@pytest.mark.parametrize(
    ("runs", "seeds", "message"),
    [
        ({"A": {"batch_size": 8}}, (0, 1), "run 'A': batch_size: 16 there, 8 here"),
        ({"A": {"total_steps": 5}}, (0, 1), "run 'A': total_steps: 4 there, 5 here"),
        ({"B": {}}, (0, 1), "run 'A' is there, not here"),
        ({"A": {}}, (0,), "seed 1 is there, not here"),
    ],
)
def test_a_workdir_of_another_sweep(runs, seeds, message, stand_in, sweep_file, workdir):
    constant = {"schedule.name": "constant"}  # with which a single run may be prolonged
    go(sweep_file({"A": constant}), workdir)
    before = (workdir / "sweep.json").read_text()
    with pytest.raises(BadInput, match=f"holds another sweep: {message}"):
        go(sweep_file({name: constant | run for name, run in runs.items()}, seeds), workdir)
    assert (workdir / "sweep.json").read_text() == before


def test_a_workdir_of_something_else(sweep_file, workdir):
    workdir.mkdir()
    (workdir / "thesis.tex").touch()
    with pytest.raises(BadInput, match="exists and is not a sweep"):
        go(sweep_file({"A": {}}), workdir)


def test_a_data_set_that_is_missing(sweep_file, workdir, tmp_path):
    path = sweep_file({"A": {"data.dir": str(tmp_path)}}, config="configs/cifar10.py:v1-8")
    path.write_text(path.read_text().replace("'batch_size': 16", "'batch_size': 64"))
    with pytest.raises(BadInput, match=r"run 'A': .*cifar10"):
        go(path, workdir)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.num_classes": 100}, r"run 'bad': model.num_classes=100 but digits has 10"),
        ({"model.input_size": 32}, r"run 'bad': model.input_size=32 but digits has 8"),
        ({"data.augment": "crop_flp"}, r"run 'bad': data.augment='crop_flp' is unknown; did you mean crop_flip"),
        ({"data.train_split": "trai"}, r"run 'bad': data.train_split='trai'"),
        ({"schedule.warmup": "linear", "schedule.warmup_steps": 9}, r"run 'bad': schedule.warmup_steps=9"),
    ],
)
def test_runs_that_do_not_fit_their_data(overrides, message, sweep_file, workdir):
    with pytest.raises(BadInput, match=message):
        go(sweep_file({"good": {}, "bad": overrides}), workdir)
    assert not workdir.exists()


def test_two_sweeps_in_one_workdir(sweep_file, workdir):
    workdir.mkdir()
    with (workdir / "sweep.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="a sweep is running in it"):
            go(sweep_file({"A": {}}), workdir)


def test_a_signal_stops_the_sweep(stand_in, sweep_file, workdir, capfd):
    path = sweep_file({"A": {}, "slow": {"init_from": "wait"}, "never": {}}, seeds=(0,))

    def interrupt():
        while not (workdir / "runs/slow/seed0/listening").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    assert go(path, workdir) == INTERRUPTED
    assert "to go on, run the same command again" in capfd.readouterr().err
    found = rows(workdir)
    assert {name: row["n"] for name, row in found.items()} == {"A": 1, "slow": 0, "never": 0}
    assert not any(row["error"] for row in found.values())
    assert not (workdir / "runs/never").exists()
    assert (workdir / "runs/slow/seed0.log").read_text().endswith("stopped at step 2 of 4\n")


@pytest.mark.parametrize("asked", [None, 7])
def test_jobs_share_the_cores_and_have_all_threads(asked, stand_in, sweep_file, workdir, monkeypatch):
    cores = len(os.sched_getaffinity(0))
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    if asked:
        monkeypatch.setenv("NPROC", str(asked))
    go(sweep_file({"A": {}}), workdir, "--jobs=2")
    given = Path(workdir / "runs/A/order.txt").read_text().split()
    assert given[1::3] == [str(max(1, cores // 2))] * 2
    assert given[2::3] == [str(asked or cores)] * 2
    assert len(os.sched_getaffinity(0)) == cores
    log = (workdir / "runs/A/seed0.log").read_text()
    assert log.startswith(f"$ PJRT_NPROC={asked or cores} python -m resjax.main --config=")


@pytest.mark.parametrize(
    ("items", "jobs", "expected"),
    [
        ("abcd", 1, ["abcd"]),
        ("abcd", 2, ["ab", "cd"]),
        ("abcde", 2, ["ab", "cde"]),
        ("ab", 3, [["a"], ["b"], ["a"]]),
        ("", 2, [[], []]),
    ],
)
def test_shares(items, jobs, expected):
    assert [share(items, slot, jobs) for slot in range(jobs)] == expected


def test_a_sweep_of_an_older_version_goes_on(stand_in, sweep_file, workdir):
    path = sweep_file({"A": {}})
    go(path, workdir)
    saved = json.loads((workdir / "sweep.json").read_text())
    config = saved["runs"]["A"]["config"]
    assert (config["model"]["num_classes"], config["data"]["augment"]) == (10, "crop")  # as the data set has it
    del config["model"]["zero_gamma"], config["checkpoint_keep"]  # as if they had come later
    (workdir / "sweep.json").write_text(json.dumps(saved))
    assert go(path, workdir) == DONE
    config["data"]["augment"] = "none"
    (workdir / "sweep.json").write_text(json.dumps(saved))
    with pytest.raises(BadInput, match=r"run 'A': data.augment: 'none' there, 'crop' here"):
        go(path, workdir)
