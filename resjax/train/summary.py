"""`summary.json`, what a finished run leaves: results, cost and the digest of its final state."""

import json
import math
from pathlib import Path
from typing import Any

NAME = "summary.json"
NUMBERS = (
    *("steps", "seconds", "images_per_second", "params"),
    *("test_accuracy", "test_accuracy_top5", "train_accuracy"),
)
TEXTS = ("device", "state_digest")


def read(workdir: Path) -> dict[str, Any] | None:
    """The summary in a run's folder; None if there is none.

    A damaged one counts as none: the state is in the checkpoints, from which the same command writes it again.
    """
    try:
        found = json.loads((workdir / NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    whole = (
        isinstance(found, dict)
        and all(type(found.get(name)) in (int, float) and math.isfinite(found[name]) for name in NUMBERS)
        and all(isinstance(found.get(name), str) for name in TEXTS)
        and type(found["steps"]) is int
    )
    return found if whole else None
