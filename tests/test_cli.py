"""What a command says of itself, what it makes of flags, and which hints it gives."""

import importlib
import re

import pytest
from absl import flags

from resjax import cli
from resjax.checks import WORDS, nearest_field
from resjax.cli import load
from resjax.config import default, flatten, plain
from resjax.errors import BadInput

DIGITS = "--config=configs/digits.py"

# Every command, with all its flags.
COMMANDS = {
    "main": "--config=FILE --config.FIELD=VALUE --workdir= --mode=train|eval --step= --devices=N "
    "--coordinator= --num_processes=N --process_id=N --initialization_timeout=N",
    "describe": "--config=FILE --config.FIELD=VALUE --json --compare=A,B,... --plot=",
    "evaluate": "--config.FIELD=VALUE --workdir= --arch= --views=centre|ten|scales --scales=A,B,... "
    "--split= --bn=running|exact --bn_batches=N --bn_definition=mean_variance|total_variance "
    "--weights=last|best --out= --confusion= --devices=N",
    "export": "--workdir= --weights= --arch= --preprocessing=inside|outside --out=",
    "predict": "--workdir= --weights= --arch= --top=N --json --csv --batch_size=N --sheet=",
    "benchmark.__main__": "--config=FILE --config.FIELD=VALUE --steps=N --out= --cold --[no]pytorch --[no]flax "
    "--suite= --limit=X --tiny --point= --input --profile=",
    "sweep.__main__": "--sweep= --workdir= --jobs=N --together=N --launcher=local|slurm --sbatch= --dry_run",
    "sweep.together": "--parts=N",
    "papers.__main__": "--data= --data_dir= --rows=A,B,... --seeds=N --budget=X --workdir= --jobs=N "
    "--together=N --launcher=local|slurm --sbatch= --dry_run",
    "weights.__main__": "",
    "analysis.__main__": "--config.FIELD=VALUE --workdir= --arch= --out= --step= --images=N --draws=N --seeds=N",
    "papers.measured": "--add= --workdir= --benchmark= --drill= --title= --command= --hardware=",
    "drill.__main__": "--config=FILE --config.FIELD=VALUE --faults=N --seed=N --kinds=A,B,... --processes=N "
    "--devices=N --workdir=",
    "plan.__main__": "--config=FILE --config.FIELD=VALUE --devices=N --kind= --efficiency=X --overlap=X --json "
    "--out=",
    "data.prepare.__main__": "--source --data_dir",
}


@pytest.mark.parametrize("form", ["--help", "-h"])
@pytest.mark.parametrize("name", COMMANDS)
def test_help(call, name, form):
    """The module's docstring, which has a command to copy, and every flag."""
    module = importlib.import_module(f"resjax.{name}")
    code, out, err = call(form, command=module.main)
    assert (code, err) == (0, "")
    assert module.__doc__.strip() in out
    assert re.search(rf"^    python -m resjax\.{name.removesuffix('.__main__')} \S", out, re.MULTILINE)
    for flag in [*COMMANDS[name].split(), "--help"]:
        assert re.search(rf"^  .*{re.escape(flag)}", out, re.MULTILINE), flag
    listed = re.findall(r"^  (--\S+)", out, re.MULTILINE)
    assert len(listed) == len(set(listed))
    if name != "data.prepare.__main__":
        assert len(listed) == len(COMMANDS[name].split()) + 1  # no flag that this list lacks


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("papers.__main__", "v2-table1"),
        ("analysis.__main__", "curves"),
        ("weights.__main__", "import"),
        ("weights.__main__", "export"),
    ],
)
def test_help_after_a_name(call, name, after):
    module = importlib.import_module(f"resjax.{name}")
    code, out, err = call(after, "--help", command=module.main)
    assert (code, err) == (0, "")
    assert "--workdir=VALUE" in out


def define(values):
    flags.DEFINE_integer("count", 3, "How many.", flag_values=values)
    flags.DEFINE_float("share", None, "Which part.", flag_values=values)
    flags.DEFINE_enum("mode", "a", ["a", "b"], "Which way.", flag_values=values)
    flags.DEFINE_boolean("fast", True, "Hurry.", flag_values=values)
    flags.DEFINE_multi_string("workdir", [], "Where: here.", flag_values=values)


