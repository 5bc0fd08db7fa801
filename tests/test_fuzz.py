"""Random command lines and files: a command does it, or says in one line why not and writes nothing.

`pytest --fuzz=20000 tests/test_fuzz.py` tries as many new cases; a failure prints the shortest that it found.
"""

import contextlib
import faulthandler
import io
import json
import os
import pickle
import shlex
import signal
import string
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, configuration, given, settings
from hypothesis import strategies as st

from resjax import checks, cli, describe, experiment, export, files, main, predict
from resjax.analysis import __main__ as analysis
from resjax.benchmark import __main__ as benchmark
from resjax.config import default, durations, flatten, plain, restored
from resjax.data.augment import policies
from resjax.data.augment.draw import AUGMENTATIONS
from resjax.data.prepare import __main__ as prepare
from resjax.data.prepare import cifar
from resjax.data.preprocess import DECODINGS, INTERPOLATIONS, Preprocessing
from resjax.data.resolve import resolve
from resjax.data.splits import parse_slice
from resjax.data.usual import NORMALIZATIONS
from resjax.errors import BadInput
from resjax.models import counts
from resjax.models.spec import CHOICES as SPEC_CHOICES
from resjax.models.spec import Spec
from resjax.papers import TABLES
from resjax.papers import __main__ as papers
from resjax.sweep import __main__ as sweep

configuration.set_hypothesis_home_dir(tempfile.gettempdir())  # it would make a folder of its own in the checkout
CASES = 2000  # of all fuzz tests together
SECONDS = 30  # that a case may take on a busy machine; none needs one


class Hangs(BaseException):
    """A case that does not end; no `except Exception` may take it for an answer."""


@contextlib.contextmanager
def watchdog():
    """Ends a case that hangs, in Python or, with every thread's stack on stderr, anywhere."""

    def bark(*_):
        raise Hangs(f"no end within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, bark)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(4 * SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(config, share, check, cases):
    """Calls `check` with random cases, `share` of all of them; the same ones each time unless --fuzz is given."""
    asked = config.getoption("fuzz")

    def watched(case):
        with watchdog():
            check(case)

    run = settings(
        max_examples=max(1, round(share * (asked or CASES))),
        deadline=None,
        derandomize=asked is None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    run(given(cases)(watched))()


# One of every kind that has broken a parser, a file system, a terminal, an allocator or a float.
PLAIN = """
    = - -- , . .. / ~ * [ %s%n ' " $(ls) `ls` # None True False true null () (,) (1,) 1,2,3 'a' b'a' {[]:1}
    0 -0 1 -1 +1 1_000 0x10 1e3 0.5 1.0 1.0,1.0,1.0 16,32,64.0 10**11 1j 1000000 100000000 [1,[2]] {1:2}
    nan NaN inf -inf 1e400 (1e999,) 1e308 1e-400 5e-324 1e-12 999999999999 -999999999999 100000000000
    2147483648 4294967296 9223372036854775808 -9223372036854775808 1000000000000000000000 __import__('os')
    ../../x /etc/passwd /dev/zero /proc/self/mem /nowhere/x ~nobody-here/x file folder folder/x file/x
    pipe loop lost run odd.py empty.py a,b train train[:10] train[10%:] train[-5:5] train[::] test
"""
LONG = (
    "9" * 5000,
    "-" + "9" * 5000,
    "0." + "0" * 5000,
    "(" * 300,
    "-" * 5000 + "1",
    "1," * 2000,
    "x" * 300,
    "x/" * 3000,
)
ODD = (
    "\0",
    "a\0b",
    "a\nb",
    "\r",
    "\t",
    "\x1b[2J",
    "\x7f",
    "\x85",
    "\u2028",
    "\ufeff",
    "\udcff",
    "\u202e",
    "ä",
    "٣",
)
HOSTILE = st.sampled_from([*PLAIN.split(), *LONG, *ODD, "", " ", "0.1 + 0.2", "(1.5, 2)", "a b", "1if 1"])
WORDS = st.text(string.ascii_letters + string.digits + " ._-+=:,/()[]", max_size=20) | st.text(max_size=20)
NUMBERS = st.integers().map(str) | st.integers(-3, 300).map(str) | st.floats().map(str)
ROWS = st.lists(st.integers(-2, 70) | st.floats(0, 5), max_size=5).map(lambda items: ",".join(map(str, items)))
TEXTS = HOSTILE | NUMBERS | ROWS | WORDS
LARGE = st.sampled_from([10**4, 10**5, 10**6, 10**7, 10**9, 10**11, 2**31, 2**32 - 1, 2**63, -(2**31), 10**12])
WHOLES = st.integers() | st.integers(-3, 300) | LARGE | st.just(10**400)
JSON = st.recursive(
    st.none() | st.booleans() | WHOLES | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
)

CONFIGS = Path(__file__).parents[1] / "configs"
FIELDS = flatten(plain(default()))
MODEL = [field for field in FIELDS if field.startswith("model.")]

# Values of each field's own type, from the usual to what no machine holds.
WHOLE = st.integers(-1, 300) | st.sampled_from([0, 0, 1, 1, 2, 4, 8, 16, 32, 64, 128, 1000])
REAL = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, 2.0, 1e-4, 1e-5, 100.0]) | st.floats(0, 2)
EXTREME = st.sampled_from([1e-30, 1e-46, 5e-324, 1e30, 1e39, 1e300, -1.0, -0.0, 1e11]) | st.floats()
TUPLE = st.lists(WHOLE | st.integers(1, 4) | st.sampled_from([8, 16, 32, 64]), min_size=1, max_size=4)
PARTS = st.lists(st.sampled_from(["stem", "stage1", "stage2", "head"]), max_size=3)
WORD_OF = {  # of the fields that take one of several words
    **{f"model.{name}": tuple(choices) for name, choices in SPEC_CHOICES.items()},
    **checks.CHOICES,
    "data.name": ("digits", "synthetic", "cifar10", "cifar100", "imagenet2012", "mnist"),
    "data.augment": AUGMENTATIONS,
    "data.normalize": NORMALIZATIONS,
    "data.policy": ("", *policies.NAMES),
    "data.interpolation": tuple(INTERPOLATIONS),
    "data.decode": DECODINGS,
}
SPLITS = (
    *["train", "test", "validation", "train[:1000]", "train[1000:]", "train[:1]", "test[50%:]", "train[-9:]"],
    "",
)


