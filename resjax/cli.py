"""What every command line shares: `--config=FILE[:SPEC]` with overrides, and errors for people."""

import difflib
import importlib.util
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
from absl import flags
from ml_collections import ConfigDict

from resjax import checks, paths
from resjax.checks import ALIASES, check_fields, check_values, nearest_field
from resjax.config import default, flatten, plain, restored
from resjax.errors import BAD_INPUT, DONE, KILLED, BadInput, NotSaved


def run(command: Callable[[list[str]], int | None]) -> None:
    """Runs `command(argv)` and exits with its code; a `BadInput` is one line on stderr and exit code 2."""
    try:
        code = command(sys.argv[1:])
    except BadInput as error:
        code = refuse(error)
        if led_to(error, NotSaved):
            # Orbax's threads wait five minutes for the folders and files that a failed save did not make, and the
            # interpreter would wait for these threads. There is nothing that they could still do.
            os._exit(code)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = KILLED
    except BrokenPipeError:
        # The reader of our output has gone, as in `| head`; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code or 0)


def refuse(error: BadInput) -> int:
    """Says on stderr, in one line, what cannot work, and returns the exit code."""
    print(f"error: {paths.one_line(error)}", file=sys.stderr, flush=True)
    return BAD_INPUT


def parse(
    argv: list[str],
    define: Callable[[flags.FlagValues], object],
    *,
    config: bool | Literal["optional", "fields"] = True,
    words: list[str] | None = None,
) -> flags.FlagValues:
    """Parses `argv` into the flags that `define` adds, and `--config` with its overrides into a config.

    `--help` prints the docstring of the module that `define` stands in, and every flag.

    Args:
      config: "optional" if it may be left out, "fields" if only fields of a run's own config may be changed.
      words: takes what is not a flag, for a command that is given files; they may stand before or after its flags.

    Raises:
      BadInput: for a flag or field that does not exist (with the nearest name), or a value of the wrong type.
    """
    for argument in argv:
        name, _, value = argument.partition("=")
        paths.check_text("the argument", name)
        paths.check_text(name, value)
        # absl compares a wrong name with the right ones, letter by letter, in a recursion.
        if argument.startswith("-") and (name.lstrip("-") in ABSL or len(name) > LONGEST_FLAG):
            raise BadInput(f"{paths.short(name)} is unknown: --help shows the flags")
    values = flags.FlagValues()
    values.set_gnu_getopt(words is not None)
    if config:
        flags.DEFINE_string("config", None, "", flag_values=values)
    define(values)
    flags.DEFINE_boolean("help", False, "Show this help.", flag_values=values, short_name="h")
    assignments = overrides(argv) if config else []
    if config:
        argv = [flag for flag in _joined(argv) if not flag.startswith("--config.")]
    try:
        rest = values(["resjax", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        raise BadInput(f"--{error.flagname} is unknown{_near(error.flagname, values, config)}") from error
    except (flags.Error, ValueError) as error:  # absl raises the latter for --noNAME=VALUE
        text = re.sub("invalid literal.*", "must be a whole number", _one_line(error).removeprefix("flag "))
        raise BadInput(re.sub("could not convert.*", "must be a number", text)) from error
    if values.help:
        print(_help(sys.modules[define.__module__].__doc__ or "", values, config))
        sys.exit(DONE)
    for name in PATHS:
        given = getattr(values, name, None) or ""
        for path in ",".join(given).split(",") if isinstance(given, list) else [given]:
            paths.check(f"--{name}", path)
    if words is not None:
        words += rest
    elif rest:
        raise BadInput(f"{rest[0]!r} is not a flag: flags start with --")
    if config == "fields" and values.config:
        raise BadInput(
            f"--config={values.config}: the config of the run or the file itself is taken; leave it out, or change "
            "a field of it by --config.FIELD=VALUE"
        )
    if config is True or (config == "optional" and values.config):
        if not values.config:
            raise BadInput("--config is missing: give a file, such as --config=configs/digits.py")
        for field in (assignment.partition("=")[0] for assignment in assignments):
            if field in values and nearest_field(field) != field:
                raise BadInput(f"--config.{field} is unknown; did you mean --{field}?")
        loaded = load_file(values.config)
        override(loaded, assignments)
        paths.check_name("name", loaded.name)
        values.config = loaded
    return values


def overrides(argv: list[str]) -> list[str]:
    """The FIELD=VALUE of every `--config.FIELD=VALUE`, or `--config.FIELD VALUE`."""
    return [flag.removeprefix("--config.") for flag in _joined(argv) if flag.startswith("--config.")]


def recipe(argv: list[str]) -> list[str]:
    """The `--config` of a command line and its overrides, to hand on to another command."""
    return [flag for flag in _joined(argv) if flag.startswith(("--config=", "--config."))]


def load_file(file_and_spec: str) -> ConfigDict:
    """The config that `get_config(SPEC)` of a FILE[:SPEC] returns.

    Raises:
      BadInput: if the file cannot be run, or the fields are not those of `resjax.config.default`.
    """
    file, _, spec = file_and_spec.partition(":")
    if not Path(file).is_file():
        what = "is a folder" if Path(file).is_dir() else "no such file"
        raise BadInput(f"--config={file}: {what}{_near_file(file)}")
    loader = importlib.util.spec_from_file_location("config", file)
    if loader is None or loader.loader is None:
        raise BadInput(f"--config={file}: is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(loader)
    try:
        loader.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise BadInput(
                f"--config={file}: define get_config(spec) that returns a ConfigDict, from config.default()"
            )
        config = module.get_config(spec) if spec else module.get_config()
        check_fields(config)
    except BadInput:
        raise
    except Exception as error:  # a config file may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == loader.origin]
        line = f", line {lines[-1]}" if lines else ""
        raise BadInput(f"--config={file}{line}: {type(error).__name__}: {_one_line(error)}") from error
    return config


def load(argv: list[str]) -> ConfigDict:
    """The config of one `--config=FILE[:SPEC]` and its overrides; raises as `parse`."""
    return parse(argv, lambda values: None).config


def judged(own: ConfigDict, assignments: list[str], command: str) -> ConfigDict:
    """The config under which a run of `own` is evaluated: as it was trained, on these data.

    Raises:
      BadInput: for an assignment that would change what the run is.
    """
    asked = restored(plain(own), "the run's config")  # fields that are None know what they may become
    override(asked, assignments)
    if changed := checks.differences(own, asked, checks.FREE | checks.EVALUATION):
        raise BadInput(
            f"{command} evaluates the run as it was trained: {'; '.join(changed)}. Leave that out; only the data "
            "set, its folder and its splits may differ"
        )
    return asked


def override(config: ConfigDict, assignments: list[str]) -> None:
    """Sets fields, given as FIELD=VALUE, in place; if a field is given twice, the last value counts.

    A duration given in one unit replaces the file's in the other unit. Only the fields that are None in
    `resjax.config.default` may be `None`.

    Raises:
      BadInput: for an unknown field, with the nearest one, or a value of the wrong type.
    """
    empty = flatten(plain(default()))
    given = [assignment.partition("=")[0] for assignment in assignments]
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        if field not in empty:
            near = nearest_field(field)
            raise BadInput(f"--config.{field} is unknown" + (f"; did you mean --config.{near}?" if near else ""))
        if not equals:
            raise BadInput(f"--config.{field} has no value: write --config.{field}=VALUE")
        section, _, name = field.rpartition(".")
        node = config[section] if section else config
        if text == "None" and empty[field] is None:
            node[name] = None
        else:
            convert, meaning = WORDS if field in checks.WORDS else TYPES[node.get_type(name)]
            try:
                node[name] = convert(text)
            except ValueError as error:
                raise BadInput(f"--config.{field}={text!r} has the wrong type: must be {meaning}") from error
        stem, _, unit = name.rpartition("_")
        other = f"{stem}_{'epochs' if unit == 'steps' else 'steps'}"
        if unit in ("steps", "epochs") and other in node and field.removesuffix(name) + other not in given:
            node[other] = () if isinstance(node[other], tuple) else None
    check_values(config)


def _joined(argv: list[str]) -> list[str]:
    """Turns `--config FILE` into `--config=FILE`, and `--config.FIELD VALUE` into `--config.FIELD=VALUE`."""
    joined: list[str] = []
    for flag in argv:
        last = joined[-1] if joined else ""
        if (last == "--config" or last.startswith("--config.")) and "=" not in last and not flag.startswith("--"):
            joined[-1] = f"{last}={flag}"
        else:
            joined.append(flag)
    return joined


def _items(text: str) -> list[str]:
    """`(a, b)`, `[a, b]`, `a,b`, `a` or `()` -> the texts between the commas."""
    inner = text.strip()
    if not inner:
        raise ValueError(text)
    if inner[0] + inner[-1] in ("()", "[]"):
        inner = inner[1:-1]
    items = [item.strip() for item in inner.split(",")]
    if not items[-1]:  # `()`, or the comma that ends `(1,)`
        items.pop()
    return items


def _numbers(text: str) -> tuple[Any, ...]:
    return tuple(int(item) if re.fullmatch(r"[+-]?\d+", item) else float(item) for item in _items(text))


def _words(text: str) -> tuple[str, ...]:
    return tuple(item.strip("'\"") for item in _items(text))


TYPES: dict[type, tuple[Callable[[str], Any], str]] = {
    bool: (flags.BooleanParser().parse, "true or false"),
    int: (int, "a whole number in digits, such as 1000"),
    float: (float, "a number"),
    str: (str, "text"),
    tuple: (_numbers, "numbers, such as 1,2 or ()"),
}
WORDS = (_words, "words, such as stem,stage1 or ()")


# Flags of every command that are paths, or a folder's name; commas separate those of a list.
PATHS = ("workdir", "out", "confusion", "config", "sweep", "data_dir", "benchmark", "add", "profile", "sheet")
# What absl takes although no command has it: flags from a file, and flags that it is to ignore.
ABSL = ("flagfile", "undefok")
LONGEST_FLAG = 100  # characters of a flag's name
RECIPES = "; recipes are in a checkout of the repository: run it there, or give a file of your own"
MOST_DEVICES = 4096  # that a CPU is split into: a pod's; ten times as many take minutes to make

# How `--help` writes values by type; all others are VALUE.
FORMS = {"int": "N", "float": "X", "comma separated list of strings": "A,B,..."}
CONFIG_HELP = (
    ("--config=FILE[:NETWORK]", "The recipe, and the network in it, such as configs/digits.py:v1-20."),
    (
        "--config.FIELD=VALUE",
        "Changes one field, such as --config.batch_size=64; may be repeated. Every field is "
        "explained in resjax/config.py, those of the model in resjax/models/spec.py.",
    ),
)


def use_devices(count: int) -> None:
    """Splits the CPU into `count` devices, to try a mesh without the hardware; raises BadInput for an odd count."""
    if not 1 <= count <= MOST_DEVICES:
        raise BadInput(f"--devices={count}: must be at least 1 and at most {MOST_DEVICES}")
    jax.config.update("jax_num_cpu_devices", count)


def use_compilation_cache() -> None:
    """Turns on the persistent compilation cache: a second run of one network starts in half the time.

    On a GPU it is also what makes a resumed run the same program: compiled again, XLA may time and fuse otherwise.
    JAX keeps the autotuner's choices in the same folder (`jax_persistent_cache_enable_xla_caches`).
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "resjax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _help(doc: str, values: flags.FlagValues, config: bool | str) -> str:
    """What `--help` prints: a module's docstring, and every flag with its meaning and default."""
    lines: list[tuple[str, str]] = []
    for name in values:
        flag = values[name]
        if name == "config":
            lines += CONFIG_HELP[1:] if config == "fields" else CONFIG_HELP
        elif name != "h":  # --help again
            choices = "|".join(getattr(flag.parser, "enum_values", ()))
            form = choices or FORMS.get(flag.flag_type(), "VALUE")
            meaning = flag.help.removeprefix(f"<{choices}>: ").partition(";\n")[0]  # without the form, by absl
            if flag.default not in (None, "", [], False):
                meaning += f" Default: {'yes' if flag.default is True else flag.default}."
            shown = f"--{name}={form}"
            if flag.boolean:
                shown = f"--[no]{name}" if flag.default else f"--{name}"
            lines.append((shown, meaning))
    width = max(len(shown) for shown, _ in lines) + 4
    rows = [
        textwrap.fill(f"  {shown}".ljust(width) + meaning, 100, subsequent_indent=" " * width)
        for shown, meaning in lines
    ]
    return "\n".join([doc.strip(), "", "Flags:", "", *rows])


def _near(name: str, values: flags.FlagValues, config: object) -> str:
    """A hint at the flag, or field of the config, that is probably meant."""
    field = nearest_field(name) if config else None
    certain = field is not None and (name in ALIASES or name == field.rpartition(".")[2])
    near = [] if certain else difflib.get_close_matches(name, list(values), 1)
    near += [f"config.{field}"] if field else []
    return f"; did you mean --{near[0]}?" if near else ""


def _near_file(file: str) -> str:
    """A hint at the config file that is probably meant; where there are none, at where recipes are."""
    folder = Path(file) if Path(file).is_dir() else Path(file).parent
    files = sorted(str(path) for path in {*folder.glob("*.py"), *Path("configs").glob("*.py")})
    near = difflib.get_close_matches(file, files, 1, 0)
    return f"; did you mean {near[0]}?" if near else RECIPES


def led_to(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether `error`, or one that was being handled when it was raised, is of a kind."""
    while error is not None and not isinstance(error, kind):
        error = error.__context__
    return error is not None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