def test_help_says_meaning_and_default_of_each_flag(capsys):
    with pytest.raises(SystemExit) as left:
        cli.parse(["--help"], define, config=False)
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert out.partition("\nFlags:\n\n")[2].splitlines() == [
        "  --count=N        How many. Default: 3.",
        "  --share=X        Which part.",
        "  --mode=a|b       Which way. Default: a.",
        "  --[no]fast       Hurry. Default: yes.",
        "  --workdir=VALUE  Where: here.",
        "  --help           Show this help.",
    ]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--cuont=3", "--cuont is unknown; did you mean --count?"),
        ("--work_dir=x", "--work_dir is unknown; did you mean --workdir?"),
        ("--count=x", "--count=x: must be a whole number"),
        ("--count=1.5", "--count=1.5: must be a whole number"),
        ("--share=x", "--share=x: must be a number"),
        ("--count", "Missing value for flag --count"),
        ("--mode=c", "--mode=c: value should be one of <a|b>"),
        ("--nofast=1", "--nofast=1 does not take an argument"),
        ("-" + "9" * 5000, "'-999"),
        ("--" + "n" * 5000 + "=1", "is unknown: --help shows the flags"),
        ("--config.workdir=x", "--config.workdir is unknown; did you mean --workdir?"),
        ("--config.work_dir=x", "--config.work_dir is unknown"),
        # A field of the config without its prefix.
        ("--batch_size=3", "--batch_size is unknown; did you mean --config.batch_size?"),
        ("--lr=3", "--lr is unknown; did you mean --config.optimizer.learning_rate?"),
        ("--epochs=3", "--epochs is unknown; did you mean --config.total_epochs?"),
        ("--learning_rate=3", "did you mean --config.optimizer.learning_rate?"),
    ],
)
def test_bad_flag(flag, message):
    with pytest.raises(BadInput) as error:
        cli.parse([flag, DIGITS][:: -1 if flag == "--count" else 1], define)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        # Other codebases' words.
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("wd", "optimizer.weight_decay"),
        ("optimizer.wd", "optimizer.weight_decay"),
        ("bs", "batch_size"),
        ("epochs", "total_epochs"),
        ("num_epochs", "total_epochs"),
        ("steps", "total_steps"),
        ("optimizer", "optimizer.name"),
        ("data.num_workers", "data.workers"),
        ("model.depth", "model.units"),
        # The right word in another section, or in none.
        ("learning_rate", "optimizer.learning_rate"),
        ("schedule.learning_rate", "optimizer.learning_rate"),
        ("warmup_steps", "schedule.warmup_steps"),
        ("data.batch_size", "batch_size"),
        ("optimiser.momentum", "optimizer.momentum"),
        # A word alike; in the same section rather than in another.
        ("batchsize", "batch_size"),
        ("model.momentum", "model.bn_momentum"),
        ("momentum", "optimizer.momentum"),
        ("optimizer.clip", "optimizer.clip_norm"),
        ("model.width", "model.widths"),
        ("eval_every", "eval_every_steps"),
        # Nothing alike.
        ("foo", None),
        ("optimizer.foo", None),
    ],
)
def test_nearest_field(name, field):
    assert nearest_field(name) == field
    assert field is None or field in flatten(plain(default()))


def test_every_alias_is_a_field_and_no_field_has_an_aliass_name():
    fields = flatten(plain(default()))
    assert set(cli.ALIASES.values()) <= fields.keys()
    assert not cli.ALIASES.keys() & fields.keys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("total_epochs=1e400", "total_epochs=inf: must be a finite number"),
        ("total_epochs=1e300", "total_epochs=1e+300: must have at most 12 digits"),
        ("eval_every_epochs=inf", "eval_every_epochs=inf: must be a finite number"),
        ("eval_every_epochs=nan", "eval_every_epochs=nan: must be a finite number"),
        ("optimizer.learning_rate=-inf", "optimizer.learning_rate=-inf: must be a finite number"),
        ("schedule.drop_epochs=(1e999,)", "schedule.drop_epochs=inf: must be a finite number"),
        ("schedule.drop_epochs=1,1e200", "schedule.drop_epochs=1e+200: must have at most 12 digits"),
        *(
            (f"model.units={text}", "has the wrong type: must be numbers, such as 1,2 or ()")
            for text in ("", " ", ",", "1,,2", "(1,2", "{1}", "{[]: 1}", "'a'", "1j", "-" * 5000 + "1", "(" * 5000)
        ),
        ("model.units=" + "9" * 5000, "has the wrong type"),
        ("model.units=1.0,1.0,1.0", "model.units=(1.0, 1.0, 1.0): must be whole numbers"),
        ("model.widths=16,32,64.0", "model.widths=(16, 32, 64.0): must be whole numbers"),
        ("model.stem_width=9223372036854775808", "model.stem_width=9223372036854775808: must have at most 12"),
        ("model.widths=16,32,-9223372036854775808", "model.widths=-9223372036854775808: must have at most 12"),
        ("batch_size=1e3", "must be a whole number in digits, such as 1000"),
        ("optimizer.lr=0.1", "--config.optimizer.lr is unknown; did you mean --config.optimizer.learning_rate?"),
    ],
)
def test_odd_values(override, message):
    with pytest.raises(BadInput) as error:
        load([DIGITS, f"--config.{override}"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.total_epochs = float('inf')", "total_epochs=inf: must be a finite number"),
        ("c.optimizer.momentum = float('nan')", "optimizer.momentum=nan: must be a finite number"),
        ("c.model.units = (1.0, 2)", "model.units=(1.0, 2): must be whole numbers"),
        ("c.model.units = ('a',)", "model.units=('a',): must be whole numbers"),
        ("c.seed = None", "seed=None: must be given, such as 0"),
        ("c.batch_size = 2**63", "batch_size=9223372036854775808: must have at most 12 digits"),
        ("c.lr = 1.0", "the config's field lr is unknown; did you mean optimizer.learning_rate?"),
        ("c.foo = 1.0", "the config's field foo is unknown"),
        ("del c.seed", "the config's field seed is missing"),
    ],
)
def test_odd_values_of_a_file(tmp_path, line, message):
    text = f"from resjax.config import default\ndef get_config():\n    c = default()\n    {line}\n    return c\n"
    (tmp_path / "odd.py").write_text(text)
    with pytest.raises(BadInput) as error:
        load([f"--config={tmp_path}/odd.py"])
    assert str(error.value).startswith(message)