def typed(field):
    """Values of a field's own type."""
    kind = type(FIELDS[field]) if FIELDS[field] is not None else kind_of_empty(field)
    return {
        bool: st.booleans(),
        int: WHOLE | WHOLE | LARGE,
        float: REAL | REAL | EXTREME,
        list: PARTS if field in checks.WORDS else TUPLE | TUPLE | st.lists(LARGE, max_size=4),
        str: st.sampled_from(WORD_OF.get(field, SPLITS if field.endswith("_split") else ("run", "", "folder"))),
    }[kind]


def value_of(field):
    """Values of a field, as text: mostly of its type, now and then hostile."""
    own = typed(field).map(lambda value: ",".join(map(str, value)) if isinstance(value, list) else str(value))
    return st.one_of(own, own, own, own, own, TEXTS)


def kind_of_empty(field):
    """The type of a field that is None by default."""
    section, _, name = field.rpartition(".")
    node = default()[section] if section else default()
    return node.get_type(name)


DIGITS = ["v1-20", "v1-8", "v2-20", "plain-8", "v2-164", "highway-20"]
WRONG = ["v1-21", "v1-999998", "v9-20", "x"]
OTHERS = ["cifar10.py:v1-1202", "imagenet.py", "imagenet.py:resnext-50-32x4d", "dense.py"]
SOUND = st.sampled_from([f"{CONFIGS}/{name}" for name in (*(f"digits.py:{name}" for name in DIGITS), *OTHERS)])
NETWORKS = (st.sampled_from(WRONG) | TEXTS).map(f"{CONFIGS}/digits.py:{{}}".format)
CONFIG = SOUND | SOUND | NETWORKS | TEXTS

OF_A_SWEEP = ("workdir", "jobs", "together", "launcher", "sbatch", "dry_run")
FLAGS = {
    "main": ("workdir", "mode", "step", "devices"),
    "describe": ("json",),
    "benchmark": ("steps", "out", "cold", "pytorch", "flax", "suite", "limit", "tiny", "point", "profile"),
    "sweep": ("sweep", *OF_A_SWEEP),
    "papers": ("data", "data_dir", "rows", "seeds", "budget", *OF_A_SWEEP),
    "analysis": ("workdir", "out", "step", "images", "draws", "seeds"),
    "prepare": ("source", "data_dir"),
    "export": ("workdir", "weights", "arch", "preprocessing", "out"),
    "predict": ("workdir", "weights", "arch", "top", "json", "csv", "batch_size", "sheet"),
}
COMMANDS = {
    **{"main": main.main, "describe": describe.main, "benchmark": benchmark.main, "sweep": sweep.main},
    **{"papers": papers.main, "analysis": analysis.main, "prepare": lambda argv: prepare.main(argv)},
    **{"predict": predict.main, "export": export.main},
}


class Reached(BaseException):
    """A command has found nothing wrong and would begin its work now."""


