"""The array job: its script run task by task, a stand-in for SLURM, and SLURM itself where it is."""

import json
import os
import shutil
import subprocess
import time

import pytest

from resjax.errors import BadInput
from resjax.sweep.__main__ import main


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """sbatch and squeue that write down and answer; `answer(text, code)` sets what squeue says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    queue = folder / "queue.txt"
    queue.write_text("")
    programs = {
        "sbatch": f'echo "$@" >> {folder}/calls.txt; echo "$(wc -l < {folder}/calls.txt);cluster"',
        "squeue": f"cat {queue}; test -s {folder}/fail && {{ cat {folder}/fail >&2; exit 1; }}; exit 0",
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def go(path, workdir, *flags):
    return main([f"--sweep={path}", f"--workdir={workdir}", "--launcher=slurm", *flags])


def run_task(script, task):
    return subprocess.run(["bash", script], env={**os.environ, "SLURM_ARRAY_TASK_ID": str(task)}).returncode


def test_one_array_job_whose_tasks_are_the_runs(fake, stand_in, sweep_file, workdir):
    path = sweep_file({"A": {}, "bad": {"init_from": "fail it's $(broken)"}})
    assert go(path, workdir, "--jobs=3", "--sbatch=--time=5 --gres=gpu:1") == 0
    script = workdir / "slurm/array1.sh"
    assert (fake / "calls.txt").read_text() == f"--parsable --time=5 --gres=gpu:1 {script}\n"
    assert "#SBATCH --array=0-3%3\n" in script.read_text()
    assert json.loads((workdir / "slurm/jobs.json").read_text()) == {
        "1": ["A/seed0", "A/seed1", "bad/seed0", "bad/seed1"]
    }
    assert [run_task(script, task) for task in range(4)] == [0, 0, 1, 1]
    assert (workdir / "runs/A/seed1/summary.json").exists()
    assert (workdir / "runs/bad/seed0.exit").read_text() == "1\n"

    assert go(path, workdir) == 0  # the failed ones again, and the table anew
    assert "#SBATCH --array=0-1\n" in (workdir / "slurm/array2.sh").read_text()
    assert json.loads((workdir / "slurm/jobs.json").read_text())["2"] == ["bad/seed0", "bad/seed1"]
    assert "seed 0, 1: fail it's $(broken)" in (workdir / "table.md").read_text()


def test_what_is_in_the_queue_is_not_sent_again(fake, stand_in, sweep_file, workdir):
    path = sweep_file({"A": {}, "B": {}})
    go(path, workdir)
    (fake / "queue.txt").write_text("1_0\n1_3\n")
    go(path, workdir)
    assert json.loads((workdir / "slurm/jobs.json").read_text())["2"] == ["A/seed1", "B/seed0"]
    with pytest.raises(BadInput, match=r"of its runs are in SLURM's queue"):
        main([f"--sweep={path}", f"--workdir={workdir}"])


def test_a_job_that_slurm_has_forgotten(fake, stand_in, sweep_file, workdir):
    path = sweep_file({"A": {}})
    go(path, workdir)
    (fake / "fail").write_text("slurm_load_jobs error: Invalid job id specified\n")
    assert go(path, workdir) == 0
    (fake / "fail").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    with pytest.raises(BadInput, match=r"squeue failed: .*Unable to contact"):
        go(path, workdir)


def test_no_slurm_here(sweep_file, workdir, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BadInput, match="there is no sbatch here"):
        go(sweep_file({"A": {}}), workdir)


def test_sbatch_refuses(fake, sweep_file, workdir):
    (fake / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition' >&2; exit 1\n")
    with pytest.raises(BadInput, match=r"sbatch refused .*array1.sh: sbatch: error: invalid partition"):
        go(sweep_file({"A": {}}), workdir)


def slurm_answers():
    if not shutil.which("sinfo"):
        return False
    try:
        return subprocess.run(["sinfo"], capture_output=True, timeout=2).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@pytest.mark.skipif(not slurm_answers(), reason="needs SLURM")
def test_slurm_itself(stand_in, sweep_file, workdir):
    path = sweep_file({"A": {}, "bad": {"init_from": "fail"}})
    go(path, workdir, "--jobs=2")
    deadline = time.monotonic() + 60
    while len(list(workdir.glob("runs/*/order.txt"))) < 2 or len(list(workdir.glob("runs/bad/*.exit"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    rows = json.loads((workdir / "table.json").read_text())["rows"]
    assert [row["n"] for row in rows] == [0, 0]
    go(path, workdir, "--jobs=2")
    rows = json.loads((workdir / "table.json").read_text())["rows"]
    assert [(row["n"], row["failed"]) for row in rows] == [(2, 0), (0, 2)]
