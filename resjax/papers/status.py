"""Which rows of the tables were ever run, and how far: from the configs of the runs in `results/`."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resjax import checks, cli
from resjax.config import restored, shorten
from resjax.errors import BadInput
from resjax.papers.recipe import variant
from resjax.papers.table import Row, Table
from resjax.sweep.plan import arguments

# Besides `checks.FREE`: what a run may choose and still be the row's, and the length, which is looked at by itself.
OWN = {
    *("seed", "eval_every_steps", "eval_every_epochs"),
    *("total_steps", "total_epochs", "schedule.drop_steps", "schedule.drop_epochs"),
    *("schedule.warmup_steps", "schedule.warmup_epochs"),
}


@dataclasses.dataclass(frozen=True)
class Ran:
    """Finished runs of one row on one data set, all of one length, as a share of the row's own."""

    data: str
    share: float
    n: int

    def __str__(self) -> str:
        length = "at full length" if self.share == 1 else f"for {100 * self.share:.3g} % of its length"
        return f"{self.data} {length}, n={self.n}"


def recorded(results: Path) -> list[tuple[ConfigDict, set[str]]]:
    """The config of every variant in the records, with the state digests of its finished runs.

    Tables share networks: two runs that ended in the same state are one run in two tables.
    """
    found = []
    for path in sorted(results.glob("*.json")):
        record = json.loads(path.read_text())
        for name, config in record.get("configs", {}).items():
            digests = {run["state_digest"] for run in record["runs"][name]}
            found.append((restored(config, f"{path}: {name}"), digests))
    return found


def ran(table: Table, row: Row, records: Iterable[tuple[ConfigDict, set[str]]]) -> list[Ran]:
    """What the records hold of a row, the paper's own data and the longest runs first; empty: it was never run."""
    runs: dict[tuple[int, float], set[str]] = {}
    for i, data in enumerate(table.data):
        own = cli.load(arguments(variant(table, row, data)))
        for config, digests in records:
            if share := share_of(own, config):
                runs[i, share] = runs.get((i, share), set()) | digests
    longest_first = sorted(runs.items(), key=lambda item: (item[0][0], -item[0][1]))
    return [Ran(table.data[i], share, len(digests)) for (i, share), digests in longest_first]


def share_of(row: ConfigDict, run: ConfigDict) -> float | None:
    """How much of a row's length a run took, in (0, 1]; None if it is not a run of the row.

    Everything that may change a result must be the row's, and every duration must be cut to the same share.
    """
    # First what tells most of them apart, because `differences` takes a millisecond.
    if run.model.units != row.model.units or run.data.validation_split != row.data.validation_split:
        return None
    share = next(
        (run[field] / row[field] for field in ("total_steps", "total_epochs") if run[field] and row[field]), None
    )
    if share is None or checks.differences(run, row, checks.FREE | OWN):
        return None
    cut = row.copy_and_resolve_references()
    try:
        shorten(cut, share)
    except BadInput:  # longer than the row
        return None
    same = all(_near(a, b) for a, b in zip(_durations(cut), _durations(run), strict=True))
    return share if same else None


def _durations(config: ConfigDict) -> Iterator[Any]:
    for field in ("drop_steps", "drop_epochs", "warmup_steps", "warmup_epochs"):
        yield config.schedule[field]


def _near(a: Any, b: Any) -> bool:
    """Whether two durations, or tuples of them, are equal: steps up to a rounding, epochs up to the last digits."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_near, a, b))
    if a is None or b is None:
        return a is b
    return abs(a - b) <= (1 if isinstance(a, int) else 1e-6)
