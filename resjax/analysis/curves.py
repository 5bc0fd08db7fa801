"""Training and test curves of one or several runs in one picture.

Errors as v1 Fig. 1 and Fig. 6 draw them, or training losses against test errors, as v2 Fig. 1, 3 and 6. A training
error or loss is the mean over the steps between two evaluations, while the weights moved and with augmentation. So
the points of one curve stand for equally many steps, however often the run wrote a record.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from resjax import files
from resjax.analysis import figure, runs
from resjax.analysis.runs import OpenedRun, Options
from resjax.errors import BadInput
from resjax.train import log

TAKES: tuple[str, ...] = ()  # of Options: records are read, no weights

STYLES: dict[str, tuple[Any, float]] = {
    "train": ("--", 1.0),
    "train_clean": ("-.", 1.0),
    "validation": (":", 1.4),
    "test": ("-", 1.8),
    "test_ema": ((0, (4, 1, 1, 1)), 1.8),
}
NAMES = {
    "train": "training",
    "train_clean": "clean training",
    "validation": "validation",
    "test": "test",
    "test_ema": "test of averaged weights",
}
RECORDED = {"error": "accuracy", "loss": "loss"}  # what a curve shows -> the record's field
FEW = 4  # runs whose legend has room among their curves
MOVED = "are means since the point before, while the weights moved"


def read(workdir: Path) -> dict[str, Any]:
    """One run's curves by split: `step`, and `error` in percent after it (training: since the step before)."""
    return points(records(workdir))


def records(workdir: Path) -> list[dict[str, Any]]:
    """What a run has recorded; says on stderr if lines are damaged."""
    return files.read_lines(workdir / "metrics.jsonl")


def points(recorded: Sequence[Mapping[str, Any]], value: str = "error") -> dict[str, Any]:
    """The curves of one run by split: `step`, and `value` after it.

    Args:
      value: `error`, in percent, or `loss`, in training with the label smoothing.
    """
    field = RECORDED[value]
    own = [record for record in recorded if _is_point(record, field)]
    by_split: dict[str, list[Any]] = {split: [r for r in own if r["split"] == split] for split in STYLES}
    ends = [r["step"] for r in by_split["test"]]
    by_split["train"] = merge(by_split["train"], ends, field)
    return {
        split: {
            "step": [r["step"] for r in of_split],
            value: [100 * (1 - r[field]) if value == "error" else r[field] for r in of_split],
        }
        for split, of_split in by_split.items()
        if of_split
    }


def _is_point(record: Mapping[str, Any], field: str) -> bool:
    """Whether a record is one of a run; others may have added theirs."""
    return log.is_own(record) and type(record.get(field)) in (int, float)


def merge(
    records: Sequence[Mapping[str, Any]], ends: Sequence[int], field: str = "accuracy"
) -> list[dict[str, Any]]:
    """Training records, each the mean since the one before it, merged into means from end to end.

    What comes after the last end is one more point if it is at least half as long as the longest distance between
    ends. With fewer than two ends, of which no curve could be made, the records stay as they are.

    Args:
      records: `step` and `field`, ascending.
      ends: ascending steps; one less than half of the longest distance before the next is skipped.
    """
    longest = max((b - a for a, b in zip([0, *ends], ends, strict=False)), default=0)
    borders = set(runs.spaced(ends, longest / 2)) if len(ends) > 1 else {r["step"] for r in records}
    merged, before, steps, total = [], 0, 0, 0.0
    for record in records:
        steps += record["step"] - before
        total += (record["step"] - before) * record[field]  # every step has equally many images
        before = record["step"]
        unfinished = record is records[-1] and steps >= longest / 2
        if before in borders or unfinished:
            merged.append({"step": before, field: total / steps})
            steps, total = 0, 0.0
    return merged


def over_seeds(curves: Sequence[Mapping[str, Any]], value: str = "error") -> dict[str, Any]:
    """By split, over the runs that reached each step: `step`, the mean as `value`, sample `std`, `n`."""
    found: dict[str, Any] = {}
    for split in STYLES:
        values: dict[int, list[float]] = {}
        for curve in curves:
            for step, one in zip(*curve.get(split, {"step": [], value: []}).values(), strict=True):
                values.setdefault(step, []).append(one)
        if values:
            found[split] = {
                "step": sorted(values),
                value: [statistics.fmean(values[step]) for step in sorted(values)],
                "std": [statistics.stdev(v) if len(v := values[step]) > 1 else 0.0 for step in sorted(values)],
                "n": [len(values[step]) for step in sorted(values)],
            }
    return found


