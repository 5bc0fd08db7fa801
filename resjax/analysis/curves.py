"""Training and test curves of one or several runs in one picture, as v1 Fig. 1 and Fig. 6 draw them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resjax.analysis.figure import from_zero, panels
from resjax.analysis.runs import Options, Run
from resjax.errors import BadInput
from resjax.files import read_lines

STYLES = {"train": ("--", 1.0), "validation": (":", 1.4), "test": ("-", 1.8)}


def read(workdir: Path) -> dict[str, Any]:
    """By split: `step`, and `error` in percent after it (of training: since the last record)."""
    records = read_lines(workdir / "metrics.jsonl")
    found: dict[str, Any] = {}
    for split in STYLES:
        own = [r for r in records if r["split"] == split]
        if own:
            found[split] = {"step": [r["step"] for r in own], "error": [100 * (1 - r["accuracy"]) for r in own]}
    return found


def measure(run: Run, options: Options) -> dict[str, Any]:
    """The curves of one run.

    Raises:
      BadInput: if it has recorded nothing yet.
    """
    found = read(run.workdir)
    if not found:
        raise BadInput(f"--workdir={run.workdir} has no metrics yet; train on")
    return found


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Error against steps, training dashed and test solid, one colour a run."""
    with panels(path, 1, 1, (7, 4.5)) as [[axes]]:
        for colour, (label, splits) in enumerate(found.items()):
            for split, curve in splits.items():
                style, width = STYLES[split]
                axes.plot(
                    curve["step"], curve["error"], style, color=f"C{colour}", lw=width, label=f"{label} {split}"
                )
        axes.set(xlabel="step", ylabel="error (%)")
        from_zero(axes)
        axes.legend(fontsize=8)


def profiles(found: Any) -> dict[str, list[float]]:
    """Nothing: the run's own records are in TensorBoard already."""
    return {}


def draw(runs: Mapping[str, Path], path: Path) -> None:
    """Reads the runs, label -> workdir, and writes the picture."""
    plot({label: read(workdir) for label, workdir in runs.items()}, path)