def begin(config, *_, **__):
    """Stands in for `experiment.open`: its checks, without reading images or tracing the network."""
    checks.validate(config, 8)
    facts = resolve(**config.data)
    config = checks.resolved(config, facts)
    checks.check_memory(config, facts.image_shape, 1)
    durations(config, facts.train_size)
    raise Reached


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with a file of every kind; commands stop where their work would begin."""
    for name, content in {"file": "x", "odd.py": "raise SystemError(1)", "empty.py": ""}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "folder"))
    monkeypatch.setattr("resjax.experiment.open", begin)
    monkeypatch.setattr(benchmark, "measure", begin)
    monkeypatch.setattr(benchmark.point, "measure", lambda kind, config, *_: begin(config))
    monkeypatch.setattr(benchmark, "profile", begin)
    monkeypatch.setattr(cli, "use_compilation_cache", lambda: None)
    monkeypatch.setattr("jax.config.update", lambda *_: None)  # devices are made once in a process
    return tmp_path


def tell(command, argv):
    """Runs a command: (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["resjax", *argv]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.run(COMMANDS[command])
    except SystemExit as left:
        code = left.code
    except Reached:
        code = 0
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()


def content(folder):
    """What lies there."""
    return sorted(os.walk(folder)), (folder / "file").read_text()


def sound(folder, command, argv):
    """The exit code of a command, once it is known that it behaved."""
    before = content(folder)
    code, out, err = tell(command, argv)
    what = f"python -m resjax.{command} {shlex.join(argv)}: {err}"
    assert code in (0, 2), what
    assert content(folder) == before, what
    if code == 2:
        assert out == "", what
        assert err.startswith("error: "), what
        assert err.endswith("\n"), what
        assert len(err.splitlines()) == 1, what
        assert len(err) < 4000, what
    return code


def flags_of(command):
    """One flag of a command, its value given after an equals sign, after a space, or not at all."""
    names = st.sampled_from(FLAGS[command] + ("help", "config", "flagfile", "undefok", "verbosity")) | WORDS
    return (
        st.builds(lambda n, v: [f"--{n}={v}"], names, TEXTS)
        | st.builds(lambda n, v: [f"--{n}", v], names, TEXTS)
        | st.builds(lambda n: [f"--{n}"], names)
        | st.builds(lambda n, v: [f"-{n}={v}"], names, TEXTS)
        | TEXTS.map(lambda text: [text])
    )


OVERRIDES = {field: value_of(field) for field in FIELDS}
OVERRIDE = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda field: OVERRIDES[field].map(lambda value: [f"--config.{field}={value}"])
)
ODD_OVERRIDE = st.builds(lambda f, v: [f"--config.{f}", v], st.sampled_from(sorted(FIELDS)) | WORDS, TEXTS)


def joined(*parts):
    """Lists of arguments, one after another."""
    return st.tuples(*parts).map(lambda lists: [argument for one in lists for argument in one])


def several(part, most):
    """Up to so many lists of arguments, one after another."""
    return st.lists(part, max_size=most).map(lambda lists: [argument for one in lists for argument in one])


@pytest.mark.parametrize(("command", "share"), [("main", 0.25), ("describe", 0.15), ("benchmark", 0.05)])
def test_configs(folder, request, command, share):
    """One to six fields of a recipe at once."""
    recipe = (SOUND | SOUND | SOUND | NETWORKS).map(lambda path: [f"--config={path}"])
    argv = joined(recipe, several(OVERRIDE, 6))
    reached = []
    fuzz(request.config, share, lambda argv: reached.append(sound(folder, command, argv) == 0), argv)
    assert any(reached), "no case gets past the checks: they try nothing"


SWEEPS = st.sampled_from(["shortcuts.py", "depth.py", "nothing.py"]).map(f"--sweep={CONFIGS}/sweeps/{{}}".format)
FIRST = {
    "sweep": SWEEPS.map(lambda flag: [flag]),
    "papers": st.sampled_from(["list", *TABLES]).map(lambda name: [name]),
    "analysis": st.sampled_from(sorted(analysis.ANALYSES)).map(lambda name: [name]),
    "prepare": st.builds(
        lambda kind, s, d: [kind, f"--source={s}", f"--data_dir={d}"],
        st.sampled_from([*prepare.TAKES]),
        HOSTILE,
        HOSTILE,
    ),
}


@pytest.mark.parametrize(
    ("command", "share"),
    [
        *[("main", 0.08), ("describe", 0.04), ("benchmark", 0.03), ("sweep", 0.05), ("papers", 0.05)],
        *[("analysis", 0.05), ("prepare", 0.05), ("predict", 0.03), ("export", 0.02)],
    ],
)
def test_command_lines(folder, request, command, share):
    """Flags, values and words in any order."""
    config = CONFIG.map(lambda path: [f"--config={path}"])
    first = FIRST.get(command, config) | several(TEXTS.map(lambda text: [text]), 1)
    last = [["--dry_run"]] if command in ("sweep", "papers") else [[]]
    argv = joined(first, several(flags_of(command) | ODD_OVERRIDE, 4), st.sampled_from(last))
    fuzz(request.config, share, lambda argv: sound(folder, command, argv), argv)


