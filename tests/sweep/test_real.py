"""Sweeps of real training: a run is stopped and goes on; what one gives depends on no number of jobs."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

RESUMED = re.compile(r"resumed +from step (\d+)")


def test_stop_in_mid_run_and_go_on(sweep_file, workdir):
    path = sweep_file(
        {
            "short": {"model.shortcut": "none"},
            "long": {"model.shortcut": "none", "total_steps": 1000, "log_every_steps": 1, "eval_every_steps": 1000},
        },
        seeds=(0,),
    )
    command = [sys.executable, "-m", "resjax.sweep", f"--sweep={path}", f"--workdir={workdir}"]
    metrics = workdir / "runs/long/seed0/metrics.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sweep:
        while not (metrics.exists() and metrics.stat().st_size):
            assert sweep.poll() is None, sweep.communicate()
            time.sleep(0.05)
        sweep.send_signal(signal.SIGTERM)
        out, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 75
    assert "to go on, run the same command again" in err
    rows = {row["name"]: row for row in json.loads((workdir / "table.json").read_text())["rows"]}
    assert {name: row["n"] for name, row in rows.items()} == {"short": 1, "long": 0}
    assert "| long  | 0 |" in out

    written = (workdir / "runs/short/seed0/summary.json").stat().st_mtime_ns
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert (workdir / "runs/short/seed0/summary.json").stat().st_mtime_ns == written
    resumed = RESUMED.search((workdir / "runs/long/seed0.log").read_text())
    assert resumed
    assert 0 < int(resumed.group(1)) < 1000
    summary = json.loads((workdir / "runs/long/seed0/summary.json").read_text())
    row = json.loads((workdir / "table.json").read_text())["rows"][1]
    assert summary["steps"] == 1000
    assert row["test_error_mean"] == 100 * (1 - summary["test_accuracy"])
    assert row["params"] == summary["params"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.long
def test_a_run_beside_others_gives_the_bits_of_its_command(sweep_file, workdir, tmp_path):
    sweep = [sys.executable, "-m", "resjax.sweep", f"--sweep={sweep_file({'A': {}})}", f"--workdir={workdir}"]
    printed = subprocess.run([*sweep, "--dry_run"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run([*sweep, "--jobs=2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    alone = (
        printed.splitlines()[0].replace("python", sys.executable, 1).replace(str(workdir), str(tmp_path / "alone"))
    )
    subprocess.run(alone, shell=True, check=True, capture_output=True)
    digests = [
        json.loads((path / "runs/A/seed0/summary.json").read_text())["state_digest"]
        for path in (workdir, tmp_path / "alone")
    ]
    assert digests[0] == digests[1]
