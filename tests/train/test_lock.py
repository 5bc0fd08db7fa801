"""One run at a time: two real processes, and what a killed one leaves."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys

import pytest

from resjax.errors import BadInput
from resjax.train import lock

HOLD = """
import pathlib, sys, time
from resjax.train import lock
with lock.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock until it is told to end, or killed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path, holder):
    refusal = (
        rf"^workdir={tmp_path} is in use by process {holder.pid} on {socket.gethostname()} since 2.*: wait for"
    )
    for _ in range(2):  # asking does not weaken it
        with pytest.raises(BadInput, match=refusal), lock.hold(tmp_path):
            pytest.fail("held twice")
    holder.communicate()
    with lock.hold(tmp_path):
        found = json.loads((tmp_path / "lock").read_bytes())
        assert (found["pid"], found["host"]) == (os.getpid(), socket.gethostname())
    assert (tmp_path / "lock").read_bytes() == b""


def test_a_killed_process_is_no_obstacle(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == holder.pid
    with lock.hold(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", [b"", b"\xff{", b"[1]", b"{}"])
def test_whatever_the_file_says_the_lock_counts(tmp_path, holder, content):
    """Opened by its name here, and only by a process that holds nothing: closing it would release the lock."""
    (tmp_path / "lock").write_bytes(content)
    with pytest.raises(BadInput, match="in use by another process"), lock.hold(tmp_path):
        pytest.fail("held twice")


def test_a_file_system_without_locks_is_said_once(tmp_path, monkeypatch, capfd):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with lock.hold(tmp_path):
        pass
    assert capfd.readouterr().err == (
        f"{tmp_path}: no file locks here; make sure that only one run uses it at a time\n"
    )


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(BadInput, match=f"^workdir={tmp_path} is not writable: "), lock.hold(tmp_path):
        pytest.fail("held nothing")


def test_an_error_within_releases_it(tmp_path):
    with pytest.raises(KeyError), lock.hold(tmp_path):
        raise KeyError
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    done = subprocess.run(command, input="", capture_output=True, text=True)
    assert done.stdout == "held\n"
