"""What a sweep is: variants by name, times seeds."""

import ast
import dataclasses
import difflib
import re
import runpy
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resjax.errors import BadInput

NAME = re.compile(r"(?!\.+$)[\w.][\w.+=-]{0,99}")  # a variant's name is a folder's
MOST_SEEDS = 10_000


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of a sweep: overrides by dotted field, and another network or recipe if `config` is given."""

    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: str = ""  # FILE[:SPEC]; empty: the sweep's


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Variants of one recipe, each run with every seed.

        Sweep("configs/digits.py:v1-20", {"A": {}, "B": {"model.shortcut": "B"}}, seeds=(0, 1, 2))

    Attributes:
      config: FILE[:SPEC], as `--config` takes it.
      runs: name -> overrides, or a `Variant` where the config differs; a mapping, or pairs.
      seeds: the values of `config.seed`.

    Raises:
      BadInput: for a sweep without runs or seeds, a name or seed given twice, or a name that no folder can have.
    """

    config: str
    runs: Mapping[str, Mapping[str, Any] | Variant] | Iterable[tuple[str, Mapping[str, Any] | Variant]]
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        pairs = list(self.runs.items() if isinstance(self.runs, Mapping) else self.runs)
        if not pairs:
            raise BadInput("runs is empty: give the sweep at least one run")
        for name, count in Counter(name for name, _ in pairs).items():
            if count > 1:
                raise BadInput(f"runs: {count} runs are named {name!r}; rename all but one")
            if not NAME.fullmatch(name):
                raise BadInput(f"run {name!r}: the name is a folder's; use letters, digits and ._+=-")
        seeds = self.seeds
        if not isinstance(seeds, tuple | list | range):
            raise BadInput(f"seeds={seeds!r}: give whole numbers, such as (0, 1, 2)")
        if len(seeds) > MOST_SEEDS:
            raise BadInput(f"seeds: {len(seeds)} are given; at most {MOST_SEEDS} are run")
        if not all(type(seed) is int for seed in seeds):
            raise BadInput(f"seeds={seeds!r}: give whole numbers, such as (0, 1, 2)")
        if not seeds or len(set(seeds)) < len(seeds):
            raise BadInput(f"seeds={seeds}: give at least one, and each once")
        variants = {
            name: run if isinstance(run, Variant) else Variant(_overrides(name, run)) for name, run in pairs
        }
        object.__setattr__(self, "runs", variants)
        object.__setattr__(self, "seeds", tuple(seeds))

    def variants(self) -> dict[str, Variant]:
        """Every variant with its config filled in."""
        assert isinstance(self.runs, dict)
        return {n: dataclasses.replace(v, config=v.config or self.config) for n, v in self.runs.items()}


def load(path: str) -> Sweep:
    """The sweep of a file.

    Raises:
      BadInput: if there is no such file, or it does not define a sweep.
    """
    if not Path(path).is_file():
        near = difflib.get_close_matches(path, sorted(map(str, Path(path).parent.glob("*.py"))), 1)
        raise BadInput(f"--sweep={path}: no such file" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        _check_keys(path)
        get_sweep = runpy.run_path(path).get("get_sweep")
        sweep = get_sweep() if callable(get_sweep) else None
    except BadInput as error:
        raise BadInput(f"--sweep={path}: {error}") from error
    except Exception as error:
        raise BadInput(f"--sweep={path} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(sweep, Sweep):
        raise BadInput(f"--sweep={path}: define get_sweep() that returns a resjax.sweep.Sweep")
    return sweep


def _overrides(name: str, run: Any) -> Mapping[str, Any]:
    if not isinstance(run, Mapping):
        raise BadInput(f"run {name!r} is {run!r}: give a dict of overrides or a Variant")
    if "seed" in run:
        raise BadInput(f"run {name!r} sets seed: list the seeds in seeds=(...)")
    return run


def _check_keys(path: str) -> None:
    """Raises BadInput for equal keys in a dict of the file: Python keeps only the last, and a run would be lost."""
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, ast.Dict):
            keys = Counter(key.value for key in node.keys if isinstance(key, ast.Constant))
            for key, count in keys.items():
                if count > 1:
                    raise BadInput(f"line {node.lineno}: {count} entries are named {key!r}; rename all but one")
