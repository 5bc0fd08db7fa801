"""Seeds share their programs: what the first one compiled, the next ones find in the compilation cache."""

import subprocess
import sys

import pytest

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