def test_a_field_may_be_given_as_other_flags_are():
    """With a space instead of the equals sign; a negative number is a value, another flag is not."""
    config = load([DIGITS, "--config.batch_size", "64", "--config.mesh.data", "-1", "--config.data.dir", "a=b"])
    assert (config.batch_size, config.mesh.data, config.data.dir) == (64, -1, "a=b")
    assert load(["--config.batch_size", "64", "--config", "configs/digits.py"]).batch_size == 64
    with pytest.raises(BadInput, match=r"batch_size has no value: write --config\.batch_size=VALUE"):
        load(["--config.batch_size", DIGITS])
    with pytest.raises(BadInput, match="'64' is not a flag"):
        load([DIGITS, "--config.batch_size=32", "64"])


def test_the_last_value_of_a_field_counts():
    assert load([DIGITS, "--config.batch_size=64", "--config.batch_size=32"]).batch_size == 32
    assert load([DIGITS, "--config=configs/dense.py"]).name == "dense-v1-21"


def test_none_is_for_fields_that_are_none_by_default():
    fields = flatten(plain(default()))
    for field, value in fields.items():
        assignment = f"--config.{field}=None"
        if value is None:
            assert flatten(plain(load([DIGITS, assignment])))[field] is None
        elif isinstance(value, str):  # text like any other
            assert flatten(plain(load([DIGITS, assignment])))[field] == "None"
        elif field in WORDS:
            assert flatten(plain(load([DIGITS, assignment])))[field] == ["None"]
        else:
            with pytest.raises(BadInput, match="wrong type"):
                load([DIGITS, assignment])


def test_a_placeholder_takes_its_type(monkeypatch):
    """Text and whole numbers that are None by default are given as any others are."""
    from ml_collections.config_dict import placeholder

    def with_placeholders():
        config = default()
        config.data.augment, config.data.pad = placeholder(str), placeholder(int)
        return config

    monkeypatch.setattr(cli, "default", with_placeholders)
    config = with_placeholders()
    cli.override(config, ["data.augment=crop", "data.pad=2"])
    assert (config.data.augment, config.data.pad) == ("crop", 2)
    cli.override(config, ["data.augment=None", "data.pad=None"])
    assert (config.data.augment, config.data.pad) == (None, None)
    with pytest.raises(BadInput, match=r"data\.pad='1\.5' has the wrong type: must be a whole number"):
        cli.override(config, ["data.pad=1.5"])


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("nothing.py", "nothing.py: no such file"),
        ("mine", "mine: no such file; did you mean mine.py?"),
        ("mien.py", "no such file; did you mean mine.py?"),
        ("folder", "folder: is a folder; did you mean folder/inner.py?"),
        ("mine.txt", "is not a Python file; its name must end in .py"),
        ("mine.py:x", "mine.py: TypeError: get_config() takes 0 positional arguments"),
        ("syntax.py", "syntax.py: SyntaxError: "),
        ("bytes.py", "bytes.py: SyntaxError: "),
        ("without.py", "without.py: define get_config(spec) that returns a ConfigDict, from config.default()"),
        ("raises.py", "raises.py, line 3: KeyError: 'seeds'"),
        ("elsewhere.py", "elsewhere.py, line 3: ValueError: "),
    ],
)
def test_files(tmp_path, monkeypatch, file, message):
    monkeypatch.chdir(tmp_path)
    good = "from resjax.config import default\ndef get_config():\n    return default()\n"
    (tmp_path / "folder").mkdir()
    for name in ("mine.py", "mine.txt", "folder/inner.py"):
        (tmp_path / name).write_text(good)
    (tmp_path / "syntax.py").write_text("def get_config(:\n    pass\n")
    (tmp_path / "bytes.py").write_bytes(b"x = '\xff'\n")
    (tmp_path / "without.py").write_text("def get_configs():\n    pass\n")
    (tmp_path / "raises.py").write_text(good.replace("return default()", "return {}['seeds']"))
    (tmp_path / "elsewhere.py").write_text(good.replace("return default()", "return int('x')"))
    with pytest.raises(BadInput) as error:
        load([f"--config={file}"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