def test_runs(request, tiny):
    """What passes the checks can be assembled: network, data, durations, compiled functions."""
    opened = []

    def check(argv):
        with contextlib.suppress(BadInput):
            opened.append(experiment.open(cli.load([*tiny, *argv])).spec)

    fuzz(request.config, 0.01, check, several(OVERRIDE, 3))
    assert opened


def test_networks(request):
    """What a spec accepts can be counted, and its layers fit each other."""
    fields = {name.removeprefix("model."): st.one_of(*[typed(name)] * 5, JSON) for name in MODEL}
    accepted = []

    def check(fields):
        try:
            spec = Spec(**fields)
            lines = counts.lines(spec)
        except BadInput:
            return
        accepted.append(spec)
        assert counts.total(spec).params == sum(line.cost.params for line in lines) > 0

    fuzz(request.config, 0.1, check, st.fixed_dictionaries({}, optional=fields))
    assert accepted


def test_saved_configs(request):
    """Of `config.json`: any JSON at all, and the right one with values of any kind."""
    sound = plain(default())
    section = {
        name: st.dictionaries(st.sampled_from(sorted(value)), JSON)
        for name, value in sound.items()
        if isinstance(value, dict)
    }
    changed = st.fixed_dictionaries({}, optional={name: section.get(name, JSON) | JSON for name in sound})

    def check(saved):
        saved = json.loads(json.dumps(saved))
        with contextlib.suppress(BadInput):
            config = restored(saved, "config.json")
            checks.validate(config, 8)
            durations(config, 1000)

    fuzz(request.config, 0.1, check, JSON | changed)


def test_saved_preprocessing(request):
    sound = Preprocessing(np.zeros(3, np.float32), np.ones(3, np.float32), class_names=("a",)).json()
    one = st.sampled_from(sorted(sound)).flatmap(lambda name: JSON.map(lambda value: sound | {name: value}))

    def check(saved):
        with contextlib.suppress(BadInput):
            assert Preprocessing.from_json(json.loads(json.dumps(saved))).channels

    fuzz(request.config, 0.05, check, one | st.fixed_dictionaries(dict.fromkeys(sound, JSON)) | JSON)


def test_lines_of_a_log(request, tmp_path):
    """Whatever stands between them, whole records are all read, and nothing else is."""
    records = st.dictionaries(st.sampled_from(["step", "loss", "split"]), st.integers(-9, 9) | WORDS)
    noise = st.binary(max_size=20).map(lambda data: b"!" + data.replace(b"\n", b"")) | st.sampled_from(
        [b"", b"5", b"[]"]
    )

    def check(lines):
        encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*encoded, b""]))
        with contextlib.redirect_stderr(io.StringIO()):
            found = files.read_lines(tmp_path / "metrics.jsonl")
        assert found == [line for line in lines if isinstance(line, dict)]

    fuzz(request.config, 0.05, check, st.lists(records | noise, max_size=6))


def test_splits(request):
    text = st.from_regex(r"(train|test|x)(\[-?[0-9]{0,5}%?:-?[0-9]{0,14}%?\])?", fullmatch=True) | TEXTS

    def check(text):
        try:
            part = parse_slice("data.train_split", text, {"train": 1000, "test": 7})
        except BadInput:
            pass
        else:
            assert 0 <= part.start < part.stop <= {"train": 1000, "test": 7}[part.base]

    fuzz(request.config, 0.05, check, text)


BATCH = {b"data": np.arange(12, dtype=np.uint8).reshape(3, 4), b"labels": [1, 2, 3], b"batch_label": b"batch"}


def test_pickles(request):
    """Random bytes, and sound pickles with some bytes changed, cut out or put in."""
    sound = st.sampled_from([pickle.dumps(BATCH, protocol) for protocol in range(5)])
    edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 2), st.binary(max_size=4)), max_size=4)

    def edited(data, edits):
        for at, cut, new in edits:
            data = data[:at] + new + data[at + cut :]
        return data

    def check(data):
        try:
            found = cifar.load_arrays("batch", data)
        except BadInput:
            pass
        else:
            assert all(isinstance(value, np.ndarray | bytes | int | list) for value in found.values())
            assert all(value.dtype == np.uint8 for value in found.values() if isinstance(value, np.ndarray))

    fuzz(request.config, 0.1, check, st.binary(max_size=200) | st.builds(edited, sound, edits))