def measure(run: OpenedRun, options: Options) -> dict[str, Any]:
    """The curves of one run, or the means of its seeds: `seeds`, `splits`, `losses`, and what the run trained on.

    `splits` holds errors. `total_steps` is the last recorded step.

    Raises:
      BadInput: if nothing is recorded yet.
    """
    recorded = list(map(records, run.seeds))
    curves = [curve for curve in map(points, recorded) if curve]
    if not curves:
        raise BadInput(f"--workdir={run.workdir} has no metrics yet; train on")
    splits = over_seeds(curves)
    return {
        "data": run.config.data.name,
        "total_steps": max(curve["step"][-1] for curve in splits.values()),
        "batch_size": run.config.batch_size,
        "seeds": len(curves),
        "splits": splits,
        "losses": over_seeds([points(one, "loss") for one in recorded], "loss"),
    }


def plot(found: Mapping[str, Any], path: Path, note: str = "") -> None:
    """Error against steps, training dashed and test solid, one colour per run; bands show the spread of seeds."""
    drawn = [split for split in STYLES if any(split in run["splits"] for run in found.values())]
    caption = f"{figure.about(found)}; training errors {MOVED}{_seeds(found, note)}"
    with figure.panels(path, 1, 1, (7, 4.8), caption) as [[axes]]:
        for colour, run in enumerate(found.values()):
            for split, curve in run["splits"].items():
                _line(axes, curve, "error", split, f"C{colour}", band=split == "test" and run["seeds"] > 1)
        axes.set(xlabel="step", ylabel="error (%)")
        figure.from_zero(axes)
        # Of many runs it would lie on their lines.
        where = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if len(found) > FEW else {}
        axes.legend(handles=_legend(found, {split: NAMES[split] for split in drawn}), fontsize=8, **where)


def plot_losses(found: Mapping[str, Any], path: Path, note: str = "") -> None:
    """Training loss (dashed, left, logarithmic) and test error (solid, right) against steps: v2 Fig. 1, 3 and 6."""
    caption = f"{figure.about(found)}; training losses {MOVED}{_seeds(found, note)}"
    with figure.panels(path, 1, 1, (7, 4.8), caption) as [[axes]]:
        right = axes.twinx()
        for colour, run in enumerate(found.values()):
            if "train" in run["losses"]:
                _line(axes, run["losses"]["train"], "loss", "train", f"C{colour}")
            if "test" in run["splits"]:
                _line(right, run["splits"]["test"], "error", "test", f"C{colour}", band=run["seeds"] > 1)
        axes.set(xlabel="step", ylabel="training loss", yscale="log")
        right.set_ylabel("test error (%)")
        figure.from_zero(right)
        names = {"train": "training loss (left)", "test": "test error (right)"}
        right.legend(handles=_legend(found, names), fontsize=8)


def _seeds(found: Mapping[str, Any], note: str) -> str:
    """The end of a caption: the note, and what lines and bands are where there are several seeds."""
    end = f"; {note}" if note else ""
    if any(run["seeds"] > 1 for run in found.values()):
        end += "; lines: means over n seeds, bands: ± one sample standard deviation of the test error"
    return end


def _line(axes: Any, curve: Mapping[str, Any], value: str, split: str, colour: str, *, band: bool = False) -> None:
    """One curve; bands around every line would hide one another."""
    style, width = STYLES[split]
    mark = "." if len(curve["step"]) == 1 else None  # a line of one point would be invisible
    axes.plot(curve["step"], curve[value], ls=style, color=colour, lw=width, marker=mark)
    if band:
        mean, std = np.array(curve[value]), np.array(curve["std"])
        axes.fill_between(curve["step"], np.maximum(0, mean - std), mean + std, color=colour, alpha=0.15, lw=0)


def _legend(found: Mapping[str, Any], names: Mapping[str, str]) -> list[Line2D]:
    """A colour for each run, and a style for each split in `names`."""
    lines = [
        Line2D([], [], color=f"C{i}", label=f"{label} (n={run['seeds']})" if run["seeds"] > 1 else label)
        for i, (label, run) in enumerate(found.items())
    ]
    styles = [
        Line2D([], [], color="0.4", ls=STYLES[s][0], lw=STYLES[s][1], label=name) for s, name in names.items()
    ]
    return lines + styles


def profiles(found: Any) -> dict[str, list[float]]:
    """Nothing, because the run's own records are in TensorBoard."""
    return {}


def draw(
    workdirs: Mapping[str, Path | Iterable[Path]], path: Path, note: str = "", *, losses: bool = False
) -> None:
    """Reads the runs, label -> workdir (or several, one for each seed), and writes the picture.

    Args:
      losses: training losses and test errors instead of all errors.

    Raises:
      BadInput: for a folder without a run or without metrics.
    """
    opened = {label: OpenedRun.open(*([of] if isinstance(of, Path) else of)) for label, of in workdirs.items()}
    found = {label: measure(run, Options()) for label, run in opened.items()}
    (plot_losses if losses else plot)(found, path, note)
