"""A full disk, lost permissions, kill -9 amid a write: one line, soon, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOBODY = 65534
only_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody else")

# The command, with something put between its imports and its start.
PROGRAM = """
import os, signal, sys
from resjax import cli, main
{between}
cli.run(main.main)
"""


def flags_of(tiny, workdir):
    return (*tiny, "--config.total_steps=12", "--config.checkpoint_every_steps=4", f"--workdir={workdir}")


def command(flags, between=""):
    return [sys.executable, "-c", PROGRAM.format(between=between), *flags]


def to_the_end(flags, between="", **options):
    """Far less time than the five minutes that Orbax waits for a folder."""
    return subprocess.run(command(flags, between), cwd=ROOT, capture_output=True, text=True, timeout=200, **options)


def refused(done, *parts):
    """One line says what is wrong, below what was said before, and nothing stands beside it."""
    assert done.returncode == 2, done.stderr
    *before, line = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    usual = ("resjax ", "device ", "network ", "data ", "    ", "training ", "logs ", "note ", "compil", "step ")
    assert all(text.startswith(usual) for text in before), done.stderr


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """The digest of the run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    done = to_the_end(flags_of(tiny, workdir))
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    return json.loads((workdir / "summary.json").read_text())["state_digest"]


def goes_on(flags, workdir, digest):
    done = to_the_end(flags)
    assert done.returncode == 0, done.stderr
    assert json.loads((workdir / "summary.json").read_text())["state_digest"] == digest
    return done


FULL = {
    "at the start": (100, 4, "workdir={workdir} is not writable: "),
    "in the logs": (3500, 100, "{workdir} could not be written (File too large)"),
    "in a checkpoint": (5000, 4, "{workdir}/checkpoints: a checkpoint could not be saved (File too large)"),
}


@pytest.mark.parametrize("when", FULL)
def test_a_disk_that_is_full(tiny, tmp_path, undisturbed, when):
    """No file may grow beyond a limit, as with `ulimit -f`."""
    workdir, (size, every, message) = tmp_path / "run", FULL[when]
    flags = (*flags_of(tiny, workdir), f"--config.checkpoint_every_steps={every}")
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    refused(to_the_end(flags, limit), message.format(workdir=workdir))
    goes_on(flags, workdir, undisturbed)


NO_FOLDER = """
import errno
real = os.mkdir
def mkdir(path, *args, **options):
    if "{part}" in str(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))
    real(path, *args, **options)
os.mkdir = mkdir
"""


def test_a_save_whose_folder_cannot_be_made_ends_at_once(tiny, tmp_path, undisturbed):
    """It is found out in Orbax's threads, one of which waits five minutes for it."""
    workdir = tmp_path / "run"
    flags = flags_of(tiny, workdir)
    refused(to_the_end(flags, NO_FOLDER.format(part="state.orbax")), "could not be saved (No space left on device")
    goes_on(flags, workdir, undisturbed)


def test_a_file_in_the_place_of_the_checkpoints(tiny, tmp_path):
    (tmp_path / "checkpoints").write_text("")
    (tmp_path / "lock").touch()
    flags = flags_of(tiny, tmp_path)
    (tmp_path / "config.json").write_text("{}")  # is read first
    refused(to_the_end(flags), "config.json holds no config")
    (tmp_path / "config.json").unlink()
    refused(to_the_end(flags), f"workdir={tmp_path} ")


def let_in(folder):
    """Opens the way to a folder for somebody else, who may then write there."""
    os.chown(folder, NOBODY, NOBODY)
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)


@only_root
def test_no_permission_for_the_checkpoints(tiny, tmp_path, undisturbed):
    """Lost amid the run, then still missing when the same command starts again."""
    workdir = tmp_path / "home" / "run"
    workdir.parent.mkdir()
    let_in(workdir.parent)
    flags = flags_of(tiny, workdir)
    # All is imported first: Python's own folder may be closed to others.
    become = f"import grain, resjax.analysis.curves\nos.setuid({NOBODY})\n"
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"}  # its folder is not for everybody
    # The run waits at its fifth step until the permission is gone.
    wait = "from resjax.train import log\nreal = log.RunLog.write\ndef write(self, step, *args):\n"
    wait += "    while step == 5 and os.access(self._workdir / 'checkpoints', os.W_OK): pass\n"
    wait += "    real(self, step, *args)\nlog.RunLog.write = write\n"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command(flags, become + wait), cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as running:
        while not (workdir / "checkpoints" / "4").is_dir():
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.01)
        os.chown(workdir / "checkpoints", 0, 0)
        out, err = running.communicate(timeout=200)
    done = subprocess.CompletedProcess(running.args, running.returncode, out, err)
    refused(done, f"{workdir}/checkpoints: a checkpoint could not be saved (Permission denied")
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    again = to_the_end(flags, become, env=environment)
    refused(again, f"workdir={workdir} is not writable: no permission to write in {workdir}/checkpoints")
    assert len(again.stderr.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    os.chown(workdir / "checkpoints", NOBODY, NOBODY)
    done = to_the_end(flags, become, env=environment)
    assert "resumed  from step 4\n" in done.stderr
    assert json.loads((workdir / "summary.json").read_text())["state_digest"] == undisturbed


def test_killed_amid_the_first_write(tiny, tmp_path, undisturbed):
    """What it leaves is known, as is what older versions left, and the next run removes it."""
    workdir = tmp_path / "run"
    flags = flags_of(tiny, workdir)
    done = to_the_end(flags, "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL, done.stderr
    [left] = [path.name for path in workdir.iterdir() if path.name != "lock"]
    assert left.startswith("config.json.")
    assert left.endswith(".tmp")
    (workdir / "config.json.tmp").write_text("{")
    goes_on(flags, workdir, undisturbed)
    assert not list(workdir.glob("*.tmp"))
