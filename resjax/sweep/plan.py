"""A sweep spelled out: every run with its command, ready to paste, checked before the first one starts."""

import dataclasses
import functools
import signal
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resjax import checks, cli, files
from resjax.config import durations, network, plain, restored
from resjax.data.resolve import Resolved, resolve
from resjax.errors import INTERRUPTED, BadInput
from resjax.models import counts
from resjax.models.spec import Spec
from resjax.sweep.definition import Sweep, Variant
from resjax.train import summary

DEFINITION = "sweep.json"
LOCK = "sweep.lock"


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run of a sweep. Its outcome is read from disk, where every launcher leaves it.

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
    def flags(self) -> list[str]:
        """All arguments of resjax.main."""
        return [*self.arguments, f"--config.seed={self.seed}", f"--workdir={self.workdir}"]

    @property
    def command(self) -> list[str]:
        """The command line, as a person types it."""
        return ["python", "-m", "resjax.main", *self.flags]

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
    def resolved(self) -> ConfigDict:
        """The config with the values that it leaves to its data set.

        Raises:
          BadInput: if the set is missing or does not fit the network.
        """
        return checks.resolved(self.config, look_up(self.config))

    @property
    def known(self) -> ConfigDict:
        """`resolved`, or `config` if the data set is not here."""
        try:
            return self.resolved
        except BadInput:
            return self.config

    @cached_property
    def spec(self) -> Spec:
        """The network; for a published data set it is known without the data."""
        return network(checks.described(self.config))

    @cached_property
    def steps(self) -> int:
        """How many steps the whole run has; raises BadInput as `resolved`, and for impossible durations."""
        return durations(self.resolved, look_up(self.config).train_size).total

    @property
    def params(self) -> int | None:
        """Trainable parameters, by formula; None if that needs the data set, which is not here."""
        try:
            return counts.total(self.spec).params
        except BadInput:
            return None

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run; None for any other, and for a run of another length."""
        found = summary.read(self.workdir)
        try:
            config = files.read_json(self.workdir / "config.json") if found else None
        except (OSError, BadInput):
            return None
        same = isinstance(config, dict) and all(config.get(f) == self.config[f] for f in checks.LENGTH)
        return found if same else None

    def exit_code(self) -> int:
        """The exit code of the latest attempt if it failed, else 0; minus a signal's number if that ended it."""
        try:
            code = int(self.exit.read_text())
        except (OSError, ValueError):
            return 0
        return code if code > 0 or -code in list(signal.Signals) else 0

    def error(self) -> str:
        """The last line that a failed run wrote; empty for a run that did not fail."""
        code = self.exit_code()
        if code in (0, INTERRUPTED) or self.summary():
            return ""
        text = self.log.read_text(errors="replace") if self.log.is_file() else ""
        lines = [line for line in text.splitlines() if line.strip()]
        last = lines[-1].strip().removeprefix("error: ") if lines and not lines[-1].startswith("$ ") else ""
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return last if last and code > 0 else f"{how} {last}".strip()

    def step(self) -> int:
        """The step that the run's log has reached."""
        records = files.lines(self.workdir / "metrics.jsonl")
        steps = [record["step"] for _, record in records if record and type(record.get("step")) is int]
        return steps[-1] if steps else 0


def plan(sweep: Sweep, workdir: Path) -> list[Run]:
    """Every run of a sweep, variant by variant; builds every config, reads no data and writes nothing.

    Raises:
      BadInput: naming the run whose config cannot work.
    """
    runs = []
    for name, variant in sweep.variants().items():
        own = arguments(variant)
        try:
            config = cli.load(own)
            # Whether the mesh fits the machine is for the run to see: asking for devices here would take them.
            checks.validate(config, abs(config.mesh.data * config.mesh.fsdp))
        except BadInput as error:
            raise BadInput(f"run {name!r}: {error}") from error
        for seed in sweep.seeds:
            seeded = config.copy_and_resolve_references()
            seeded.seed = seed
            runs.append(Run(name, seed, workdir / "runs" / name / f"seed{seed}", tuple(own), seeded))
    return runs


