"""`threads` against the threads that XLA really starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resjax import machine

SCRIPT = """
import json, os, pathlib, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
from resjax import machine
jax.block_until_ready(jax.numpy.ones((2, 2)) + 1)
names = [path.joinpath("comm").read_text() for path in pathlib.Path("/proc/self/task").iterdir()]
print(json.dumps([machine.threads(), sum("XLAEigen" in name for name in names), machine.describe(1)]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, 1), ({"NPROC": "5", "PJRT_NPROC": "x"}, 5), ({"NPROC": "5", "PJRT_NPROC": "3"}, 3)],
)
def test_the_threads_of_xla(environment, expected):
    environ = {name: value for name, value in os.environ.items() if name not in machine.VARIABLES} | environment
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environ, capture_output=True, text=True, check=True)
    threads, counted, described = json.loads(done.stdout)
    assert (threads, counted, described["threads"]) == (expected, expected, expected)
    assert described["device"] == "1 x cpu"
    assert described["processor"]
