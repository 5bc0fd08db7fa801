"""A signal at any moment of a command ends it with one line: while it starts, trains, and ends."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in (ROOT / "resjax").rglob("*.py")
    if '\nif __name__ == "__main__":\n    cli.run(' in path.read_text()
    or path.parts[-2:] == ("prepare", "__main__.py")
)


def struck(module, flags, number, event, after=0):
    """Sends a signal so many lines after `event` appears on stderr, where Python names every import.

    Returns the exit code, and what else stood on stderr, split at the signal.
    """
    command = [sys.executable, "-X", "importtime", "-m", module, *flags]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if event in line:
                break
        lines += [line for _, line in zip(range(after), process.stderr, strict=False)]
        process.send_signal(number)
        _, rest = process.communicate(timeout=120)
    before, rest = ([line for line in part if "import time:" not in line] for part in (lines, rest.splitlines()))
    return process.returncode, "".join(before), rest


def flags_of(tiny, workdir):
    return (*tiny, "--config.total_steps=20", "--config.checkpoint_every_steps=5", f"--workdir={workdir}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_while_it_starts(tiny, tmp_path, number, request):
    """From the first import on; a process that ignored one of these signals would train to its end."""
    often = number == signal.SIGINT and request.config.getoption("--long")
    moments = range(1, 1260, 62 if often else 300)

    def once(after):
        return struck("resjax.main", flags_of(tiny, tmp_path / str(after)), number, "resjax.interrupt", after)

    with ThreadPoolExecutor(2) as pool:
        for after, (code, before, rest) in zip(moments, pool.map(once, moments), strict=True):
            assert (before, rest) == ("", ["stopped"]), f"{after} imports later"
            assert code == (130 if number == signal.SIGINT else 75)
            assert not (tmp_path / str(after)).exists()


EVENTS = ("mesh data=", "logs  ", "compiled first", "step      5/", "step     20/", "step     20  test")


def test_while_it_trains_and_ends(tiny, tmp_path, run):
    """130: nothing was to be saved, 75: it is saved, 0: the end was reached. Each time the same command goes on."""
    whole = tmp_path / "whole"
    assert run(*flags_of(tiny, whole)).returncode == 0
    expected = (whole / "summary.json").read_text().partition('"state_digest"')[2]

    def once(event):
        flags = flags_of(tiny, tmp_path / str(EVENTS.index(event)))
        return struck("resjax.main", flags, signal.SIGINT, event), run(*flags)

    with ThreadPoolExecutor(2) as pool:
        for i, ((code, before, rest), again) in enumerate(pool.map(once, EVENTS)):
            assert code in (130, 75, 0), rest
            assert (code == 130) == (rest[-1:] == ["stopped"]), rest
            assert (code == 75) == any("to go on, run the same command again" in line for line in rest)
            assert not any("Traceback" in line for line in (before, *rest, again.stderr))
            assert again.returncode == 0, again.stderr
            assert (tmp_path / str(i) / "summary.json").read_text().partition('"state_digest"')[2] == expected


def test_after_the_end(tiny, tmp_path):
    """The result is there: whether the signal still meets the process or not, nothing else is said."""
    code, before, rest = struck("resjax.main", flags_of(tiny, tmp_path / "run"), signal.SIGINT, "results   ")
    assert (code, rest) in ((0, []), (130, ["stopped"]))
    assert "done      test accuracy" in before
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000


def test_every_command(tmp_path):
    assert {"resjax.main", "resjax.sweep", "resjax.papers", "resjax.data.prepare"} <= set(COMMANDS)

    def once(module):
        return struck(module, ["--help"], signal.SIGINT, "resjax.interrupt", 100)

    with ThreadPoolExecutor(2) as pool:
        for module, (code, before, rest) in zip(COMMANDS, pool.map(once, COMMANDS), strict=True):
            assert (code, before, rest) == (130, "", ["stopped"]), module


def test_a_signal_that_is_ignored_stays_ignored():
    """As under nohup, or of a job that a script has put into the background."""
    program = (
        "import os, signal; from resjax import interrupt\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); interrupt.leave_at_once()\n"
        "os.kill(os.getpid(), signal.SIGINT); print('goes on', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (75, "goes on\n", "stopped\n")


def test_the_interpreters_own_end_keeps_the_exit_code():
    """Python puts its handlers back before it frees its modules, of which this one takes a signal meanwhile."""
    program = (
        "import os, signal, sys; from resjax import interrupt\n"
        "interrupt.leave_at_once()\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGINT): kill(own, number)\n"
        "sys.modules['late'] = Late()\n"
        "sys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
