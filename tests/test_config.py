"""Configs: files, overrides, durations, and the names that scripts rely on."""

import ast
import dataclasses
import importlib.util
import inspect
from pathlib import Path

import pytest

from resjax import config as config_module
from resjax.checks import check_fields, differences, validate
from resjax.cli import load
from resjax.config import default, durations, flatten, network, plain, restored
from resjax.errors import BadInput
from resjax.models.spec import Spec

DIGITS = "--config=configs/digits.py"

NETWORKS = [
    *(f"cifar10.py:{n}" for n in ("v1-20", "v1-32", "v1-44", "v1-56", "v1-110", "v1-1202", "plain-20", "plain-56")),
    *(f"cifar10.py:{n}" for n in ("v2-20", "v2-110", "v2-164", "v2-1001", "v1-164", "highway-110")),
    *(f"imagenet.py:v1-{n}" for n in (18, 34, 50, 101, 152, 200)),
    *(f"imagenet.py:{n}" for n in ("v1.5-50", "v2-50", "v2-200", "plain-18", "plain-34")),
    *(f"digits.py:{n}" for n in ("v1-8", "v1-20", "plain-56", "v2-20", "v2-164")),
    *sorted(path.name for path in Path("configs").glob("*.py")),
]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_config_is_valid(name):
    config = load([f"--config=configs/{name}"])
    assert validate(config, devices=1) == network(config)
    for size in (1437, 50_000, 1_281_167):
        plan = durations(config, size)
        assert 0 <= plan.warmup < plan.total


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.py")), ids=lambda path: path.name)
def test_docstrings_are_commands(path):
    doc = ast.get_docstring(ast.parse(path.read_text()))
    assert f"python -m resjax.main --config={path}" in doc


def test_names_that_scripts_rely_on():
    fields = flatten(plain(default()))
    names = (
        "batch_size total_steps total_epochs seed optimizer.learning_rate mesh.data mesh.fsdp data.name data.dir"
    )
    assert {*names.split(), "init_from"} <= fields.keys()
    assert {f"model.{field.name}" for field in dataclasses.fields(Spec)} <= fields.keys()


def test_every_field_is_explained():
    """Every assignment of the default and every field of a spec has a comment, on its line or above its group."""
    source = inspect.getsource(config_module.default)
    for line in source.splitlines():
        if line.strip().startswith("c.") and "ConfigDict()" not in line and "placeholder" not in line:
            name = line.split("=")[0].strip().rpartition(".")[2]
            plain_words = name in source.partition('"""')[2]
            assert "#" in line or plain_words, f"{name} is not explained"
    lines = inspect.getsource(Spec).splitlines()
    for field in dataclasses.fields(Spec):
        at = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{field.name}:"))
        group = lines[at]
        while lines[at].strip() and "#" not in group:
            at -= 1
            group += lines[at]
        assert "#" in group, f"model.{field.name} is not explained"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.learning_rate=1", 1.0),
        ("optimizer.learning_rate=5e-2", 0.05),
        ("total_epochs=2", 2.0),
        ("total_epochs=0.25", 0.25),
        ("total_steps=7", 7),
        ("eval_every_epochs=None", None),
        ("batch_size=16", 16),
        ("mesh.data=-1", -1),
        ("optimizer.nesterov=true", True),
        ("optimizer.nesterov=False", False),
        ("optimizer.nesterov=1", True),
        ("schedule.drop_steps=(1,2)", (1, 2)),
        ("schedule.drop_steps=1,2", (1, 2)),
        ("schedule.drop_steps=3", (3,)),
        ("schedule.drop_steps=()", ()),
        ("schedule.drop_epochs=[0.5, 1]", (0.5, 1)),
        ("model.units=(1, 2)", (1, 2)),
        ("optimizer.freeze=stem,stage1", ("stem", "stage1")),
        ("optimizer.freeze=('stem',)", ("stem",)),
        ("optimizer.freeze=()", ()),
        ("data.dir=/a=b", "/a=b"),
        ("data.dir=", ""),
        ("data.train_split=train[:100]", "train[:100]"),
        ("name=None", "None"),
    ],
)
def test_override(override, expected):
    value = load([DIGITS, f"--config.{override}"])
    for name in override.partition("=")[0].split("."):
        value = value[name]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_sise=1", "--config.batch_sise is unknown; did you mean --config.batch_size?"),
        ("optimizer.lerning_rate=1", "is unknown; did you mean --config.optimizer.learning_rate?"),
        ("model.width=1", "--config.model.width is unknown; did you mean --config.model.widths?"),
        ("optimiser.momentum=1", "did you mean --config.optimizer.momentum?"),
        ("model=1", "--config.model is unknown"),
        ("batch_size", "--config.batch_size has no value: write --config.batch_size=VALUE"),
        ("batch_size=", "--config.batch_size='' has the wrong type: must be a whole number"),
        ("batch_size=1.0", "must be a whole number"),
        ("batch_size=None", "must be a whole number"),
        ("total_epochs=two", "--config.total_epochs='two' has the wrong type: must be a number"),
        ("optimizer.nesterov=maybe", "must be true or false"),
        ("schedule.drop_steps=x", "must be numbers"),
        ("schedule.drop_steps=(1,", "must be numbers"),
        ("model.units=('a',)", "must be numbers"),
        ("model.units={1}", "must be numbers"),
    ],
)
def test_bad_override(override, message):
    with pytest.raises(BadInput) as error:
        load([DIGITS, f"--config.{override}"])
    assert message in str(error.value)


