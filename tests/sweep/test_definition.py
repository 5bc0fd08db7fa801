"""What a sweep file may say, and what is wrong with one before anything runs."""

import pytest

from resjax.errors import BadInput
from resjax.models.spec import ORDERS
from resjax.sweep import Sweep, Variant
from resjax.sweep.__main__ import main
from resjax.sweep.definition import load
from resjax.sweep.plan import plan, text

BASE = "configs/digits.py:v1-8"


def test_a_variant_may_bring_its_own_network(tmp_path):
    sweep = Sweep(BASE, {"A": {}, "p": Variant({"model.dtype": "bfloat16"}, "configs/digits.py:plain-8")}, (0, 7))
    runs = plan(sweep, tmp_path)
    assert [run.name for run in runs] == ["A/seed0", "A/seed7", "p/seed0", "p/seed7"]
    assert [run.config.model.shortcut for run in runs] == ["A", "A", "none", "none"]
    assert [run.config.seed for run in runs] == [0, 7, 0, 7]
    assert runs[3].command == [
        *("python", "-m", "resjax.main", "--config=configs/digits.py:plain-8", "--config.model.dtype=bfloat16"),
        *("--config.seed=7", f"--workdir={tmp_path}/runs/p/seed7"),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [((2, 2), "(2,2)"), ((3,), "(3,)"), ((), "()"), (True, "True"), (-6.0, "-6.0"), ("B", "B"), (1e-4, "0.0001")],
)
def test_overrides_as_text(value, expected):
    assert text(value) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BASE, {}), "runs is empty"),
        ((BASE, [("A", {}), ("A", {"batch_size": 1})]), "2 runs are named 'A'"),
        ((BASE, {"A": {}}, ()), "seeds=.*at least one"),
        ((BASE, {"A": {}}, (0, 0)), "seeds=.*each once"),
        ((BASE, {"A": {}}, 3), "seeds=3: give whole numbers"),
        ((BASE, {"a/b": {}}), "run 'a/b': the name is a folder's"),
        ((BASE, {"..": {}}), "run '..': the name is a folder's"),
        ((BASE, {"A\n": {}}), "the name is a folder's"),
        ((BASE, {"A" * 101: {}}), "the name is a folder's"),
        ((BASE, {"A": {}}, range(10**12)), "1000000000000 are given; at most 10000 are run"),
        ((BASE, {"A": {"seed": 1}}), "run 'A' sets seed"),
        ((BASE, {"A": 3}), "run 'A' is 3: give a dict"),
    ],
)
def test_a_sweep_that_cannot_be(arguments, message):
    with pytest.raises(BadInput, match=message):
        Sweep(*arguments)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.shortct": "B"}, "run 'bad': .*did you mean.*shortcut"),
        ({"model.gate_bias": "x"}, "run 'bad': .*gate_bias.*'x'"),
        ({"model.shortcut": "D"}, "run 'bad': model.shortcut='D' is unknown"),
        ({"batch_size": -1}, "run 'bad': batch_size=-1"),
        ({"model.bn_group": 3}, "run 'bad': batch_size=128 .*model.bn_group=3"),
    ],
)
def test_every_run_is_checked_before_the_first_starts(overrides, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        plan(Sweep(BASE, {"good": {}, "bad": overrides}), tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "define get_sweep"),
        ("def get_sweep(): return 3", "define get_sweep"),
        ("def get_sweep(:", "cannot be read: SyntaxError"),
        ("def get_sweep(): return nothing", "cannot be read: NameError"),
        (
            "from resjax.sweep import Sweep\n"
            "def get_sweep(): return Sweep('configs/digits.py', {'A': {}, 'B': {}, 'A': {'batch_size': 1}})",
            "line 2: 2 entries are named 'A'",
        ),
        (
            "from resjax.sweep import Sweep\ndef get_sweep(): return Sweep('configs/digits.py', {})",
            "--sweep=.*sweep.py: runs is empty",
        ),
    ],
)
def test_files_that_define_no_sweep(source, message, tmp_path):
    path = tmp_path / "sweep.py"
    path.write_text(source)
    with pytest.raises(BadInput, match=message):
        load(str(path))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--sweep is missing"),
        (["--sweep=nowhere.py"], "--sweep=nowhere.py: no such file$"),
        (["--sweep=configs/sweeps/shortcut.py"], r"no such file; did you mean configs/sweeps/shortcuts.py\?"),
        (["--sweep=configs/sweeps/depth.py", "--jobs=0"], "--jobs=0: must be at least 1"),
        (["--sweep=configs/sweeps/depth.py", "--jobs=x"], "jobs"),
        (["--sweep=configs/sweeps/depth.py", "--job=2"], "--job is unknown; did you mean --jobs"),
        (["--sweep=configs/sweeps/depth.py", "--launcher=pbs"], "launcher"),
    ],
)
def test_flags(argv, message, workdir):
    with pytest.raises(BadInput, match=message):
        main([*argv, f"--workdir={workdir}"])
    assert not workdir.exists()


@pytest.mark.parametrize("name", ["shortcuts", "orders", "depth", "lesion", "gate_decay"])
def test_the_shipped_sweeps_build(name, tmp_path):
    runs = plan(load(f"configs/sweeps/{name}.py"), tmp_path)
    assert len(runs) >= 6
    assert len({str(run.command) for run in runs}) == len(runs)


def test_the_orders_are_compared_in_deep_networks_and_nothing_else_differs(tmp_path):
    runs = plan(load("configs/sweeps/orders.py"), tmp_path)
    assert {run.config.model.order for run in runs} == set(ORDERS)
    of_56_layers = 852_730
    assert {(run.seed, run.params, run.steps) for run in runs} == {(s, of_56_layers, 112) for s in range(3)}
    assert len({tuple(a for a in run.arguments if "model.order" not in a) for run in runs}) == 1
