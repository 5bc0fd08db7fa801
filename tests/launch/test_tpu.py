"""launch/tpu against a stand-in for gcloud that can fail, be slow and take the TPU away; see gcloud.py."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "launch" / "tpu"
NAMES = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
AUTHOR = dict.fromkeys(NAMES, "tester")
TPU = ("--type=v5litepod-16", "--zone=us-z1-a", "--poll=0.02")
RUN = ("run", *TPU, "--workdir=gs://bucket/runs/x", "--", "--config=configs/digits.py")


class Gcloud:
    """The stand-in in `folder`, and the launcher of a checkout that uses it."""

    def __init__(self, folder, program):
        self.folder, self.program = folder, program

    def launch(self, *flags):
        return call(*flags, program=self.program)

    def write(self, name, text):
        (self.folder / name).write_text(text)

    def read(self, name):
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def verbs(self, *but):
        """The verbs of all calls, one after the other; of repeated ones the first."""
        verbs = [json.loads(line)[3] for line in self.read("calls").splitlines()]
        verbs = [verb for verb in verbs if verb not in but]
        return [verb for i, verb in enumerate(verbs) if i == 0 or verbs[i - 1] != verb]

    def call(self, verb):
        """The words of the only call of a verb."""
        (found,) = (words for line in self.read("calls").splitlines() if (words := json.loads(line))[3] == verb)
        return found

    def starts(self):
        return self.read("runs").splitlines()


@pytest.fixture
def gcloud(checkout, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("stand_in", Path(__file__).with_name("gcloud.py"))
    monkeypatch.setenv("GCLOUD", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.install(tmp_path)
    yield Gcloud(tmp_path, checkout / "launch/tpu")
    (tmp_path / "enough").touch()
    for worker in module.WORKERS:
        module.clear(tmp_path / worker)


SCRIPT = {"__name__": "tpu", "__file__": str(LAUNCHER)}
exec(compile(LAUNCHER.read_text(), LAUNCHER, "exec"), SCRIPT)


def call(*flags, program=LAUNCHER, **environment):
    """(exit code, stdout, stderr) of the launcher."""
    done = subprocess.run(
        [program, *flags], capture_output=True, text=True, env={**os.environ, **environment}, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A small one, which is copied in no time; with a change that is not committed."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(LAUNCHER.parent, folder / "launch")
    for file in ("resjax/main.py", "pyproject.toml", "configs/digits.py"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-C", folder, *words], check=True, env={**os.environ, **AUTHOR})
    (folder / "configs/digits.py").write_text("changed = True\n")
    return folder


def test_from_nothing_to_a_finished_run_and_back_to_nothing(gcloud):
    gcloud.write("codes", "0 0\n")
    code, out, err = call(*RUN[:-2], "--spot", "--project=p", "--gcloud=--network='my net'", *RUN[-2:])
    assert code == 0, err
    for state in ("to be requested", "WAITING_FOR_RESOURCES", "PROVISIONING"):
        assert f"resjax: {state}\n" in err
    assert gcloud.call("create")[4:] == [
        "resjax",
        "--node-id=resjax",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--spot",
        "--network=my net",
        "--zone=us-z1-a",
        "--project=p",
        "--async",
        "--quiet",
    ]
    command = "-m resjax.main --config=configs/digits.py --workdir=/mnt/bucket/runs/x"
    assert sorted(gcloud.starts()) == [f"0 8476 {command}", f"1 8476 {command}"]
    mounted = gcloud.read("gcsfuse").splitlines()
    assert len(mounted) == 2
    assert mounted[0].endswith(" bucket /mnt/bucket")
    assert out == "worker 0, start 1: 0\n"  # the log of the first worker, once
    assert err.endswith("its folder is gs://bucket/runs/x\nresjax is deleted\n")
    assert gcloud.read("state") == ""


def test_the_checkout_is_copied_with_its_changes_and_only_once(gcloud, checkout):
    for _ in range(2):
        code, _, err = gcloud.launch("up", *TPU)
        assert (code, err.splitlines()[-1]) == (0, "resjax is ready: 2 workers")
    assert gcloud.verbs().count("scp") == 1
    for worker in "01":
        assert gcloud.read(f"{worker}/resjax/source/configs/digits.py") == "changed = True\n"
    status = subprocess.run(["git", "-C", checkout, "status", "--short"], capture_output=True, text=True)
    assert status.stdout == " M configs/digits.py\n"


def test_stopped_and_saved_starts_again_for_ever_on_the_same_tpu(gcloud):
    gcloud.write("codes", "75 75\n75 137\n75 75\n0 0\n")
    code, out, err = gcloud.launch("run", "--max_restarts=0", *RUN[1:])
    assert code == 0, err
    assert len(gcloud.starts()) == 8
    assert gcloud.verbs("ssh", "describe") == ["create", "scp", "delete"]  # requested and installed once
    assert out == "".join(f"worker 0, start {i}: {code}\n" for i, code in enumerate((75, 75, 75, 0), 1))


def test_a_tpu_that_is_taken_away_is_deleted_and_requested_anew(gcloud):
    gcloud.write("codes", "preempt 75\npreempt hang\n0 0\n")
    code, _, err = gcloud.launch("run", "--max_restarts=0", *RUN[1:])
    assert code == 0, err
    assert err.count("resjax: SUSPENDED\n") == 2
    assert gcloud.verbs("ssh", "scp", "describe") == ["create", "delete"] * 3
    assert [start[0] for start in gcloud.starts()].count("0") == 3


def test_sigterm_to_all_that_runs_on_a_worker_leaves_the_exit_code_of_the_run(gcloud):
    gcloud.write("codes", "stop stop\n0 0\n")
    command = [gcloud.program, "run", "--max_restarts=0", *RUN[1:]]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as launcher:
        while not all((gcloud.folder / worker / "listens").exists() for worker in "01"):
            assert launcher.poll() is None, launcher.stderr.read()
            time.sleep(0.01)
        for worker in "01":
            os.killpg(int(gcloud.read(f"{worker}/resjax/pid")), signal.SIGTERM)
        try:
            _, err = launcher.communicate(timeout=150)
        finally:
            launcher.kill()
    assert launcher.returncode == 0, err
    assert "the workers ended with 75 75; all start again\n" in err


@pytest.mark.parametrize("codes", ["2 69", "75 2", "3 3", "hang 3"])
def test_what_ends_a_run_for_good(gcloud, codes):
    gcloud.write("codes", f"{codes}\n0 0\n")
    code, out, err = gcloud.launch(*RUN)
    assert code == int(re.search("[23]", codes)[0]), err
    assert len(gcloud.starts()) == 2
    assert gcloud.read("state") == ""  # deleted: it costs
    assert "worker 1, start 1:" in out  # the last lines of all workers' logs


def test_crashes_are_counted(gcloud):
    gcloud.write("codes", "69 1\n137 69\n69 69\n0 0\n")
    code, _, err = gcloud.launch("run", "--max_restarts=1", "--keep", *RUN[1:])
    assert code == 137
    assert "2 crashes are more than --max_restarts=1\n" in err
    assert len(gcloud.starts()) == 4
    assert gcloud.read("state") == "ACTIVE"
    assert "resjax is kept, and costs: launch/tpu down --type=v5litepod-16 --zone=us-z1-a\n" in err


def test_processes_that_do_not_end_with_the_others_are_killed(gcloud):
    gcloud.write("codes", "hang 69\n0 0\n")
    code, _, err = gcloud.launch(*RUN)
    assert code == 0, err
    assert "some workers have ended, others have not: running 69; those are killed\n" in err
    assert len(gcloud.starts()) == 4


def test_the_run_goes_on_without_the_command_which_finds_it_again(gcloud):
    gcloud.write("codes", "hang hang\n0 0\n")
    with subprocess.Popen([gcloud.program, *RUN], stderr=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        while len(gcloud.starts()) < 2:
            assert first.poll() is None, first.stderr.read()
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    code, out, err = gcloud.launch("status", *TPU)
    assert (code, out) == (0, "resjax: ACTIVE\nworker-0: running\nworker-1: running\n"), err
    code, _, err = gcloud.launch(*RUN, "--config.seed=1")
    assert (code, err.count("\n")) == (2, 1)
    assert "another run is on it" in err
    gcloud.write("0/resjax/installed", "older\n")
    assert gcloud.launch("up", *TPU)[2] == "resjax is ready: 2 workers\n"  # nothing is installed under a run
    assert gcloud.verbs().count("scp") == 1
    (gcloud.folder / "enough").touch()
    code, _, err = gcloud.launch(*RUN)
    assert code == 0, err
    assert gcloud.verbs().count("create") == 1


def test_old_exit_codes_are_not_taken_for_those_of_this_run(gcloud):
    gcloud.write("codes", "2 2\n0 0\n")
    assert gcloud.launch("run", "--keep", *RUN[1:])[0] == 2
    out = gcloud.launch("status", *TPU)[1]
    assert out == "resjax: ACTIVE\nworker-0: ended with exit code 2\nworker-1: ended with exit code 2\n"
    assert gcloud.launch(*RUN)[0] == 0


def test_bridges_what_passes(gcloud):
    gcloud.write("codes", "0 0\n")
    gcloud.write("fail", "describe 3 ERROR: no route\nscp 2 ERROR: port 22\nssh 6 ERROR: connection reset\n")
    code, _, err = gcloud.launch(*RUN)
    assert code == 0, err
    assert "ERROR: port 22\n" in err
    assert gcloud.read("fail").split("\n") == [
        "describe 0 ERROR: no route",
        "scp 0 ERROR: port 22",
        "ssh 0 ERROR: connection reset",
    ]


def test_workers_that_never_answer_are_requested_anew(gcloud):
    gcloud.write("codes", "0 0\n")
    gcloud.write("state", "ACTIVE")
    gcloud.write("fail", "ssh 20 ERROR: connection reset\n")
    code, _, err = gcloud.launch(*RUN)
    assert code == 0, err
    assert "resjax does not answer; it is deleted and requested again\n" in err


@pytest.mark.parametrize("left_over", ["SUSPENDED", "FAILED"])
def test_left_over_entries_are_deleted_as_they_keep_quota(gcloud, left_over):
    gcloud.write("state", left_over)
    code, _, err = gcloud.launch("up", *TPU)
    assert code == 0, err
    assert gcloud.verbs("describe", "ssh", "scp") == ["delete", "create"]


def test_requests_that_fail_again_and_again_end_it(gcloud):
    gcloud.write("coming", "gone\n" + "FAILED\n" * 9)
    gcloud.write("state", "FAILED")
    code, _, err = gcloud.launch("up", *TPU)
    assert code == 2
    assert err.splitlines()[-1] == (
        "error: resjax: 3 requests have failed; see why: "
        "gcloud compute tpus queued-resources describe resjax --zone=us-z1-a"
    )


def test_no_permission_is_said_at_once(gcloud):
    gcloud.write("fail", "describe 9 ERROR: (gcloud) PERMISSION_DENIED: enable\nthe API\n")
    code, _, err = gcloud.launch("status", *TPU)
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("PERMISSION_DENIED: enable\n")
    assert len(gcloud.read("calls").splitlines()) == 1


def test_logs_and_down(gcloud):
    assert gcloud.launch("down", *TPU)[2] == "there is no resjax\n"
    assert gcloud.launch("status", *TPU)[1] == "resjax: does not exist\n"
    gcloud.write("codes", "75 75\nhang hang\n")
    with subprocess.Popen([gcloud.program, *RUN], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as first:
        while len(gcloud.starts()) < 4:
            time.sleep(0.01)
        first.kill()
    with subprocess.Popen(
        [gcloud.program, "logs", *TPU], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as logs:
        assert [logs.stdout.readline() for _ in range(2)] == [
            "worker 0, start 1: 75\n",
            "worker 0, start 2: hang\n",
        ]
        os.killpg(logs.pid, signal.SIGKILL)
    assert gcloud.launch("down", *TPU)[2] == "resjax is deleted\n"
    assert gcloud.read("state") == ""


def test_a_worker_without_gcsfuse_gets_it(gcloud):
    """The script is read by bash; what it would do as root is noted instead."""
    (gcloud.folder / "worker-bin/gcsfuse").unlink()
    for name, text in {"curl": "echo key", "lsb_release": "echo jammy"}.items():
        (gcloud.folder / "worker-bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (gcloud.folder / "worker-bin" / name).chmod(0o755)
    _, printed, _ = gcloud.launch("run", "--dry_run", *RUN[1:])
    commands = [word for word in shlex.split(printed, comments=True) if word.startswith("--command=")]
    (script,) = (word.partition("=")[2] for word in commands if "mountpoint" in word)
    environment = {"PATH": f"{gcloud.folder / 'worker-bin'}:/usr/bin:/bin", "HOME": str(gcloud.folder)}
    done = subprocess.run(["bash", "-c", script], env=os.environ | environment, stdin=subprocess.DEVNULL)
    assert done.returncode != 0  # no gcsfuse after all, at its last line
    assert [line.split()[0] for line in gcloud.read("sudo").splitlines()] == [
        "tee",
        "tee",
        "apt-get",
        "apt-get",
        "mkdir",
        "chown",
    ]


def test_the_dry_run_says_what_is_executed(gcloud):
    gcloud.write("codes", "0 0\n")
    _, printed, err = gcloud.launch("run", "--dry_run", *RUN[1:])
    assert (err, gcloud.read("calls")) == ("", "")
    assert gcloud.launch(*RUN)[0] == 0
    blocks = re.findall(r"^gcloud .*?(?:--quiet|us-z1-a)$", printed, re.DOTALL | re.MULTILINE)
    shown = [json.dumps(shlex.split(block)[1:]) for block in blocks]
    for line in set(gcloud.read("calls").splitlines()):
        words = json.loads(line)
        if words[3] == "scp":
            words[4] = "resjax.tar.gz"
        if "tail -c +" not in line:  # how much of the log was printed before
            assert json.dumps(words) in shown


def test_no_gcloud(tmp_path):
    (tmp_path / "python3").symlink_to(sys.executable)
    for action in ("up", "status", "logs", "down"):
        code, _, err = call(action, *TPU, PATH=str(tmp_path))
        assert (code, err.count("\n")) == (2, 1)
        assert "gcloud is not on PATH" in err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("start", *TPU), "start"),
        (("run", *TPU, "--workdir=gs://b/x"), "after --"),
        (("run", *TPU, "--workdir=gs://b/x", "--"), "after --"),
        (("run", *TPU, "--", "--config=c"), "--workdir=gs://BUCKET/FOLDER"),
        (("run", *TPU, "--workdir=runs/x", "--", "--config=c"), "--workdir=gs://BUCKET/FOLDER"),
        (("run", *TPU, "--workdir=gs://b/", "--", "--config=c"), "--workdir=gs://BUCKET/FOLDER"),
        (("run", *TPU, "--workdir=gs://b;rm/x", "--", "--config=c"), "--workdir=gs://BUCKET/FOLDER"),
        ((*RUN, "--workdir=runs/x"), "--workdir=runs/x"),
        ((*RUN, "--sweep=s.py"), "--sweep=s.py"),
        (("up", *TPU, "--", "--config=c"), "up runs nothing"),
        (("up", "--type=v7-8", "--zone=z"), "v6e-N, v5p-N"),
        (("up", "--type=v6e", "--zone=z"), "--type=v6e is unknown"),
        (("up", "--zone=z"), "--type"),
        (("up", "--type=v6e-8"), "--zone"),
        (("up", *TPU, "--name=Big_TPU"), "--name=Big_TPU"),
        (("up", *TPU, "--poll=0"), "--poll=0"),
        (("up", *TPU, "--poll=nan"), "--poll=nan"),
        (("up", *TPU, "--max_restarts=-1"), "--max_restarts=-1"),
        (("up", *TPU, "--gcloud='"), "--gcloud"),
        (("up", *TPU, "--spott"), "did you mean --spot?"),
    ],
)
def test_bad_input_is_one_line(flags, named, capsys):
    with pytest.raises(SystemExit) as left:
        SCRIPT["main"](["--dry_run", *flags])
    out, err = capsys.readouterr()
    assert (left.value.code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: ")
    assert named in err
