"""Training and test curves of one or several runs in one picture, as v1 Fig. 1 and Fig. 6 draw them.

A training error is the mean over the steps between two evaluations, while the weights moved and with augmentation.
So the points of one curve stand for equally many steps, however often the run wrote a record.
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

STYLES = {"train": ("--", 1.0), "train_clean": ("-.", 1.0), "validation": (":", 1.4), "test": ("-", 1.8)}
NAMES = {"train": "training", "train_clean": "clean training", "validation": "validation", "test": "test"}


def read(workdir: Path) -> dict[str, Any]:
    """One run's curves by split: `step`, and `error` in percent after it (training: since the step before)."""
    records = [record for record in files.read_lines(workdir / "metrics.jsonl") if _is_point(record)]
    by_split = {split: [r for r in records if r["split"] == split] for split in STYLES}
    ends = [r["step"] for r in by_split["test"]]
    by_split["train"] = merge(by_split["train"], ends)
    return {
        split: {"step": [r["step"] for r in own], "error": [100 * (1 - r["accuracy"]) for r in own]}
        for split, own in by_split.items()
        if own
    }


def _is_point(record: Mapping[str, Any]) -> bool:
    """Whether a record is one of a run; others may have added theirs."""
    return log.is_own(record) and type(record.get("accuracy")) in (int, float)


def merge(records: Sequence[Mapping[str, Any]], ends: Sequence[int]) -> list[dict[str, Any]]:
    """Training records, each the mean since the one before it, merged into means from end to end.

    What comes after the last end is one more point if it is at least half as long as the longest distance between
    ends. Without ends, that is, before the first evaluation, the records stay as they are.

    Args:
      records: `step` and `accuracy`, ascending.
      ends: ascending steps; one less than half of the longest distance before the next is skipped.
    """
    longest = max((b - a for a, b in zip([0, *ends], ends, strict=False)), default=0)
    borders = set(runs.spaced(ends, longest / 2)) if ends else {r["step"] for r in records}
    merged, before, steps, right = [], 0, 0, 0.0
    for record in records:
        steps += record["step"] - before
        right += (record["step"] - before) * record["accuracy"]  # every step has equally many images
        before = record["step"]
        unfinished = record is records[-1] and steps >= longest / 2
        if before in borders or unfinished:
            merged.append({"step": before, "accuracy": right / steps})
            steps, right = 0, 0.0
    return merged


def over_seeds(curves: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By split, over the runs that reached each step: `step`, mean `error`, sample `std`, `n`."""
    found: dict[str, Any] = {}
    for split in STYLES:
        errors: dict[int, list[float]] = {}
        for curve in curves:
            for step, error in zip(*curve.get(split, {"step": [], "error": []}).values(), strict=True):
                errors.setdefault(step, []).append(error)
        if errors:
            found[split] = {
                "step": sorted(errors),
                "error": [statistics.fmean(errors[step]) for step in sorted(errors)],
                "std": [statistics.stdev(v) if len(v := errors[step]) > 1 else 0.0 for step in sorted(errors)],
                "n": [len(errors[step]) for step in sorted(errors)],
            }
    return found


def measure(run: OpenedRun, options: Options) -> dict[str, Any]:
    """The curves of one run, or the means of its seeds: `seeds`, `splits`, and what the run trained on.

    `total_steps` is the last recorded step.

    Raises:
      BadInput: if nothing is recorded yet.
    """
    curves = [curve for curve in map(read, run.seeds) if curve]
    if not curves:
        raise BadInput(f"--workdir={run.workdir} has no metrics yet; train on")
    splits = over_seeds(curves)
    return {
        "data": run.config.data.name,
        "total_steps": max(curve["step"][-1] for curve in splits.values()),
        "batch_size": run.config.batch_size,
        "seeds": len(curves),
        "splits": splits,
    }


def plot(found: Mapping[str, Any], path: Path, note: str = "") -> None:
    """Error against steps, training dashed and test solid, one colour per run; bands show the spread of seeds."""
    drawn = [split for split in STYLES if any(split in run["splits"] for run in found.values())]
    caption = (
        f"{figure.about(found)}; training errors are means since the previous evaluation, while the weights moved"
    )
    if note:
        caption += f"; {note}"
    if any(run["seeds"] > 1 for run in found.values()):
        caption += "; lines: means over n seeds, bands: ± one sample standard deviation of the test error"
    with figure.panels(path, 1, 1, (7, 4.8), caption) as [[axes]]:
        for colour, run in enumerate(found.values()):
            for split, curve in run["splits"].items():
                style, width = STYLES[split]
                mark = "." if len(curve["step"]) == 1 else None  # a line of one point would be invisible
                one, error = f"C{colour}", curve["error"]
                axes.plot(curve["step"], error, style, color=one, lw=width, marker=mark)
                if split == "test" and run["seeds"] > 1:  # bands around every line would hide one another
                    mean, std = np.array(error), np.array(curve["std"])
                    axes.fill_between(
                        curve["step"], np.maximum(0, mean - std), mean + std, color=one, alpha=0.15, lw=0
                    )
        axes.set(xlabel="step", ylabel="error (%)")
        figure.from_zero(axes)
        lines = [
            Line2D([], [], color=f"C{i}", label=f"{label} (n={run['seeds']})" if run["seeds"] > 1 else label)
            for i, (label, run) in enumerate(found.items())
        ]
        styles = [Line2D([], [], color="0.4", ls=STYLES[s][0], lw=STYLES[s][1], label=NAMES[s]) for s in drawn]
        axes.legend(handles=lines + styles, fontsize=8)


def profiles(found: Any) -> dict[str, list[float]]:
    """Nothing, because the run's own records are in TensorBoard."""
    return {}


def draw(workdirs: Mapping[str, Path | Iterable[Path]], path: Path, note: str = "") -> None:
    """Reads the runs, label -> workdir (or several, one for each seed), and writes the picture.

    Raises:
      BadInput: for a folder without a run or without metrics.
    """
    opened = {label: OpenedRun.open(*([of] if isinstance(of, Path) else of)) for label, of in workdirs.items()}
    plot({label: measure(run, Options()) for label, run in opened.items()}, path, note)
