"""Suites: their rows, one process each, with time-outs; what is known is kept, and goes on."""

import importlib.util
import json
import os
import signal
import time
from pathlib import Path

import pytest

from resjax import checks
from resjax.benchmark import __main__ as benchmark
from resjax.benchmark import conduct, point, report, suites
from resjax.benchmark.suites import Row
from resjax.cli import load
from resjax.errors import BadInput

HAS_TORCH = importlib.util.find_spec("torch") is not None
# Found by every process of a suite before anything else: what reads data sets, or writes logs, is not there.
BARE = """

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets", "grain", "array_record", "tensorboardX"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(autouse=True, scope="module")
def _speed_is_not_tested_here(quick_compilation):
    pass


@pytest.mark.long
def test_a_killed_suite_goes_on_and_needs_nothing_that_reads_data(start, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BARE)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    out = tmp_path / "found.json"
    flags = ("--suite=imagenet", "--tiny", f"--out={out}")
    options = {"module": "resjax.benchmark", "PYTHONPATH": paths, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    with start(*flags, **options) as suite:
        while len(rows := json.loads(out.read_text())["rows"] if out.exists() else []) < 2:
            assert suite.process.poll() is None, suite.process.stderr.read()
            time.sleep(0.02)
        suite.send(signal.SIGKILL)
        assert suite.process.wait() == -signal.SIGKILL
    with start(*flags, **options) as suite:
        done = suite.end()
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["complete"]
    assert found["rows"][:2] == rows
    assert [row["name"] for row in found["rows"]] == [
        "ceilings",
        "v1.5-50",
        "v1.5-50, PyTorch",
        "v1.5-50, stock Flax",
    ]
    assert [row["status"] for row in found["rows"]] == ["done", "done", "done" if HAS_TORCH else "failed", "done"]
    assert done.stdout == report.table(found) + "\n"
    step = found["rows"][1]
    assert step["compilation_cache"] == "miss"
    assert step["placement"] == "device"
    assert step["batch_size"] / step["step_seconds"] == pytest.approx(step["images_per_second"])
    for key in ("bytes_per_second", "program_bytes", "peak_memory_bytes", "compile_seconds", "flop_per_second"):
        assert step[key] > 0, key


def test_what_the_limit_leaves_out_is_said(call, tmp_path, monkeypatch):
    monkeypatch.setattr(conduct, "one", lambda row, limit: {"status": "done", "platform": "cpu", "seconds": 1.0})
    out = tmp_path / "found.json"
    code, _, err = call("--suite=cifar", "--limit=0.1", f"--out={out}", command=benchmark.main)
    assert code == 0
    assert "ceilings: left out, the limit of 0.1 s was reached" in err
    assert "goes on with what the limit left out" in err
    assert not json.loads(out.read_text())["complete"]
    code, _, err = call("--suite=cifar", "--limit=60", f"--out={out}", command=benchmark.main)
    assert (code, json.loads(out.read_text())["complete"]) == (0, True)
    code, _, err = call("--suite=cifar", "--limit=0.1", f"--out={out}", command=benchmark.main)
    assert "left out" not in err, "they are known"


def test_a_row_that_the_whole_limit_ends_is_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(conduct, "one", lambda row, limit: {"status": "timed out", "why": "", "seconds": limit})
    found = conduct.conduct("imagenet", tmp_path / "a.json", 20, True)
    assert {row["status"] for row in found["rows"]} == {"left out"}
    found = conduct.conduct("imagenet", tmp_path / "b.json", 2000, True)
    assert {row["status"] for row in found["rows"]} == {"timed out"}
    assert found["complete"], "a row's own limit ends it for good"


@pytest.mark.parametrize(
    ("row", "status", "why"),
    [
        (Row("bad", "step", fields={"batch_size": 0}), "failed", "exit code 2: error: batch_size=0"),
        (Row("crash", "step", flags="--xla_gpu_nonsense=1"), "failed", "Unknown flag in XLA_FLAGS"),
        (Row("slow", "step", limit=0.2), "timed out", "not done after 0.2 s"),
    ],
)
def test_a_row_that_fails_is_a_row_that_says_so(row, status, why, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    found = conduct.one(row, row.limit)
    assert found["status"] == status
    assert why in found["why"]
    assert "step_seconds" not in found


def measured(row):
    """What a GPU may have found; the fastest is 50 steps a call with +CONVOLUTION."""
    if row.kind == "ceilings":
        return {"name": row.name, "platform": "gpu"}
    fast = row.name == "v1-20 float32, 50 steps a call, +CONVOLUTION"
    return {"name": row.name, "step_seconds": 0.5 if fast else 1.0}


def rows_of(suite, platform="gpu"):
    """All rows of a suite on a platform."""
    found, rows = [], []
    for row in conduct.planned(suites.SUITES[suite], found, False):
        rows.append(row)
        found.append(measured(row) | ({"platform": platform} if row.kind == "ceilings" else {}))
    return rows


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("suite", suites.SUITES)
def test_every_row_is_a_command_that_could_begin(suite, platform, monkeypatch):
    """Also of those that nothing here can run."""
    monkeypatch.chdir(Path(__file__).parents[2])
    rows = rows_of(suite, platform)
    assert len({row.name for row in rows}) == len({row.command for row in rows}) == len(rows)
    for row in (*rows, *map(suites.tiny, rows)):
        kind, *recipe, steps = row.point
        assert kind.removeprefix("--point=") in point.NAMES
        assert int(steps.removeprefix("--steps=")) >= 3
        config = checks.described(load(recipe))
        config.mesh.data = 1
        checks.validate(config, 1)
    assert any(row.flags for row in rows) == (platform == "gpu")


def test_the_fastest_flags_of_v1_20_are_those_of_deeper_networks():
    rows = {row.name: row for row in rows_of("cifar")}
    for count in (1, 50, 200):
        flags = {row.flags for name, row in rows.items() if f"float32, {count} steps a call" in name}
        assert flags | {""} == set(suites.FLAGS.values())
    deep = rows["v1-110 float32, as the fastest v1-20"]
    assert (deep.flags, deep.fields["steps_per_call"]) == (suites.FLAGS["+CONVOLUTION"], 50)
    assert deep.recipe == "configs/cifar10.py:v1-110"
    exact = rows["v1-20 float32, as the fastest, deterministic"]
    assert exact.flags == f"{suites.FLAGS['+CONVOLUTION']} --xla_gpu_deterministic_ops=true"
    assert exact.command.startswith(f"XLA_FLAGS='{exact.flags}' python -m resjax.benchmark --point=step --config=")
    assert rows["v2-1001 bfloat16, scanned, as the fastest v1-20"].fields["model.dtype"] == "bfloat16"


@pytest.mark.parametrize("kind", ["step", "seeds-map", "seeds-vmap"])
def test_a_point_takes_several_steps_a_call(kind, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setitem(suites.ALL_TINY, "mesh.data", 1)
    row = suites.tiny(next(row for row in rows_of("cifar") if "50 steps a call" in row.name))
    config = load(row.point[1:-1])
    assert config.steps_per_call == 2
    found = point.measure(kind, config, 6, time.monotonic())
    assert found["steps_per_call"] == 2
    assert found["images_per_second"] == pytest.approx(4 / found["step_seconds"])
    assert found["projected_seconds"] == found["first_step_seconds"] + 64_000 * found["step_seconds"]


def test_times_of_a_point_are_of_one_step(monkeypatch):
    """A call of two steps takes 3 s; of four seeds' two steps, 24 s."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setitem(suites.ALL_TINY, "mesh.data", 1)
    row = suites.tiny(next(row for row in rows_of("cifar") if "50 steps a call" in row.name))
    config = load(row.point[1:-1])
    monkeypatch.setattr(point, "unwaited", lambda *_: 3.0)
    assert point.measure("step", config, 6, 0.0)["step_seconds"] == 1.5
    monkeypatch.setattr(point, "unwaited", lambda *_: 24.0)
    assert point.measure("seeds-map", config, 6, 0.0)["step_seconds"] == 3.0


