import importlib.util
import json
import math
import time

import pytest

from resjax.benchmark import __main__ as benchmark
from resjax.benchmark import measure
from resjax.cli import load
from resjax.errors import BadInput

HAS_TORCH = importlib.util.find_spec("torch") is not None
SMALL = [
    "--config=configs/digits.py:v1-8",
    "--config.model.widths=(4, 4, 8)",
    "--config.model.stem_width=4",
    "--config.batch_size=16",
    "--config.mesh.data=1",
]


@pytest.fixture(autouse=True, scope="module")
def _speed_is_not_tested_here(quick_compilation):
    pass


def test_the_command_prints_one_json_object(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "BEGAN", time.monotonic())  # not when this worker of the tests started
    assert benchmark.main([*SMALL, "--steps=3", f"--out={tmp_path / 'x.json'}", "--cold"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "x.json").read_text()) == found
    assert found["batch_size"] == 16
    assert found["compilation_cache"] == "miss"
    times = [v for k, v in found.items() if k.endswith("_seconds")]
    assert len(times) == (12 if HAS_TORCH else 10)
    assert all(0 < t < 600 for t in times)
    assert math.isclose(found["images_per_second"], 16 / found["step_seconds"])
    assert math.isclose(found["flop_per_second"], 6 * found["macs"] * found["images_per_second"])
    assert 0 <= found["input_wait"] <= 1
    assert found["loop_overhead"] > -1
    assert found["save_step_ratio"] > 0
    assert found["peak_memory_bytes"] > 2**20
    assert math.isclose(found["ratio_to_flax"], found["flax_step_seconds"] / found["step_seconds"])
    assert ("ratio_to_pytorch" in found) == HAS_TORCH
    if HAS_TORCH:
        assert math.isclose(found["ratio_to_pytorch"], found["pytorch_step_seconds"] / found["step_seconds"])


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(BadInput, match="--steps=2"):
        benchmark.main([*SMALL, "--steps=2"])
    with pytest.raises(BadInput, match="no such folder"):
        benchmark.main([*SMALL, f"--out={tmp_path / 'a' / 'b'}"])


def test_ratios_are_above_1_where_resjax_is_ahead(monkeypatch):
    """On known times: a bare step takes 2 s, during a save 2.5 s, in the loop 3 s, PyTorch 8 s, stock Flax 5 s."""
    monkeypatch.setattr(measure, "single_steps", lambda step, n: [step()] * n)
    monkeypatch.setattr(measure.BareStep, "__call__", lambda self: 2.0)
    monkeypatch.setattr(measure, "unwaited", lambda *_: 2.0)
    monkeypatch.setattr(measure, "parts", lambda *_: {"forward": lambda: 0.5, "gradient": lambda: 1.5})
    monkeypatch.setattr(measure, "in_loop", lambda run, n: (3.0, 0.25))
    monkeypatch.setattr(measure, "saving_steps", lambda run, bare, n: (0.5, [2.5]))
    monkeypatch.setattr(measure, "twins_of", lambda *_: {"pytorch": lambda: 8.0, "flax": lambda: 5.0})
    found = measure.measure(load(SMALL), steps=3)
    assert found["step_seconds"] == 2.0
    assert (found["forward_seconds"], found["gradient_seconds"]) == (0.5, 1.5)
    assert found["loop_overhead"] == 0.5
    assert found["input_wait"] == 0.25
    assert found["save_step_ratio"] == 1.25
    assert found["save_blocking_seconds"] == 0.5
    assert found["ratio_to_pytorch"] == 4.0
    assert found["ratio_to_flax"] == 2.5
    assert found["images_per_second"] == 8.0
    assert found["pytorch_images_per_second"] == 2.0
