"""The array job: its script run task by task, a stand-in for SLURM, and SLURM itself where it is."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from resjax.errors import BadInput
from resjax.sweep import slurm
from resjax.sweep.__main__ import main


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Stand-ins for SLURM's programs, which write down how they are called and answer what a test has set."""
    folder = tmp_path / "bin"
    folder.mkdir()
    queue = folder / "queue.txt"
    queue.write_text("")
    programs = {
        "sbatch": f'echo "$@" >> {folder}/calls.txt; echo "$(wc -l < {folder}/calls.txt);cluster"',
        "srun": f'echo "$@" >> {folder}/steps.txt; while [[ $1 = --* ]]; do shift; done; exec "$@"',
        "scontrol": f'echo "$@" >> {folder}/requeued.txt; kill $PPID',
        "squeue": f"cat {queue}; test -s {folder}/fail && {{ cat {folder}/fail >&2; exit 1; }}; exit 0",
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def go(path, workdir, *flags):
    return main([f"--sweep={path}", f"--workdir={workdir}", "--launcher=slurm", *flags])


def run_task(script, task, **environment):
    given = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task), **environment}
    return subprocess.run(["bash", script], env={**os.environ, **given}).returncode


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


def test_a_run_that_was_stopped_is_requeued(fake, stand_in, sweep_file, workdir):
    go(sweep_file({"A": {"init_from": "stopped"}}), workdir)
    assert run_task(workdir / "slurm/array1.sh", 1) == -signal.SIGTERM  # by scontrol
    assert (fake / "requeued.txt").read_text() == "requeue 7_1\n"
    assert not (workdir / "runs/A/seed1.exit").exists()


def test_all_runs_have_the_same_threads(fake, stand_in, sweep_file, workdir, monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    go(sweep_file({"A": {}}), workdir, "--sbatch=--cpus-per-task=3")
    assert [
        run_task(workdir / "slurm/array1.sh", i, SLURM_CPUS_PER_TASK=cores) for i, cores in enumerate("35")
    ] == [
        0,
        0,
    ]
    assert [line.split()[2] for line in (workdir / "runs/A/order.txt").read_text().splitlines()] == ["3", "3"]
    steps = (fake / "steps.txt").read_text().splitlines()
    assert [line.partition(" bash")[0] for line in steps] == [
        "--ntasks=1 --cpus-per-task=3",
        "--ntasks=1 --cpus-per-task=5",
    ]
    assert (workdir / "runs/A/seed0.log").read_text().startswith(f"$ PJRT_NPROC=3 {sys.executable} ")


def test_threads(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    here = slurm.threads("--gres=gpu:1 --time=5")
    assert here == len(os.sched_getaffinity(0))
    assert slurm.threads("--time=5 --cpus-per-task=12 --gres=gpu:1") == 12
    assert slurm.threads("-c 6") == slurm.threads("--cpus-per-task 6") == slurm.threads("-c2 -c6") == 6
    monkeypatch.setenv("NPROC", "4")
    assert slurm.threads("-c 6") == 4


@pytest.mark.parametrize("name", ["a\n#SBATCH --uid=0", "a\rb", "a\x1bb", "a\\b"])
def test_no_folder_puts_lines_into_the_script(name, tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="SLURM needs a path of printable characters without backslashes"):
        slurm.script([], tmp_path / name, None, "")
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(BadInput, match="SLURM needs a path of printable characters without backslashes"):
        slurm.script([], tmp_path / "W", None, "")


def test_names_are_quoted(fake, stand_in, sweep_file, tmp_path):
    workdir = tmp_path / 'it\'s "a" $(b) %j'
    go(sweep_file({"A": {}}), workdir)
    lines = (workdir / "slurm/array1.sh").read_text().splitlines()
    assert lines[1] == r"""#SBATCH --job-name="resjax-it's \"a\" $(b) %j" """.strip()
    assert lines[4].endswith(r"""/it's \"a\" $(b) %%j/slurm/%A_%a.out" """.strip())
    assert run_task(workdir / "slurm/array1.sh", 0) == 0
    assert (workdir / "runs/A/seed0/summary.json").exists()


@pytest.mark.parametrize(
    "text", ["", "null", "{", "[]", "5", '{"1": 5}', '{"1": [5]}', '{"a": []}', "\x00", b"\xff"]
)
def test_a_damaged_record(text, fake, stand_in, sweep_file, workdir):
    path = sweep_file({"A": {}})
    go(path, workdir)
    record = workdir / "slurm/jobs.json"
    record.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(
        BadInput, match=r"jobs.json is damaged: once squeue shows no job of this sweep any more, delete"
    ):
        go(path, workdir)
    record.unlink()
    assert go(path, workdir) == 0


def test_a_record_without_jobs_or_with_fewer_tasks(fake, stand_in, sweep_file, workdir):
    path = sweep_file({"A": {}})
    go(path, workdir)
    for record in ("{}", '{"1": []}'):
        (workdir / "slurm/jobs.json").write_text(record)
        (fake / "queue.txt").write_text("1_0\n1_1\n")
        assert go(path, workdir) == 0


def slurm_answers():
    if not shutil.which("sinfo"):
        return False
    try:
        return subprocess.run(["sinfo"], capture_output=True, timeout=2).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@pytest.fixture
def slurm_workdir(tmp_path):
    workdir = tmp_path / 'it\'s "a" % W'
    yield workdir
    for job in json.loads((workdir / "slurm/jobs.json").read_text()):
        subprocess.run(["scancel", job], check=True)


@pytest.mark.skipif(not slurm_answers(), reason="needs SLURM")
def test_slurm_itself(stand_in, sweep_file, slurm_workdir):
    workdir = slurm_workdir
    path = sweep_file({"A": {"init_from": "wait once"}, "bad": {"init_from": "fail"}})

    def ask_until(done, *commands):
        """SLURM takes no orders for a job that it is about to start or to requeue, so they are repeated."""
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline
            for command in commands:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    subprocess.run(command, capture_output=True, timeout=2)
            time.sleep(0.5)

    def count(pattern):
        return len(list(workdir.glob(pattern)))

    def rows():
        rows = json.loads((workdir / "table.json").read_text())["rows"]
        return [(row["n"], row["failed"], row["error"]) for row in rows]

    go(path, workdir, "--jobs=2")
    (job,) = json.loads((workdir / "slurm/jobs.json").read_text())
    ask_until(lambda: count("runs/A/*/listening") == 2)
    assert [n for n, _, _ in rows()] == [0, 0]
    for task in (0, 1):  # as at the end of the time limit
        log = workdir / f"runs/A/seed{task}.log"
        ask_until(lambda log=log: "stopped" in log.read_text(), ["scancel", "--signal=TERM", f"{job}_{task}"])
    ask_until(lambda: count("runs/bad/*.exit") == 2)
    go(path, workdir, "--jobs=2")
    assert rows() == [(0, 0, ""), (0, 2, "seed 0, 1: fail")]
    jobs = json.loads((workdir / "slurm/jobs.json").read_text())
    assert list(jobs.values())[1:] == [["bad/seed0", "bad/seed1"]]  # those of A are in the queue again
    # By themselves they would wait for two minutes.
    start = [["scontrol", "update", f"JobId={job}_{task}", "StartTime=now"] for task in (0, 1)]
    ask_until(lambda: count("runs/A/*/summary.json") == 2, *start)
    go(path, workdir, "--jobs=2")
    assert rows()[0] == (2, 0, "")
