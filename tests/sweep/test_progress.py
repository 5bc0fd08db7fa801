"""The live table on a terminal of 80 columns, and the time left under a clock of our own."""

import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl

import pytest

from resjax.config import plain
from resjax.sweep import Sweep, progress
from resjax.sweep.plan import plan
from resjax.sweep.progress import Display, line, shorten

# The stand-ins of `conftest.py` take the place of training in a sweep of its own process.
SWEEP = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that the terminal's Ctrl-C comes here
from resjax import cli
from resjax.config import plain
from resjax.sweep.plan import Run
from resjax.sweep.__main__ import main
import json
Run.here = property(lambda run: [
    sys.executable, {script!r}, str(run.workdir), str(run.seed), run.config.init_from, json.dumps(plain(run.config))
])
cli.run(main)
"""


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


@pytest.fixture
def runs(tmp_path):
    return plan(Sweep("configs/digits.py:v1-8", {"A": {"total_steps": 100}}, (0, 1, 2, 3)), tmp_path)


def log(run, step):
    run.workdir.mkdir(parents=True, exist_ok=True)
    (run.workdir / "metrics.jsonl").write_text(json.dumps({"step": step}) + "\n")


def finish(run, steps=100):
    log(run, steps)
    (run.workdir / "config.json").write_text(json.dumps(plain(run.config)))
    summary = {
        "test_accuracy": 0.9,
        "test_accuracy_top5": 1.0,
        "train_accuracy": 0.9,
        "seconds": 1.0,
        "steps": steps,
    }
    summary |= {"images_per_second": 100.0, "params": 9, "device": "1 x cpu", "state_digest": "0"}
    (run.workdir / "summary.json").write_text(json.dumps(summary))


def test_the_time_left_knows_start_up_from_pace(runs, clock):
    told = Display(runs, jobs=2)
    told.started(runs[0])
    told.started(runs[1])
    clock(30)  # compiling
    told.update()
    assert told.seconds_left() is None
    assert told.counts() == "0 of 4 done"
    clock(10)
    log(runs[0], 10)
    told.update()
    assert told.seconds_left() is None  # 10 steps in 40 s: start-up and steps are not apart yet
    clock(10)
    log(runs[0], 20)
    log(runs[1], 20)
    told.update()
    # A step a second after a start-up of 30 s: 80 s for the running ones, then 130 s for the other two.
    assert told.seconds_left() == pytest.approx(210)
    clock(40)
    assert told.seconds_left() == pytest.approx(170)
    clock(40)
    finish(runs[0])
    finish(runs[1])
    told.ended(runs[0], 0)
    told.ended(runs[1], 0)
    assert told.counts() == "2 of 4 done, about 02:10 left"
    assert told.share() == 0.5
    told.ended(runs[2], 75)
    assert told.counts() == "2 of 4 done, 1 interrupted"


def test_a_resumed_sweep_starts_where_it_was(runs, clock):
    finish(runs[0])
    log(runs[1], 60)
    told = Display(runs, jobs=1)
    assert told.share() == pytest.approx(0.4)
    assert told.counts() == "1 of 4 done"
    told.started(runs[1])
    clock(20)
    log(runs[1], 70)
    told.update()
    clock(10)
    log(runs[1], 80)
    told.update()
    # What was done before counts in no pace: a step a second after a start-up of 10 s.
    assert told.seconds_left() == pytest.approx(20 + 2 * (10 + 100))


@pytest.mark.parametrize("name", ["A/seed0", "a-name-that-is-far-too-long-for-a-line/seed12"])
def test_lines_keep_their_bars(name):
    text = line(shorten(name).ljust(18), 0.5, "3 of 6 done, 1 failed, about 00:05 left", 79)
    assert len(text) <= 79
    assert text.startswith(name[:8])
    assert len(re.search(r"50 % \|(.*)\|", text).group(1)) >= 8


def screen(data, columns):
    """The lines that a terminal shows after `data`."""
    rows, y, x = [[]], 0, 0
    for token in re.findall(r"\x1b\[\d*[A-Z]|[^\x1b]", data):
        if token == "\r":
            x = 0
        elif token == "\n":
            y += 1
        elif token.endswith("A") and len(token) > 1:
            y = max(0, y - int(token[2:-1]))
        elif token.endswith("J") and len(token) > 1:
            del rows[y + 1 :], rows[y][x:]
        else:
            x, y = (0, y + 1) if x >= columns else (x, y)
            rows += [[] for _ in range(y + 1 - len(rows))]
            rows[y] += [" "] * (x + 1 - len(rows[y]))
            rows[y][x] = token
            x += 1
        rows += [[] for _ in range(y + 1 - len(rows))]
    return ["".join(row).rstrip() for row in rows]


def test_ctrl_c_on_a_terminal_of_80_columns(stand_in, sweep_file, workdir, tmp_path):
    path = sweep_file({"first": {}, "slow": {"init_from": "wait"}, "never": {}}, seeds=(0,))
    main, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
    sweep = subprocess.Popen(
        [sys.executable, "-c", SWEEP.format(script=str(tmp_path / "stand_in.py"))]
        + [f"--sweep={path}", f"--workdir={workdir}"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    read = b""
    while not (workdir / "runs/slow/seed0/listening").exists():
        assert sweep.poll() is None
        time.sleep(0.02)
    while b"slow/seed0" not in read.rpartition(b"all runs")[2]:
        read += os.read(main, 65536)
    live = screen(read.decode(), 80)
    os.write(main, b"\x03")
    while sweep.poll() is None or read[-1:] != b"\n":
        try:
            read += os.read(main, 65536)
        except OSError:  # the last of the terminal's users has closed it
            break
    os.close(main)
    assert sweep.wait() == 75

    table = [row for row in live if "|" in row]
    assert [row.partition("%")[0].split()[0] for row in table] == ["all", "slow/seed0"]
    assert all(len(row) < 80 for row in table)
    assert len({row.index("|") for row in table} | {-row.rindex("|") for row in table}) == 2  # bars are aligned
    shown = screen(read.decode(), 80)
    assert "stopping: the runs save first (again: leave at once)" in shown
    assert not any("^C" in row or "█" in row for row in shown)
    assert "stopped; to go on, run the same command again" in shown
    assert all(len(row) < 80 for row in shown if row.startswith("|"))  # the table's rows