def test_a_duration_in_one_unit_replaces_the_files():
    config = load([DIGITS, "--config.total_steps=7", "--config.schedule.warmup_steps=3"])
    assert (config.total_steps, config.total_epochs) == (7, None)
    assert (config.schedule.warmup_steps, config.schedule.warmup_epochs) == (3, None)
    config = load(["--config=configs/cifar10.py", "--config.total_epochs=2", "--config.schedule.drop_epochs=1"])
    assert (config.total_steps, config.total_epochs) == (None, 2.0)
    assert (config.schedule.drop_steps, config.schedule.drop_epochs) == ((), (1,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise RuntimeError('first\\nsecond')", "line 1: RuntimeError: first second"),
        ("\n\ndef get_config():\n    return 1 / 0", "line 4: ZeroDivisionError: division by zero"),
        ("def get_config(:", "SyntaxError: invalid syntax"),
        ("x = 1", "define get_config(spec) that returns a ConfigDict, from config.default()"),
        ("def get_config():\n    return {}", "return a ConfigDict"),
        ("import resjax_nonsense", "ModuleNotFoundError"),
        (
            "from resjax.config import default\ndef get_config():\n    c = default()\n    c.lerning_rate = 1\n"
            "    return c",
            "lerning_rate is unknown; did you mean optimizer.learning_rate?",
        ),
        (
            "from resjax.config import default\ndef get_config():\n    c = default()\n    c.batch_size = 'x'\n"
            "    return c",
            "line 4: TypeError",
        ),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'seed': 1})",
            "is missing",
        ),
    ],
)
def test_bad_config_file(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(BadInput) as error:
        load([f"--config={tmp_path}/bad.py"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def resolved(*overrides, size=1000):
    return durations(load([DIGITS, "--config.batch_size=32", *(f"--config.{o}" for o in overrides)]), size)


def test_durations_in_steps_and_in_epochs():
    plan = resolved("total_epochs=2.5", "schedule.warmup_epochs=0.1", "eval_every_epochs=1")
    assert (plan.total, plan.warmup, plan.eval_every, plan.per_epoch) == (78, 3, 31, 31.25)
    assert plan.checkpoint_every == 31  # where evaluations are
    plan = resolved(
        "total_steps=20", "schedule.warmup_steps=19", "eval_every_steps=6", "checkpoint_every_epochs=0.5"
    )
    assert (plan.total, plan.warmup, plan.eval_every, plan.checkpoint_every) == (20, 19, 6, 16)
    plan = resolved("total_steps=20", "schedule.warmup=none", "eval_every_epochs=None")
    assert (plan.warmup, plan.eval_every) == (0, 20)  # an epoch, or the whole of a shorter run
    plan = resolved("schedule.drop_epochs=1,1.5")
    assert plan.drops == (31, 47)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("total_steps=5", "total_epochs=1"), "total_steps=5 and total_epochs=1.0: give one"),
        (("total_epochs=None",), "total_steps and total_epochs are both None"),
        (("total_steps=0",), "total_steps=0: comes to 0 steps"),
        (("total_epochs=0.001",), "total_epochs=0.001: comes to 0 steps"),
        (("eval_every_steps=-1",), "eval_every_steps=-1"),
        (
            ("total_steps=5", "schedule.warmup_steps=5"),
            "schedule.warmup_steps=5: the warm-up takes 5 steps and training 5; set ",
        ),
        (("schedule.warmup_epochs=None",), "schedule.warmup_steps and schedule.warmup_epochs are both None"),
        (("schedule.drop_steps=2,1",), "must be whole, positive and ascend"),
        (("schedule.drop_steps=1.5",), "schedule.drop_steps=(1.5,): must be whole numbers"),
        (
            ("schedule.warmup_epochs=50",),
            "schedule.warmup_epochs=50.0: the warm-up takes 1562 steps and training 1562; set ",
        ),
        (("total_steps=2147483648",), "total_steps=2147483648: comes to 2147483648 steps"),
        (("schedule.drop_steps=1,1",), "must be whole, positive and ascend"),
        (("schedule.drop_steps=1", "schedule.drop_epochs=1"), "both given"),
    ],
)
def test_bad_durations(overrides, message):
    with pytest.raises(BadInput) as error:
        resolved(*overrides)
    assert message in str(error.value)


