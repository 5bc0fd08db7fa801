"""What every command line shares: `--config=FILE[:SPEC]` with overrides, and errors for people."""

import difflib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from resjax.errors import BadInput

BAD_INPUT = 2


def run(command: Callable[[list[str]], int | None]) -> None:
    """Runs `command(argv)` and exits with its code; a `BadInput` is one line on stderr and exit code 2."""
    try:
        code = command(sys.argv[1:])
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        code = BAD_INPUT
    except BrokenPipeError:
        # The reader of our output has gone, as in `| head`; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code or 0)


def parse(
    argv: list[str], define: Callable[[flags.FlagValues], object], *, config: bool = True
) -> flags.FlagValues:
    """Parses `argv` into the flags that `define` adds, and `--config` with its overrides.

    Raises:
      BadInput: for a flag or field that does not exist (with the nearest name), or a value of the wrong type.
    """
    values = flags.FlagValues()
    flags.DEFINE_boolean("help", False, "Show this help.", flag_values=values, short_name="h")
    define(values)
    if config:
        config_flags.DEFINE_config_file(
            "config", None, "FILE[:SPEC], then --config.FIELD=VALUE overrides.", flag_values=values, sys_argv=argv
        )
        for flag in argv:
            file = flag.removeprefix("--config=").partition(":")[0]
            if flag.startswith("--config=") and not Path(file).is_file():
                raise BadInput(f"--config={file}: no such file")
    try:
        rest = values(["resjax", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        raise BadInput(f"--{error.flagname} is unknown{_near(error.flagname, list(values))}") from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise BadInput(_explain(error, argv)) from error
    if values.help:
        print(values.main_module_help() or values.get_help())
        sys.exit(0)
    if rest:
        raise BadInput(f"{rest[0]!r} is not a flag: flags start with --")
    if config and values.config is None:
        raise BadInput("--config is missing: give a file, such as --config=configs/digits.py")
    if config:
        _prefer_overrides(values.config, argv)
    return values


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


def _prefer_overrides(config: ConfigDict, argv: list[str]) -> None:
    """A duration given in one unit on the command line replaces the file's in the other unit."""
    given = [flag.removeprefix("--config.").partition("=")[0] for flag in argv if flag.startswith("--config.")]
    for path in given:
        node, _, field = path.rpartition(".")
        stem, _, unit = field.rpartition("_")
        other = {"steps": f"{stem}_epochs", "epochs": f"{stem}_steps"}.get(unit)
        owner = config[node] if node else config
        if other in owner and f"{node}.{other}".removeprefix(".") not in given:
            owner[other] = () if isinstance(owner[other], tuple) else None


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    return f"; did you mean --{near[0]}?" if near else ""


def _explain(error: Exception, argv: list[str]) -> str:
    """ml_collections' and absl's errors as one line that names the field."""
    text = str(error.args[0]) if error.args else str(error)
    if inner := re.search(r"resjax\.errors\.BadInput: (.+)", text):
        return inner.group(1)
    overrides = dict(flag[9:].partition("=")[::2] for flag in argv if flag.startswith("--config."))
    if isinstance(error, AttributeError | KeyError):
        if near := re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text):
            return f"--config field {near.group(2)!r} is unknown; did you mean {near.group(1)!r}?"
        bad = next((field for field in overrides if field.rpartition(".")[2] in text), "")
        return f"--config.{bad} is unknown" if bad else text.splitlines()[-1]
    for field, value in overrides.items():
        if field in text:
            return f"{field}={value!r} has the wrong type: {text.splitlines()[-1].rpartition(': ')[0] or text}"
    return text.splitlines()[-1]


def load(argv: list[str]) -> ConfigDict:
    """The config of one `--config=FILE[:SPEC]` and its overrides."""
    return parse(argv, lambda values: None).config
