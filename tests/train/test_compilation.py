"""What programs are compiled for, and that seeds share them: the next ones find the first one's in the cache."""

import subprocess
import sys

import numpy as np
import pytest

from resjax import experiment
from resjax.cli import load
from resjax.models import onednn

# The command, but for the rule that only what takes long to compile is kept: here all is.
COMMAND = """
from resjax import cli, main
cli.use_compilation_cache = lambda: None
cli.run(main.main)
"""


@pytest.mark.long
def test_the_second_seed_compiles_nothing(tiny, tmp_path, monkeypatch):
    cache = tmp_path / "xla"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    random = "--config.model.shortcut_dropout=0.1"  # so that the step draws from the seed, too
    compiled = []
    for seed in (0, 1):
        flags = [
            *tiny,
            random,
            "--config.total_steps=4",
            f"--config.seed={seed}",
            f"--workdir={tmp_path / str(seed)}",
        ]
        subprocess.run([sys.executable, "-c", COMMAND, *flags], check=True, capture_output=True)
        compiled.append({path.name for path in cache.iterdir() if not path.name.endswith("-atime")})
    assert any("train_step" in name for name in compiled[0])
    assert compiled[1] - compiled[0] == set()


def test_steps_are_compiled_for_onednn(tiny):
    if not onednn.is_there():
        pytest.skip("XLA has no oneDNN here")
    found = []
    for how in ("auto", "onednn"):  # the network is too small for auto to choose it
        run = experiment.open(load([*tiny, f"--config.model.convolution={how}"]))
        feed = run.program.take(run.batches())
        step = run.program.train_step.lower(run.program.abstract, feed, np.uint32(0)).compile()
        _, metrics = step(run.program.init(np.uint32(0)), feed, np.uint32(0))
        found.append(("__onednn$" in step.as_text(), float(metrics["loss"][0]), float(metrics["gradient_norm"][0])))
    assert [has for has, *_ in found] == [False, True]
    np.testing.assert_allclose(found[1][1:], found[0][1:], rtol=1e-4)
