"""A sweep spelled out: every run with the command that a person can paste, checked before the first one starts."""

import dataclasses
import json
import signal
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resjax import cli
from resjax.checks import LENGTH, differences, sized, validate
from resjax.config import durations, network, plain, restored
from resjax.data.augment import AUGMENTATIONS, NORMALIZATIONS
from resjax.data.sources import Source, open_source
from resjax.data.splits import parse_slice
from resjax.errors import INTERRUPTED, BadInput, unknown
from resjax.files import read_lines, write_json
from resjax.models import counts
from resjax.sweep.definition import Sweep

DEFINITION = "sweep.json"
LOCK = "sweep.lock"


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run of a sweep. What became of it is read from disk, where any launcher leaves it.

    Beside the run's folder lie its log (`seed0.log`) and, after a failure, its exit code (`seed0.exit`).
    """

    variant: str
    seed: int
    workdir: Path
    arguments: tuple[str, ...]  # of resjax.main, without the seed and the workdir
    config: ConfigDict

    @property
    def name(self) -> str:
        return f"{self.variant}/seed{self.seed}"

    @property
    def command(self) -> list[str]:
        """The command line, as a person types it."""
        last = [f"--config.seed={self.seed}", f"--workdir={self.workdir}"]
        return ["python", "-m", "resjax.main", *self.arguments, *last]

    @property
    def here(self) -> list[str]:
        """The command line under this very Python."""
        return [sys.executable, *self.command[1:]]

    @property
    def log(self) -> Path:
        return self.workdir.with_name(self.workdir.name + ".log")

    @property
    def exit(self) -> Path:
        return self.workdir.with_name(self.workdir.name + ".exit")

    @cached_property
    def params(self) -> int:
        """Trainable parameters, by formula."""
        return counts.total(network(self.config)).params

    def summary(self) -> dict[str, Any] | None:
        """The summary of a run that came to its end; None for any other, and for one of another length."""
        try:
            summary = json.loads((self.workdir / "summary.json").read_text())
            config = json.loads((self.workdir / "config.json").read_text())
        except (OSError, ValueError):
            return None
        same = all(config.get(field) == self.config[field] for field in LENGTH)
        return summary if same and "state_digest" in summary else None

    def exit_code(self) -> int:
        """How the latest attempt failed; 0 where none did."""
        try:
            return int(self.exit.read_text())
        except (OSError, ValueError):
            return 0

    def error(self) -> str:
        """The last line that a failed run wrote; empty for a run that did not fail."""
        code = self.exit_code()
        if code in (0, INTERRUPTED) or self.summary():
            return ""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1].strip().removeprefix("error: ") if lines and not lines[-1].startswith("$ ") else ""
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return last if last and code > 0 else f"{how} {last}".strip()

    def step(self) -> int:
        """The step that the run's log has reached."""
        records = read_lines(self.workdir / "metrics.jsonl")
        return records[-1]["step"] if records else 0


def plan(sweep: Sweep, workdir: Path) -> list[Run]:
    """Every run of a sweep, variant by variant; builds every config, reads no data and writes nothing.

    Raises:
      BadInput: naming the run whose config cannot work.
    """
    runs = []
    for name, variant in sweep.variants().items():
        fields = {field: text(value) for field, value in variant.overrides.items()}
        arguments = (f"--config={variant.config}", *(f"--config.{f}={v}" for f, v in fields.items()))
        try:
            config = cli.load(list(arguments))
            # Whether the mesh fits the machine is for the run to see: asking for devices here would take them.
            validate(config, abs(config.mesh.data * config.mesh.fsdp))
        except BadInput as error:
            raise BadInput(f"run {name!r}: {error}") from error
        for seed in sweep.seeds:
            own = config.copy_and_resolve_references()
            own.seed = seed
            runs.append(Run(name, seed, workdir / "runs" / name / f"seed{seed}", arguments, own))
    return runs


def check_data(runs: Iterable[Run]) -> dict[Run, int]:
    """The number of steps of every run, found by looking up each data set once; reads no images.

    Raises:
      BadInput: for a data set that is missing or does not fit a run's network.
    """
    sources: dict[tuple[str, str, int], Source] = {}
    steps = {}
    for run in runs:
        data = run.config.data
        try:
            for field, choices in {"augment": AUGMENTATIONS, "normalize": NORMALIZATIONS}.items():
                if data[field] not in choices:
                    raise BadInput(unknown(f"data.{field}", data[field], choices))
            key = data.name, data.dir, data.image_size
            source = sources[key] = sources.get(key) or open_source(*key)
            if shape := source.image_shape:
                shape = (data.image_size, data.image_size, shape[2]) if data.image_size else shape
                sized(run.config, shape, source.num_classes)
            train_size = len(parse_slice("data.train_split", data.train_split, source.sizes))
            steps[run] = durations(run.config, train_size).total
        except BadInput as error:
            raise BadInput(f"run {run.variant!r}: {error}") from error
    return steps


def check_workdir(runs: list[Run], workdir: Path) -> None:
    """Raises BadInput if `workdir` holds anything but these runs or some of them: a sweep may only grow."""
    path = workdir / DEFINITION
    if not path.is_file():
        foreign = not workdir.is_dir() or any(p.name != LOCK for p in workdir.iterdir())
        if workdir.exists() and foreign:
            raise BadInput(f"workdir={workdir} exists and is no sweep; choose an empty or new folder")
        return
    saved = json.loads(path.read_text())
    configs = {run.variant: run.config for run in runs}
    lost = [f"run {name!r} is there, not here" for name in saved["runs"] if name not in configs]
    lost += [f"seed {s} is there, not here" for s in saved["seeds"] if s not in {run.seed for run in runs}]
    changed = [f"run {n!r}: {line}" for n, c in configs.items() for line in _changes(saved["runs"].get(n), c)]
    if lost or changed:
        raise BadInput(
            f"workdir={workdir} holds another sweep: {'; '.join((lost + changed)[:3])}. "
            "Use its values or another --workdir"
        )


def store(runs: list[Run], workdir: Path) -> None:
    """Writes the sweep's definition: its seeds, and the command and whole config of every variant."""
    first = {run.variant: run for run in reversed(runs)}
    definition = {
        "seeds": sorted({run.seed for run in runs}),
        "runs": {
            name: {"arguments": first[name].arguments, "config": {**plain(first[name].config), "seed": None}}
            for name in dict.fromkeys(run.variant for run in runs)
        },
    }
    write_json(workdir / DEFINITION, definition)


def text(value: Any) -> str:
    """A value as an override on the command line: tuples in parentheses, without spaces."""
    if isinstance(value, tuple | list):
        return "(" + ",".join(repr(item) for item in value) + ("," if len(value) == 1 else "") + ")"
    return str(value)


def _changes(saved: dict[str, Any] | None, config: ConfigDict) -> list[str]:
    if saved is None:
        return []
    there = {**saved["config"], "seed": config.seed}
    # A single run may be prolonged; in a sweep that would put runs of two lengths into one table.
    longer = [f"{f}: {there[f]!r} there, {config[f]!r} here" for f in LENGTH if there[f] != config[f]]
    return list(dict.fromkeys(longer + differences(restored(there, DEFINITION), config)))