def test_the_table_puts_figures_beside_what_the_device_can_do():
    versions = {"jax": "0.10.2"}
    own = {"network": "n", "dtype": "float32", "status": "done", "images_per_second": 1280.0}
    own |= {"flop_per_second": 2e12, "bytes_per_second": 5e11, "step_seconds": 0.1, "peak_memory_bytes": 1}
    rows = [
        {"name": "ceilings", "kind": "ceilings", "status": "done", "device": "1 x X", "versions": versions}
        | {f"matmul_{dtype}_flop_per_second": 8e12 for dtype in ("float32", "bfloat16")}
        | {"copy_bytes_per_second": 1e12},
        {"name": "own", "kind": "step"} | own,
        {"name": "theirs", "kind": "pytorch", "how": "as they do"} | own | {"step_seconds": 0.15},
        {"name": "broken", "kind": "step", "status": "failed", "why": "signal 6: no"},
    ]
    text = report.table({"rows": rows})
    line = next(line for line in text.splitlines() if line.startswith("| own"))
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells == ["1,280", "100.000", "", "", "0", "2.00 (25 %)", "500.00 (50 %)", ""]
    for said in ("n float32: 1.50 x PyTorch", "as they do", "broken: failed, signal 6: no", "copy 1,000 GB/s"):
        assert said in text


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--suite=cifer"], "--suite='cifer' is unknown; did you mean cifar?"),
        (["--suite=cifar", "--config=configs/digits.py"], "--config: the rows of --suite=cifar have their own"),
        (["--suite=cifar", "--steps=30"], "--steps: the rows of --suite=cifar have their own"),
        (["--config=configs/digits.py", "--tiny"], "--tiny is for a --suite"),
        (["--suite=cifar", "--limit=0"], "--limit=0: "),
        (["--suite=cifar", "--limit=nan"], "--limit=nan: "),
        (["--suite=cifar", "--point=step"], "--suite and --point: give one of them"),
        (["--suite=cifar", "--out={tmp}"], "is not a file"),
        (["--suite=cifar", "--out={tmp}/a/b"], "there is no such folder"),
        (["--suite=cifar", "--out={tmp}/other"], "holds something else"),
        (["--suite=cifar", "--out={tmp}/torn"], "is damaged"),
        (["--suite=cifar", "--out={tmp}/old"], "was measured with"),
        (["--config=configs/digits.py", "--point=stop"], "--point='stop' is unknown; did you mean step?"),
        (["--config=configs/digits.py", "--profile={tmp}/other"], "other is a file; give a folder"),
        (["--config=configs/digits.py", "--profile={tmp}/other/a"], "other is a file; give a folder"),
        ([], "--config is missing"),
    ],
)
def test_bad_input_is_one_line(call, tmp_path, flags, says):
    (tmp_path / "other").write_text("[]")
    (tmp_path / "torn").write_text("{")
    old = {"suite": "cifar", "tiny": False, "versions": {"jax": "0.1"}, "rows": []}
    (tmp_path / "old").write_text(json.dumps(old))
    before = sorted(tmp_path.iterdir())
    code, out, err = call(*(flag.replace("{tmp}", str(tmp_path)) for flag in flags), command=benchmark.main)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert says in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_suite_is_run_in_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="run it in a checkout"):
        benchmark.main(["--suite=cifar"])


def test_a_profile_is_a_trace_that_tensorboard_finds(call, tmp_path):
    small = ["--config.model.widths=4,4,8", "--config.model.stem_width=4", "--config.batch_size=8"]
    flags = ["--config=configs/digits.py:v1-8", *small, "--config.mesh.data=1"]
    code, _, err = call(*flags, f"--profile={tmp_path}/trace", command=benchmark.main)
    assert code == 0, err
    (session,) = (tmp_path / "trace" / "plugins" / "profile").iterdir()
    assert next(session.glob("*.xplane.pb")).stat().st_size > 1000
    assert (session / "perfetto_trace.json.gz").is_file()
    assert f"tensorboard --logdir={tmp_path}/trace" in err
