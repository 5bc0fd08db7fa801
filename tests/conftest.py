"""Eight fake CPU devices, one compilation cache for all tests and their subprocesses, and runs to look into.

Every test finds the process as the first one did, so the order does not matter; `--shuffle=SEED` shows it.
Tests that are marked `long` run with `--long`: they say what shorter ones say, of more cases.
"""

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("CRC32C_SW_MODE", "auto")  # as tensorboardX does, whichever test imports it first
# Inherited by the processes that the tests start, and by those that share the tests between them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="resjax-xla-"))

import jax
from jax.experimental.compilation_cache import compilation_cache

# A shell ignores it for what it starts in the background, and so would all processes that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_numpy_rank_promotion", "warn")  # and warnings are errors: promotions must be explicit

ROOT = Path(__file__).parents[1]

# A network that compiles in seconds, on real data. All that is random or has a state is in: dropout, stochastic
# depth, BN groups, momentum, gradient accumulation, validation. The rates are such that steps take milliseconds and
# the saves in between can be hit.
TINY = (
    "--config=configs/digits.py",
    "--config.model.units=1,2",
    "--config.model.widths=4,8",
    "--config.model.stem_width=4",
    "--config.batch_size=32",
    "--config.log_every_steps=1",
    "--config.optimizer.learning_rate=0.1",
    "--config.schedule.name=cosine",
    "--config.schedule.warmup=linear",
    "--config.schedule.warmup_steps=2",
    "--config.data.train_split=train[:1300]",
    "--config.data.validation_split=train[1300:]",
)
RICH = (
    *TINY,
    "--config.total_steps=90",
    "--config.eval_every_steps=30",
    "--config.checkpoint_every_steps=15",
    "--config.model.stochastic_depth=0.2",
    "--config.model.shortcut_dropout=0.1",
    "--config.model.bn_group=8",
    "--config.optimizer.accumulate=2",
    "--config.optimizer.nesterov=true",
)


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz",
        type=int,
        metavar="N",
        help="So many random cases in all, new ones each time; 2000, always the same.",
    )
    parser.addoption(
        "--book", metavar="DIR", help="The book's commands letter for letter, in DIR; its pictures are drawn anew."
    )
    parser.addoption("--long", action="store_true", help="Also the tests that are marked long.")
    parser.addoption(
        "--shuffle", type=int, metavar="SEED", help="Modules, and the tests in each, in a random order."
    )


def pytest_collection_modifyitems(config, items):
    if not (config.getoption("--long") or config.getoption("--book")):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    seed = config.getoption("shuffle")
    if seed is None:
        return
    rng, modules = random.Random(seed), list({item.path for item in items})
    place = {path: i for i, path in enumerate(rng.sample(sorted(modules), len(modules)))}
    rng.shuffle(items)
    items.sort(key=lambda item: place[item.path])  # modules stay whole, and with them their fixtures


def pytest_unconfigure():
    cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    if cache.name.startswith("resjax-xla-") and "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(cache, ignore_errors=True)


@contextlib.contextmanager
def jax_flags(**flags):
    """Sets flags of JAX; leaving the block puts back every flag as it was found, also those that others set."""
    found = dict(jax.config.values)
    try:
        for name, value in flags.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in found.items():
            if jax.config.values[name] != value:
                jax.config.update(name, value)


@contextlib.contextmanager
def as_found():
    """Leaving the block puts back JAX's flags, the environment and the working folder: commands set all three."""
    environment, folder = dict(os.environ), Path.cwd()
    # JAX decides once in a process whether it caches; so a test of `--cold` would depend on the tests before it.
    compilation_cache.reset_cache()
    try:
        with jax_flags():
            yield
    finally:
        os.chdir(folder)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:  # each change is a danger to threads that read the environment in C
                os.environ[name] = value


@pytest.fixture(autouse=True)
def _tests_leave_no_trace():
    with as_found():
        yield


@pytest.fixture(autouse=True, scope="module")
def _fixtures_leave_no_trace():
    """Says which module's fixtures do: what a test does itself has been put back by now."""
    flags, environment, folder = dict(jax.config.values), dict(os.environ), Path.cwd()
    yield
    environment.pop("PYTEST_CURRENT_TEST", None)
    now = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    assert (jax.config.values, now, Path.cwd()) == (flags, environment, folder)


@pytest.fixture(scope="module")
def quick_compilation():
    """For modules that run little of what they compile: most of the time would go into optimising it."""
    with jax_flags(jax_disable_most_optimizations=True):
        yield


class Process:
    """A run of a module in a process and a process group of its own."""

    def __init__(self, *flags, module="resjax.main", **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, flags)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.workdir = next((Path(f.partition("=")[2]) for f in flags if str(f).startswith("--workdir=")), None)

    def send(self, number, group=False):
        (os.killpg if group else os.kill)(self.process.pid, number)

    def wait_for(self, step, split="train"):
        """Returns when metrics.jsonl tells of `step`; fails if the run ends before."""
        while not any(record["step"] >= step for record in records(self.workdir, split)):
            assert self.process.poll() is None, f"ended before step {step}: {self.process.stderr.read()}"
            time.sleep(0.002)

    def end(self, timeout=120):
        """The finished process: returncode, stdout, stderr. Ends only when its workers have let go of the pipes."""
        out, err = self.process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, out, err)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def records(workdir, split=None):
    """What metrics.jsonl tells, without the times."""
    path = Path(workdir) / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    timeless = [{k: v for k, v in r.items() if k not in ("images_per_second", "input_wait")} for r in found]
    return [record for record in timeless if split in (None, record["split"])]


@pytest.fixture(scope="session")
def tiny():
    """The flags of a network that compiles in seconds; durations are up to the test."""
    return TINY


@pytest.fixture(scope="session")
def rich():
    """The flags of a run of 90 steps with everything that is random in it."""
    return RICH


@pytest.fixture(scope="session")
def read_records():
    return records


@pytest.fixture(scope="session")
def start():
    """Starts `python -m resjax.main FLAGS`."""
    return Process


@pytest.fixture(scope="session")
def run():
    """Runs `python -m resjax.main FLAGS` to its end."""

    def to_the_end(*flags, **options):
        with Process(*flags, **options) as process:
            return process.end()

    return to_the_end


@pytest.fixture(scope="session")
def whole(run, tmp_path_factory):
    """The workdir of the `rich` run, never interrupted; to be read only."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    workdir, stderr = shared / "whole" / "run", shared / "whole" / "stderr"
    stderr.parent.mkdir(exist_ok=True)
    with (shared / "whole" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stderr.exists():
            done = run(*RICH, f"--workdir={workdir}")
            assert done.returncode == 0, done.stderr
            stderr.write_text(done.stderr)
    return workdir


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of `whole` to be damaged; without a summary, so that the same command goes on from the checkpoints."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "summary.json").unlink()
    return workdir


@pytest.fixture
def call(capfd, monkeypatch):
    """Runs `python -m resjax.main FLAGS` within this process: (exit code, stdout, stderr)."""
    from resjax import cli
    from resjax.main import main

    def in_process(*flags, command=main):
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["resjax", *map(str, flags)])
        monkeypatch.chdir(ROOT)
        with pytest.raises(SystemExit) as left:
            cli.run(command)
        out, err = capfd.readouterr()
        return left.value.code, out, err

    return in_process


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a test has drawn, kept open to be looked at."""
    from resjax.analysis import figure

    close, kept = figure.plt.close, []
    monkeypatch.setattr(figure.plt, "close", kept.append)
    yield kept
    for one in kept:
        close(one)
