"""The pictures that tables draw from finished runs, each as `draw({label: workdirs of its seeds}, path, note)`.

Captions say data, length, number of seeds, and `note`. The drawing code is imported late, because listing and
planning need neither matplotlib nor JAX.
"""

from collections.abc import Mapping
from pathlib import Path

Runs = Mapping[str, list[Path]]


def curves(runs: Runs, path: Path, note: str) -> None:
    """Training and test errors against steps, means over the seeds: v1 Fig. 1 and Fig. 6."""
    from resjax.analysis import curves

    curves.draw(runs, path, note)


def responses(runs: Runs, path: Path, note: str) -> None:
    """Standard deviations of layer responses of the first seed, in order and sorted: v1 Fig. 7."""
    from resjax.analysis import responses

    responses.draw({label: workdirs[0] for label, workdirs in runs.items()}, path, note=note)


def training_errors(runs: Runs, path: Path, note: str) -> None:
    """Training errors alone, overlaid: plain networks dashed, residual ones solid, a colour for each depth."""
    from resjax.analysis import curves, figure
    from resjax.analysis.runs import OpenedRun, Options

    found = {label: curves.measure(OpenedRun.open(*workdirs), Options()) for label, workdirs in runs.items()}
    caption = f"{figure.about(found)}; {note}" if note else figure.about(found)
    caption += "; errors are of the steps between evaluations, with augmentation; means over n seeds"
    depths = list(dict.fromkeys(label.rpartition("-")[2] for label in runs))
    with figure.panels(path, 1, 1, (7, 4.8), caption) as [[axes]]:
        for label, run in found.items():
            curve = run["splits"]["train"]
            style = "--" if label.startswith("plain") else "-"
            colour = f"C{depths.index(label.rpartition('-')[2])}"
            label = f"{label} (n={run['seeds']})"
            axes.plot(curve["step"], curve["error"], style, color=colour, lw=1.6, label=label)
        axes.set(xlabel="step", ylabel="training error (%)")
        figure.from_zero(axes)
        axes.legend()