def arguments(variant: Variant) -> list[str]:
    """A variant as arguments of resjax.main, without a seed and a workdir."""
    return [f"--config={variant.config}", *(f"--config.{f}={text(v)}" for f, v in variant.overrides.items())]


def look_up(config: ConfigDict) -> Resolved:
    """What is known of a config's data set without reading an image; each set is looked up once."""
    return _look_up(tuple(config.data.items()))


@functools.cache
def _look_up(fields: tuple[tuple[str, Any], ...]) -> Resolved:
    return resolve(**dict(fields))


def check_data(runs: Iterable[Run]) -> None:
    """Raises BadInput for a data set that is missing, or does not fit a run's network or durations."""
    for run in runs:
        try:
            assert run.steps
        except BadInput as error:
            raise BadInput(f"run {run.variant!r}: {error}") from error


def check_workdir(runs: list[Run], workdir: Path) -> None:
    """Raises BadInput if `workdir` holds anything but these runs or some of them: a sweep may only grow."""
    path = workdir / DEFINITION
    if not path.is_file():
        foreign = not workdir.is_dir() or any(p.name != LOCK for p in workdir.iterdir())
        if workdir.exists() and foreign:
            raise BadInput(f"workdir={workdir} exists and is not a sweep; choose an empty or new folder")
        return
    saved = read(path)
    configs = {run.variant: run.known for run in runs}
    lost = [f"run {name!r} is there, not here" for name in saved["runs"] if name not in configs]
    lost += [f"seed {s} is there, not here" for s in saved["seeds"] if s not in {run.seed for run in runs}]
    changed = [
        f"run {name!r}: {line}"
        for name, config in configs.items()
        if name in saved["runs"]
        for line in _changes(restored({**saved["runs"][name]["config"], "seed": config.seed}, path), config)
    ]
    if lost or changed:
        raise BadInput(
            f"workdir={workdir} holds another sweep: {'; '.join((lost + changed)[:3])}. "
            "Use its values or another --workdir"
        )


def read(path: Path) -> dict[str, Any]:
    """What `store` wrote.

    Raises:
      BadInput: if the file holds something else.
    """
    saved = files.read_json(path)
    sound = (
        isinstance(saved, dict)
        and isinstance(seeds := saved.get("seeds"), list)
        and isinstance(runs := saved.get("runs"), dict)
        and all(type(seed) is int for seed in seeds)
        and all(isinstance(run, dict) and isinstance(run.get("config"), dict) for run in runs.values())
    )
    if not sound:
        raise BadInput(f"{path} is damaged (it is no sweep's): restore it, or choose another --workdir")
    return saved


def store(runs: list[Run], workdir: Path) -> None:
    """Writes the sweep's definition: its seeds, and the command and whole config of every variant."""
    first = {run.variant: run for run in reversed(runs)}
    definition = {
        "seeds": sorted({run.seed for run in runs}),
        "runs": {
            name: {"arguments": first[name].arguments, "config": {**plain(first[name].known), "seed": None}}
            for name in dict.fromkeys(run.variant for run in runs)
        },
    }
    files.write_json(workdir / DEFINITION, definition)


def text(value: Any) -> str:
    """A value as an override on the command line: tuples in parentheses, without spaces."""
    if isinstance(value, tuple | list):
        return "(" + ",".join(repr(item) for item in value) + ("," if len(value) == 1 else "") + ")"
    return str(value)


def _changes(there: ConfigDict, here: ConfigDict) -> list[str]:
    # A single run may be lengthened; in a sweep that would put runs of two lengths into one table.
    length = sorted(checks.LENGTH)
    longer = [f"{f}: {there[f]!r} there, {here[f]!r} here" for f in length if there[f] != here[f]]
    return longer or checks.differences(there, here)
