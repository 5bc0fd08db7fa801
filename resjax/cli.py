"""What every command line shares: `--config=FILE[:SPEC]` with overrides, and errors for people."""

import ast
import difflib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
from absl import flags
from ml_collections import ConfigDict

from resjax.checks import check_fields
from resjax.config import default, flatten, plain
from resjax.errors import BAD_INPUT, KILLED, BadInput


def run(command: Callable[[list[str]], int | None]) -> None:
    """Runs `command(argv)` and exits with its code; a `BadInput` is one line on stderr and exit code 2."""
    try:
        code = command(sys.argv[1:])
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = KILLED
    except BrokenPipeError:
        # The reader of our output has gone, as in `| head`; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code or 0)


def parse(
    argv: list[str], define: Callable[[flags.FlagValues], object], *, config: bool | Literal["optional"] = True
) -> flags.FlagValues:
    """Parses `argv` into the flags that `define` adds, and `--config` with its overrides into a config.

    Raises:
      BadInput: for a flag or field that does not exist (with the nearest name), or a value of the wrong type.
    """
    values = flags.FlagValues()
    flags.DEFINE_boolean("help", False, "Show this help.", flag_values=values, short_name="h")
    define(values)
    assignments = overrides(argv) if config else []
    if config:
        help_ = "FILE[:SPEC]; then --config.FIELD=VALUE for any field of resjax.config."
        flags.DEFINE_string("config", None, help_, flag_values=values)
        argv = [flag for flag in argv if not flag.startswith("--config.")]
    try:
        rest = values(["resjax", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        raise BadInput(f"--{error.flagname} is unknown{_near(error.flagname, list(values))}") from error
    except flags.Error as error:
        raise BadInput(_one_line(error)) from error
    if values.help:
        print(values.main_module_help() or values.get_help())
        sys.exit(0)
    if rest:
        raise BadInput(f"{rest[0]!r} is not a flag: flags start with --")
    if config and (values.config or config != "optional"):
        if not values.config:
            raise BadInput("--config is missing: give a file, such as --config=configs/digits.py")
        values.config = load_file(values.config)
        override(values.config, assignments)
    return values


def overrides(argv: list[str]) -> list[str]:
    """The FIELD=VALUE of every `--config.FIELD=VALUE`."""
    return [flag.removeprefix("--config.") for flag in argv if flag.startswith("--config.")]


def load_file(file_and_spec: str) -> ConfigDict:
    """The config that `get_config(SPEC)` of a FILE[:SPEC] returns.

    Raises:
      BadInput: if the file cannot be run, or its fields are not those of `resjax.config.default`.
    """
    file, _, spec = file_and_spec.partition(":")
    if not Path(file).is_file():
        raise BadInput(f"--config={file}: no such file")
    loader = importlib.util.spec_from_file_location("config", file)
    if loader is None or loader.loader is None:
        raise BadInput(f"--config={file}: no Python file")
    module = importlib.util.module_from_spec(loader)
    try:
        loader.loader.exec_module(module)
        config = module.get_config(spec) if spec else module.get_config()
        check_fields(config)
    except BadInput:
        raise
    except Exception as error:  # a config file may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == os.path.abspath(file)]
        line = f", line {lines[-1]}" if lines else ""
        raise BadInput(f"--config={file}{line}: {type(error).__name__}: {_one_line(error)}") from error
    return config


def load(argv: list[str]) -> ConfigDict:
    """The config of one `--config=FILE[:SPEC]` and its overrides."""
    return parse(argv, lambda values: None).config


def override(config: ConfigDict, assignments: list[str]) -> None:
    """Sets fields, given as FIELD=VALUE, in place.

    A duration given in one unit replaces the file's in the other unit. `None` is for the fields that are None in
    `resjax.config.default`.

    Raises:
      BadInput: for an unknown field, with the nearest one, or a value of the wrong type.
    """
    empty = flatten(plain(default()))
    given = [assignment.partition("=")[0] for assignment in assignments]
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        if field not in empty:
            raise BadInput(f"--config.{field} is unknown{_near(field, list(empty), 'config.')}")
        if not equals:
            raise BadInput(f"--config.{field} has no value: write --config.{field}=VALUE")
        section, _, name = field.rpartition(".")
        node = config[section] if section else config
        if text == "None" and empty[field] is None:
            node[name] = None
        else:
            convert, meaning = TYPES[node.get_type(name)]
            try:
                node[name] = convert(text)
            except (ValueError, SyntaxError) as error:
                raise BadInput(f"--config.{field}={text!r} has the wrong type: must be {meaning}") from error
        stem, _, unit = name.rpartition("_")
        other = f"{stem}_{'epochs' if unit == 'steps' else 'steps'}"
        if unit in ("steps", "epochs") and other in node and field.removesuffix(name) + other not in given:
            node[other] = () if isinstance(node[other], tuple) else None


def _numbers(text: str) -> tuple[Any, ...]:
    """`(1, 2)`, `[1, 2]`, `1,2`, `1` or `()` -> a tuple of numbers."""
    value = ast.literal_eval(text)
    value = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not all(type(item) in (int, float) for item in value):
        raise ValueError(text)
    return value


TYPES: dict[type, tuple[Callable[[str], Any], str]] = {
    bool: (flags.BooleanParser().parse, "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "text"),
    tuple: (_numbers, "numbers, such as 1,2 or ()"),
}


def use_devices(count: int) -> None:
    """Splits the CPU into `count` devices, to try a mesh without the hardware."""
    if count < 1:
        raise BadInput(f"--devices={count}: must be at least 1")
    jax.config.update("jax_num_cpu_devices", count)


def use_compilation_cache() -> None:
    """Turns on the persistent compilation cache: a second run of one network starts in half the time."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "resjax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _near(name: str, names: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, names, 1)
    return f"; did you mean --{prefix}{near[0]}?" if near else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
