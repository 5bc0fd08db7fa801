"""launch/local: real processes that stand in for runs, and a real run of two."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "launch/local"

# What a process does is its part of --roles=A,B, or of A1/A2 at the first and the second start. Its commands are
# recorded. While it lives it holds a pipe open, if there is one.
STAND_IN = """\
#!{python} -S
import os, signal, sys, time
flags = dict(word[2:].partition("=")[::2] for word in sys.argv[3:])
rank = int(flags["process_id"])
record = "{folder}/started" + str(rank)
with open(record, "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
roles = flags["roles"].split(",")[rank].split("/")
role = roles[min(len(open(record).readlines()), len(roles)) - 1]
if os.path.exists("{folder}/alive"):
    pipe = open("{folder}/alive", "w")
def stop(number, frame):
    print("SIGTERM", file=sys.stderr)
    if role == "wait":
        time.sleep(0.1)  # a second SIGTERM would be seen
        sys.exit(75)
signal.signal(signal.SIGTERM, stop)
print("to stdout")
print("to stderr, unfinished", end="", file=sys.stderr)
if role == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
while role in ("hang", "wait"):
    print("\\nready", file=sys.stderr)
    signal.pause()
sys.exit(int(role))
"""


@pytest.fixture
def python(tmp_path):
    """A Python that stands in for `python -m resjax.main`."""
    path = tmp_path / "python"
    path.write_text(STAND_IN.format(python=sys.executable, folder=tmp_path))
    path.chmod(0o755)
    return path


@pytest.fixture
def launch(python):
    """Starts launch/local with stand-ins; whatever happens, nothing is left of it."""
    running = []

    def start(roles, *flags):
        command = [LAUNCHER, f"--python={python}", f"--processes={len(roles.split(','))}", *flags]
        command += ["--", f"--roles={roles}"]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()  # its children die with it, as a test below shows
        process.communicate()


def to_the_end(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def wait_until_ready(process, count):
    """Reads stderr until so many processes listen to signals."""
    seen = ""
    while seen.count("ready\n") < count:
        text = process.stderr.readline()
        assert text, seen
        seen += text


def started(python, rank):
    return python.with_name(f"started{rank}").read_text().splitlines()


def test_every_line_begins_with_the_number_of_its_process(python, launch):
    code, out, err = to_the_end(launch("0,0", "--devices=4"))
    assert code == 0
    assert sorted(out.splitlines()) == ["[0] to stdout", "[1] to stdout"]
    assert sorted(err.splitlines()) == ["[0] to stderr, unfinished", "[1] to stderr, unfinished"]
    (first,), (second,) = started(python, 0), started(python, 1)
    joined = r"--coordinator=127.0.0.1:\d+ --num_processes=2 --process_id=0 --devices=4"
    assert re.fullmatch(f"-m resjax.main --roles=0,0 {joined}", first)
    assert second == first.replace("process_id=0", "process_id=1")


@pytest.mark.parametrize(
    ("roles", "expected"),
    [("3,69", 3), ("69,2", 2), ("1,hang", 1), ("killed,69", 69), ("75,75", 75), ("75,1", 1), ("69,hang,3", 3)],
)
def test_the_exit_code_tells_the_cause_and_none_stays_behind(launch, roles, expected):
    code, _, err = to_the_end(launch(roles, "--patience=0.5"))
    assert code == expected
    assert ("SIGKILL to process 1, still running" in err) == ("hang" in roles)
    assert ("process 0 was killed by SIGKILL" in err) == ("killed" in roles)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_once(launch, number):
    process = launch("wait,wait", "--restarts=3")
    wait_until_ready(process, 2)
    process.send_signal(number)
    code, _, err = to_the_end(process)
    assert code == 75
    assert len(re.findall(r"\[[01]\] SIGTERM", err)) == 2
    assert "start again" not in err


def test_a_second_signal_kills(launch):
    process = launch("hang,hang")
    wait_until_ready(process, 2)
    process.send_signal(signal.SIGTERM)
    while "] SIGTERM" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    assert to_the_end(process)[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize("roles", ["75/0,75/0", "69/0,killed/0"])
def test_all_start_again_after_a_stop_or_a_loss(python, launch, roles):
    code, _, err = to_the_end(launch(roles, "--restarts=2"))
    assert code == 0
    assert f"exit code {roles[:2]}: all processes start again (1 of 2 restarts)" in err
    assert [len(started(python, rank)) for rank in (0, 1)] == [2, 2]
    first, second = started(python, 1)
    assert first != second  # another port, because the old one may not be free yet


def test_restarts_are_counted_and_a_failure_is_final(python, launch):
    assert to_the_end(launch("75,75", "--restarts=2"))[0] == 75
    assert len(started(python, 0)) == 3
    assert to_the_end(launch("3,3", "--restarts=2"))[0] == 3
    assert len(started(python, 0)) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_nothing_outlives_a_killed_launcher(python, launch):
    os.mkfifo(python.with_name("alive"))
    alive = os.open(python.with_name("alive"), os.O_RDONLY | os.O_NONBLOCK)
    process = launch("hang,hang")
    wait_until_ready(process, 2)
    assert not select.select([alive], [], [], 0)[0]
    process.kill()
    assert select.select([alive], [], [], 30)[0]
    assert os.read(alive, 1) == b""  # the last of those that held it open is gone
    os.close(alive)


def test_nobody_listens(launch):
    process = launch("wait,wait")
    wait_until_ready(process, 2)
    process.stderr.close()
    process.stdout.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    process.stdout = process.stderr = None


def dry_run(*flags, **environment):
    command = [LAUNCHER, "--dry_run", f"--python={sys.executable}", *flags]
    clean = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES")}
    done = subprocess.run(command, capture_output=True, text=True, env=clean | environment)
    return done.returncode, re.sub(r"127.0.0.1:\d+", "HOST:PORT", done.stdout), done.stderr


def test_dry_run_prints_the_commands():
    joined = "--coordinator=HOST:PORT --num_processes=2 --process_id"
    run = f"{sys.executable} -m resjax.main --config=a.py '--workdir=a b'"
    words = ("--", "--config=a.py", "--workdir=a b")
    printed = f"JAX_PLATFORMS=cpu {run} {joined}=0 --devices=4\nJAX_PLATFORMS=cpu {run} {joined}=1 --devices=4\n"
    assert dry_run("--devices=4", *words, CUDA_VISIBLE_DEVICES="0,1,2") == (0, printed, "")
    printed = f"CUDA_VISIBLE_DEVICES=0,1 {run} {joined}=0\nCUDA_VISIBLE_DEVICES=2,5 {run} {joined}=1\n"
    assert dry_run(*words, CUDA_VISIBLE_DEVICES="0,1,2,5") == (0, printed, "")
    assert dry_run("--processes=1", *words, CUDA_VISIBLE_DEVICES="") == (0, f"{run}\n", "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "nothing to run: give the flags of resjax.main after --"),
        (("--config=a.py",), "--config=a.py is unknown; flags of resjax.main go after --"),
        (("--proceses=3", "--", "a"), "--proceses=3 is unknown; did you mean --processes?"),
        (("--processes=two", "--", "a"), "--processes: invalid int value: 'two'"),
        (("--processes=0", "--", "a"), "--processes=0: must be at least 1"),
        (("--devices=0", "--", "a"), "--devices=0: must be at least 1"),
        (("--restarts=-1", "--", "a"), "--restarts=-1: must be at least 0"),
        (("--patience=nan", "--", "a"), "--patience=nan: must be at least 0"),
        (("--python=no/python", "--", "a"), "--python=no/python: no such program"),
        (("--", "--sweep=a.py"), "a sweep starts its processes itself: python -m resjax.sweep"),
        (("--", "--process_id=0"), "--process_id=0: launch/local gives each process its own"),
        (("--", "--devices=4"), "--devices=4: write it before the --"),
        (("--processes=3", "--", "a"), "--processes=3: the 4 GPUs here cannot be shared out evenly"),
    ],
)
def test_bad_input_is_one_line(flags, message):
    code, out, err = dry_run(*flags, CUDA_VISIBLE_DEVICES="0,1,2,3")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_needs_nothing_but_python():
    done = subprocess.run([sys.executable, "-I", "-S", LAUNCHER, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "launch/local --processes=2 --devices=4 -- --config" in done.stdout
    assert "--restarts N" in done.stdout


def test_where_this_python_has_no_jax(tmp_path):
    launcher = tmp_path / "launch/local"
    launcher.parent.mkdir()
    launcher.write_text(LAUNCHER.read_text())
    own = tmp_path / ".venv/bin/python"

    def call():
        command = [sys.executable, "-I", "-S", launcher, "--dry_run", "--", "--config=a.py"]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout.partition(" -m ")[0], done.stderr

    assert call() == (2, "", f"error: {sys.executable} has no JAX, and there is no {own}: give --python=PATH\n")
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    assert call()[:2] == (0, str(own))


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux to find a process by its parent")
def test_two_real_processes_of_which_one_is_killed(tiny, read_records, tmp_path):
    """The other one notices, and both go on from the last checkpoint."""
    workdir = tmp_path / "run"
    durations = ("--config.total_steps=24", "--config.checkpoint_every_steps=4", "--config.mesh.data=8")
    command = [LAUNCHER, f"--python={sys.executable}", "--processes=2", "--devices=4", "--restarts=1", "--"]
    command += [*tiny, *durations, f"--workdir={workdir}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stderr.readline, "")
        said = "".join(until("compiled", lines))
        other = child(process.pid, "--process_id=1")
        said += "".join(until("step      6/24", lines))
        os.kill(other, signal.SIGKILL)
        said += "".join(lines)
        assert process.wait(60) == 0, said
    finally:
        process.kill()
        process.communicate()
    assert "launch/local: process 1 was killed by SIGKILL" in said
    assert "launch/local: exit code 69: all processes start again (1 of 1 restarts)" in said
    assert re.search(r"\[0\] resumed  from step (4|8|12|16|20)\n", said)
    assert read_records(workdir, "test")[-1]["step"] == 24


def until(text, lines):
    for line in lines:
        yield line
        if text in line:
            return
    pytest.fail(f"the output ended before {text!r}")


def child(parent, word):
    """The process of `parent` that has a word in its command line."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            of = path.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            if of == str(parent) and word in path.joinpath("cmdline").read_text().split("\0"):
                return int(path.name)
    raise LookupError(word)
