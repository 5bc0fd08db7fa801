"""The pictures that tables draw from finished runs, each as `draw({label: workdir}, path)`.

What draws is imported late: matplotlib and JAX are not needed to list or plan.
"""

from collections.abc import Mapping
from pathlib import Path


def curves(runs: Mapping[str, Path], path: Path) -> None:
    """Training and test errors against steps: v1 Fig. 1 and Fig. 6."""
    from resjax.analysis import curves

    curves.draw(runs, path)


def responses(runs: Mapping[str, Path], path: Path) -> None:
    """Standard deviations of layer responses, in order and sorted: v1 Fig. 7."""
    from resjax.analysis import responses

    responses.draw(runs, path)


def training_errors(runs: Mapping[str, Path], path: Path) -> None:
    """Training errors alone, overlaid: plain networks dashed, residual ones solid, a colour for each depth."""
    from resjax.analysis.curves import read
    from resjax.analysis.figure import from_zero, panels

    depths = list(dict.fromkeys(label.rpartition("-")[2] for label in runs))
    with panels(path, 1, 1, (7, 4.5)) as [[axes]]:
        for label, workdir in runs.items():
            curve = read(workdir)["train"]
            style = "--" if label.startswith("plain") else "-"
            colour = f"C{depths.index(label.rpartition('-')[2])}"
            axes.plot(curve["step"], curve["error"], style, color=colour, lw=1.6, label=label)
        axes.set(xlabel="step", ylabel="training error (%)")
        from_zero(axes)
        axes.legend()
