"""Sweeps whose runs are stand-ins: a process of milliseconds that leaves what a real run leaves."""

import json
import sys
from pathlib import Path

import pytest

from resjax.config import plain
from resjax.sweep.plan import Run

ROOT = Path(__file__).resolve().parents[2]
TINY = {"total_steps": 4, "batch_size": 16, "schedule.warmup": "none"}

STAND_IN = """
import json, os, signal, sys, time
workdir, seed, note = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with open(os.path.join(os.path.dirname(workdir), "order.txt"), "a") as file:
    file.write(f"{seed} {len(os.sched_getaffinity(0))} {os.environ.get('PJRT_NPROC')}\\n")
if note.startswith("fail"):
    print("something before", file=sys.stderr)
    sys.exit("error: " + note)
if note == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if note == "stopped":
    sys.exit(75)
if note == "nan":
    print("error: the loss is nan at step 3", file=sys.stderr)
    sys.exit(3)
os.makedirs(workdir, exist_ok=True)
with open(workdir + "/config.json", "w") as file:
    file.write(sys.argv[4])
if note == "wait" or (note == "wait once" and not os.path.exists(workdir + "/listening")):
    def stop(number, frame):
        print("stopped at step 2 of 4", file=sys.stderr)
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
    open(workdir + "/listening", "w").close()
    time.sleep(60)
summary = {"test_accuracy": 0.9 - 0.01 * seed, "test_accuracy_top5": 0.99, "train_accuracy": 0.95, "seconds": 2.0}
summary |= {"steps": 4, "state_digest": "0", "device": "1 x cpu", "images_per_second": 100.0, "params": 9}
with open(workdir + "/summary.json", "w") as file:
    json.dump(summary, file)
"""


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Runs become stand-ins; the note of one is the value of its `init_from`."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)

    def here(run):
        config = json.dumps(plain(run.config))
        return [sys.executable, str(script), str(run.workdir), str(run.seed), run.config.init_from, config]

    monkeypatch.setattr(Run, "here", property(here))


@pytest.fixture
def sweep_file(tmp_path):
    """Writes a sweep file: name -> overrides besides those that make it tiny."""

    def write(runs, seeds=(0, 1), config="configs/digits.py:v1-8", name="sweep"):
        runs = {key: TINY | value for key, value in runs.items()}
        path = tmp_path / f"{name}.py"
        path.write_text(
            f"from resjax.sweep import Sweep\ndef get_sweep():\n    return Sweep({config!r}, {runs!r}, {seeds!r})\n"
        )
        return path

    return write


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / "W"