def test_what_a_resume_may_change():
    config = load(["--config=configs/cifar10.py:v1-20"])
    saved = restored(plain(config), "config.json")
    assert differences(saved, config) == []
    assert differences(saved, load(["--config=configs/cifar10.py:v1-20", "--config.total_steps=70000"])) == []
    changed = load(["--config=configs/cifar10.py:v1-32", "--config.seed=3"])
    assert [line.partition(":")[0] for line in differences(saved, changed)] == ["model.units", "seed"]
    digits = load([DIGITS])
    assert differences(digits, load([DIGITS, "--config.total_epochs=60"])) != []  # cosine


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        *((saved, "config.json holds no config") for saved in (None, 5, "x", [], [{}], {})),
        ({"seed": None}, "config.json: seed=None has the wrong type"),
        ({"model": {"units": None}}, "model.units=None has the wrong type"),
        ({"seed": "x"}, "seed='x' has the wrong type"),
        ({"model": {"widths": {}}}, None),
        ({"total_epochs": 10**400}, "has the wrong type"),
        ({"model": 5}, "has the field model"),
    ],
)
def test_a_saved_config_of_another_kind(saved, message):
    if message is None:
        assert plain(restored(saved, "config.json")) == plain(default())
        return
    with pytest.raises(BadInput) as error:
        restored(saved, "config.json")
    assert message in str(error.value)


# What a run may go on with although it differs, as the README says; the length only where no schedule ends with it.
FREE = {
    "name",
    "eval_train",
    "mesh.data",
    "mesh.fsdp",
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint_every_epochs",
    "checkpoint_keep",
    "data.dir",
    "data.workers",
    "data.placement",
    "steps_per_call",
    "model.convolution",
    "model.scan",
    "model.remat",
}
LENGTH = {"total_steps", "total_epochs"}
TWO_VALUES = {int: (3, 4), float: (0.25, 0.5), str: ("x", "y"), bool: (False, True), tuple: ((1,), (2,))}


def changed_fields(old, new):
    """The fields that `differences` names."""
    return {line.partition(":")[0] for line in differences(old, new)}


def section_and_name(config, field):
    section, _, name = field.rpartition(".")
    return (config[section] if section else config), name


@pytest.mark.parametrize("schedule", ["cosine", "piecewise"])
@pytest.mark.parametrize("field", flatten(plain(default())))
def test_every_field_outside_the_documented_list_is_compared(field, schedule):
    old, new = default(), default()
    old.schedule.name = new.schedule.name = schedule
    for at, config in enumerate((old, new)):
        section, name = section_and_name(config, field)
        section[name] = TWO_VALUES[section.get_type(name)][at]
    free = FREE | (LENGTH if new.schedule.name != "cosine" else set())
    assert changed_fields(old, new) == {field} - free
    assert changed_fields(old, old) == set()


@pytest.mark.parametrize("field", ["name_x", "mesh_x", "data.dirs", "model.scanned", "total_steps_x"])
def test_a_free_field_does_not_free_what_begins_with_its_name(field):
    old, new = default(), default()
    for value, config in enumerate((old, new)):
        section, name = section_and_name(config, field)
        with config.unlocked():
            section[name] = value
    assert changed_fields(old, new) == {field}


def test_the_readmes_way_to_write_a_config(tmp_path):
    """A file of one's own needs three lines."""
    text = "from resjax.config import default\ndef get_config(spec=''):\n    return default()\n"
    (tmp_path / "mine.py").write_text(text)
    assert importlib.util.spec_from_file_location("mine", tmp_path / "mine.py")
    check_fields(load([f"--config={tmp_path}/mine.py:x"]))
