"""launch/slurm: its script run with stand-ins for SLURM's programs, and by SLURM itself where it is."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "launch/slurm"
RUN = ("--", "--config=configs/digits.py", "--workdir=W")

# What stands in for Python ends with the exit code that a file says, and, at a word there, only after SIGTERM.
PYTHON = """\
#!{python} -S
import os, signal, sys, time
rank = int(os.environ["SLURM_PROCID"])
print("process", rank, *sys.argv[1:], flush=True)
role = open("{folder}/role").read().split()
def stop(number, frame):
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(143))  # as a run does at a second one
    time.sleep(rank)  # so that the others have ended while this one saves
    print("saved", rank, flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
if role[0] == "wait":
    print("listening", rank, flush=True)
    time.sleep(60)
sys.exit(int(role[0]))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkout with a config, SLURM's programs, which write down how they are called, and a Python."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/digits.py").touch()
    (tmp_path / "queue").touch()
    programs = {
        "sbatch": f'echo "$@" >> {tmp_path}/submitted; echo "$(wc -l < {tmp_path}/submitted);cluster"',
        "squeue": f'echo "$@" >> {tmp_path}/asked; cat {tmp_path}/queue',
        "scontrol": f'echo "$@" >> {tmp_path}/requeued; kill $PPID',
        "srun": f'echo "$@" >> {tmp_path}/steps; while [[ $1 = --* ]]; do shift; done; SLURM_PROCID=0 exec "$@"',
    }
    (tmp_path / "bin").mkdir()
    for name, body in programs.items():
        write(tmp_path / "bin" / name, f"#!/bin/bash\n{body}\n")
    write(tmp_path / "python", PYTHON.format(python=sys.executable, folder=tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, text):
    path.write_text(text)
    path.chmod(0o755)


def call(*flags, **environment):
    """(exit code, stdout, stderr) of the launcher."""
    done = subprocess.run([LAUNCHER, *flags], capture_output=True, text=True, env=os.environ | environment)
    return done.returncode, done.stdout, done.stderr


def submit(folder, *flags):
    code, out, err = call(f"--python={folder}/python", *flags, *RUN)
    assert (code, out) == (0, ""), err
    return err


def run_job(script, role, **environment):
    """What SLURM does with the script; -SIGTERM: it was requeued."""
    script.parents[1].joinpath("role").write_text(role)
    given = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", **environment}
    return subprocess.run(["bash", script], env=os.environ | given, stdout=subprocess.PIPE).returncode


def directives(text):
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_one_process_a_gpu(folder):
    flags = ("--nodes=2", "--gpus_per_node=8", "--cpus_per_task=12", "--time=8:00:00", "--sbatch=-p gpu -A me")
    err = submit(folder, *flags)
    script = folder / "W.slurm/job.sh"
    assert err.startswith("submitted as job 1\n")
    assert (folder / "submitted").read_text() == f"--parsable {script}\n"
    name, *rest = directives(script.read_text())
    assert name.startswith("--job-name=resjax-W-")
    assert rest == [
        *("--nodes=2", "--ntasks-per-node=8", "--gres=gpu:8", "--cpus-per-task=12", "--time=8:00:00"),
        *(f'--chdir="{folder}"', f'--output="{folder}/W.slurm/%j.out"', "--open-mode=append", "--requeue"),
        *("--signal=TERM@120", "-p gpu -A me"),
    ]
    assert run_job(script, "0", SLURM_CPUS_PER_TASK="12") == 0
    assert (folder / "steps").read_text() == (
        f"--label --kill-on-bad-exit=0 --wait=120 --cpus-per-task=12 {folder}/python -m resjax.main "
        "--config=configs/digits.py --workdir=W\n"
    )


def test_without_gpus_one_process_a_node(folder):
    submit(folder, "--nodes=3")
    text = (folder / "W.slurm/job.sh").read_text()
    assert directives(text)[1:4] == ["--nodes=3", "--ntasks-per-node=1", f'--chdir="{folder}"']
    assert run_job(folder / "W.slurm/job.sh", "0") == 0
    assert "--cpus-per-task" not in (folder / "steps").read_text()


def test_what_was_saved_goes_on_for_ever_and_what_was_lost_some_times(folder):
    submit(folder, "--restarts=2")
    script, requeued = folder / "W.slurm/job.sh", -signal.SIGTERM
    assert [run_job(script, "75") for _ in range(4)] == [requeued] * 4
    # 137: the system killed a process, and srun tells no more of the others.
    assert [run_job(script, code) for code in ("69", "137", "69", "75")] == [requeued, requeued, 69, requeued]
    assert (folder / "requeued").read_text() == 7 * "requeue 7\n"
    assert run_job(script, "137", SLURM_JOB_ID="8") == requeued  # another job counts for itself


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_what_is_done_or_failed_is_not_requeued(folder, code):
    submit(folder)
    assert run_job(folder / "W.slurm/job.sh", str(code)) == code
    assert not (folder / "requeued").exists()


def test_a_cluster_that_requeues_nothing(folder):
    submit(folder)
    write(folder / "bin/scontrol", "#!/bin/bash\nexit 1\n")
    assert run_job(folder / "W.slurm/job.sh", "75") == 75


def test_what_waits_or_runs_is_not_submitted_again(folder):
    submit(folder)
    name = directives((folder / "W.slurm/job.sh").read_text())[0].removeprefix("--job-name=")
    (folder / "queue").write_text("1 RUNNING\n")
    assert submit(folder) == "--workdir=W is in the queue already, nothing was submitted: 1 RUNNING\n"
    assert f"--name={name} " in (folder / "asked").read_text()
    assert len((folder / "submitted").read_text().splitlines()) == 1
    (folder / "queue").write_text("")
    assert submit(folder).startswith("submitted as job 2\n")


def test_a_job_is_known_by_its_folder(folder):
    def name(*workdir):
        _, out, err = call("--dry_run", f"--python={sys.executable}", *RUN[:2], *workdir)
        assert out, err
        return directives(out)[0]

    assert name("--workdir=W") == name("--workdir", f"{folder}/x/../W") == name("--workdir=./W/")
    assert name("--workdir=W") != name("--workdir=x/W")


def test_words_are_quoted(folder):
    (folder / "it's").mkdir()
    os.chdir(folder / "it's")
    code, _, err = call(f"--python={folder}/python", "--", 'a"b $(c)', "--workdir=W %j")
    assert code == 0, err
    script = folder / "it's/W %j.slurm/job.sh"
    assert f'--output="{folder}/it\'s/W %%j.slurm/%j.out"' in directives(script.read_text())
    assert '"' not in directives(script.read_text())[0]
    (folder / "it's/role").write_text("0")
    (folder / "role").write_text("0")
    done = subprocess.run(["bash", script], env=os.environ | {"SLURM_JOB_ID": "7"}, capture_output=True, text=True)
    assert done.stdout.endswith('process 0 -m resjax.main a"b $(c) --workdir=W %j\n')


def test_a_sweep_goes_to_its_own_command(folder):
    write(folder / "python", f'#!/bin/bash\nprintf "%s\\n" "$@" > {folder}/words; exit 1\n')
    flags = (f"--python={folder}/python", "--gpus_per_node=1", "--time=60", "--sbatch=-p 'a b'")
    code, out, _ = call(*flags, "--", "--sweep=configs/digits.py", "--jobs=3")
    assert (code, out) == (1, "")
    words = ["-m", "resjax.sweep", "--sweep=configs/digits.py", "--jobs=3", "--launcher=slurm"]
    words.append("--sbatch=--gres=gpu:1 --time=60 -p 'a b'")
    assert (folder / "words").read_text().splitlines() == words
    call(*flags, "--dry_run", "--", "--sweep=configs/digits.py", "--jobs=3")
    assert (folder / "words").read_text().splitlines() == [*words, "--dry_run"]


def test_dry_run_prints_the_script_and_writes_nothing(folder):
    code, out, err = call("--dry_run", f"--python={folder}/python", *RUN, PATH="/usr/bin:/bin")
    assert code == 0
    assert err == f"to be submitted as sbatch --parsable {folder}/W.slurm/job.sh\n"
    assert not (folder / "W.slurm").exists()
    submit(folder)
    assert (folder / "W.slurm/job.sh").read_text() == out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "nothing to run: give the flags of resjax.main after --"),
        (("--node=2", *RUN), "--node=2 is unknown; did you mean --nodes?"),
        (("--nodes=0", *RUN), "--nodes=0: must be at least 1"),
        (("--gpus_per_node=-1", *RUN), "--gpus_per_node=-1: must be at least 0"),
        (("--cpus_per_task=many", *RUN), "--cpus_per_task: invalid int value: 'many'"),
        (("--time=soon", *RUN), "--time=soon: must be a time of SLURM, such as 90 (minutes)"),
        (("--sbatch=--comment='a", *RUN), '--sbatch="--comment=\'a": No closing quotation'),
        (("--sbatch=--gpus-per-task=1", *RUN), "--sbatch: use --gpus_per_node=N"),
        (("--sbatch=-p a -J b", *RUN), "--sbatch: leave the job's name out"),
        (("--sbatch=-p a\n#SBATCH -A b", *RUN), r"'-p a\n#SBATCH -A b': must be one line"),
        ((*RUN[:2], "--workdir=a\nb"), r"'--workdir=a\nb': must be one line"),
        ((*RUN[:2], "--workdir=a\\b"), "--workdir=a\\b: SLURM writes no output to a path with a backslash"),
        (RUN[:2], "--workdir is missing after --"),
        (("--", "--config=configs/digit.py:v1-20"), "--config=configs/digit.py:v1-20: no such file"),
        (("--python=no/python", *RUN), "--python=no/python: no such program"),
        (("--nodes=2", "--", "--sweep=configs/digits.py"), "--nodes=2: each run of a sweep is one process"),
        (("--", "--sweep=configs/digits.py", "--launcher=local"), "--launcher after --: leave it out"),
    ],
)
def test_bad_input_is_one_line(folder, flags, message):
    code, out, err = call(f"--python={folder}/python", *flags)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not (folder / "submitted").exists()


