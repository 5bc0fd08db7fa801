"""`threads` against the threads that XLA really starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from resjax import cli, machine

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


def test_the_autotuner_s_choices_are_kept_with_the_compiled_programs(tmp_path):
    """Asked of JAX itself, because it hands the folder to XLA with every program."""
    from jax._src import compiler

    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    cli.use_compilation_cache()
    options = compiler.get_compile_options(1, 1)  # kept alive: what it holds are views
    build = options.executable_build_options
    assert Path(build.debug_options.xla_gpu_per_fusion_autotune_cache_dir).parent == tmp_path
    assert machine.cache() == str(tmp_path)
    jax.config.update("jax_enable_compilation_cache", False)
    assert machine.cache() == ""


def test_what_changes_roundings_is_said(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "here"))
    threads = machine.threads()
    assert machine.changes({}, "cpu") == machine.changes({}, "gpu") == []
    assert machine.changes({"threads": threads, "compilation_cache": "/elsewhere"}, "cpu") == []
    (line,) = machine.changes({"threads": threads + 1}, "cpu")
    assert f"put NPROC={threads + 1} before the command" in line
    assert machine.changes({"threads": threads + 1}, "gpu") == []
    (line,) = machine.changes({"compilation_cache": "/elsewhere"}, "gpu")
    assert "put JAX_COMPILATION_CACHE_DIR=/elsewhere before the command" in line
    (line,) = machine.changes({"compilation_cache": str(tmp_path / "here")}, "gpu")
    assert "which is gone" in line
    (tmp_path / "here").mkdir()
    assert machine.changes({"compilation_cache": str(tmp_path / "here")}, "gpu") == []