@pytest.mark.parametrize("missing", ["sbatch", "squeue"])
def test_no_slurm_here(folder, missing):
    (folder / "bin" / missing).unlink()
    code, _, err = call(f"--python={folder}/python", *RUN, PATH=f"{folder}/bin:{Path(sys.executable).parent}")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: there is no {missing} here")


def test_slurm_refuses(folder):
    write(folder / "bin/sbatch", "#!/bin/bash\necho 'sbatch: error: invalid partition' >&2; exit 1\n")
    code, _, err = call(f"--python={folder}/python", *RUN)
    assert (code, err) == (
        2,
        f"error: sbatch --parsable {folder}/W.slurm/job.sh: sbatch: error: invalid partition\n",
    )
    write(folder / "bin/squeue", "#!/bin/bash\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    code, _, err = call(f"--python={folder}/python", *RUN)
    assert code == 2
    assert err.endswith("Unable to contact slurm controller\n")


def test_a_folder_that_cannot_be_written(folder):
    (folder / "W.slurm").touch()
    code, _, err = call(f"--python={folder}/python", *RUN)
    assert (code, err) == (2, f"error: --workdir=W: {folder}/W.slurm/job.sh cannot be written: File exists\n")


def test_needs_nothing_but_python():
    done = subprocess.run([sys.executable, "-I", "-S", LAUNCHER, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "launch/slurm --nodes=2 --gpus_per_node=8" in done.stdout
    assert "--cpus_per_task N" in done.stdout


def slurm_answers():
    if not shutil.which("sinfo"):
        return False
    try:
        return subprocess.run(["sinfo"], capture_output=True, timeout=2).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@pytest.mark.skipif(not slurm_answers(), reason="needs SLURM")
def test_slurm_itself(folder):
    """Two processes are stopped as at the end of the time limit, both save, and the job starts again."""
    shutil.rmtree(folder / "bin")
    (folder / "role").write_text("wait")
    job = submit(folder, "--sbatch=--ntasks-per-node=2").split()[3]
    output = folder / f"W.slurm/{job}.out"

    def ask_until(done, *command):
        # SLURM takes no orders for a job that it is about to start or to requeue, so they are repeated.
        deadline = time.monotonic() + 60
        while not (output.exists() and done(output.read_text())):
            assert time.monotonic() < deadline, output.read_text()
            if command:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    subprocess.run(command, capture_output=True, timeout=2)
            time.sleep(0.5)

    try:
        ask_until(lambda text: text.count("listening") == 2)
        assert submit(folder).endswith(f"nothing was submitted: {job} RUNNING\n")
        ask_until(lambda text: "saved" in text, "scancel", "--signal=TERM", job)
        ask_until(lambda text: "requeued" in text)
        text = output.read_text()
        assert "0: saved 0\n" in text
        assert "1: saved 1\n" in text  # it was still saving when the first had ended
        (folder / "role").write_text("0")
        ask_until(lambda text: "start 2\n" in text, "scontrol", "update", f"JobId={job}", "StartTime=now")
        ask_until(lambda text: text.count("process 1 -m resjax.main") == 2)
    finally:
        subprocess.run(["scancel", job], check=True)
