"""The pictures that tables draw from finished runs, each as `draw({label: workdirs of its seeds}, path, note)`.

Captions say data, length, number of seeds, and `note`. The drawing code is imported late, because listing and
planning need neither matplotlib nor JAX.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Runs = Mapping[str, list[Path]]


def curves(runs: Runs, path: Path, note: str) -> None:
    """Training and test errors against steps, means over the seeds: v1 Fig. 1 and Fig. 6."""
    from resjax.analysis import curves

    curves.draw(runs, path, note)


def losses(runs: Runs, path: Path, note: str) -> None:
    """Training losses and test errors against steps, means over the seeds: v2 Fig. 1, 3 and 6."""
    from resjax.analysis import curves

    curves.draw(runs, path, note, losses=True)


def responses(runs: Runs, path: Path, note: str) -> None:
    """Standard deviations of layer responses of the first seed, in order and sorted: v1 Fig. 7."""
    from resjax.analysis import responses

    responses.draw({label: workdirs[0] for label, workdirs in runs.items()}, path, note=note)


def norms(runs: Runs, path: Path, note: str) -> None:
    """Norms of weights and gradients by layer of the first seed, at the start and at saved steps; also as JSON."""
    from resjax import files
    from resjax.analysis import gradients
    from resjax.analysis.runs import OpenedRun, Options

    found = {label: gradients.measure(OpenedRun.open(workdirs[0]), Options()) for label, workdirs in runs.items()}
    files.write_json(path.with_suffix(".json"), found)
    gradients.plot(found, path, note)


def error_by_depth(runs: Runs, path: Path, note: str) -> None:
    """Error on the clean training set, and on the test set, against depth: plain networks dashed, others solid.

    A label is a family and a depth, such as ResNet-20.
    """
    from resjax.analysis import figure
    from resjax.analysis.runs import OpenedRun
    from resjax.sweep.results import spread
    from resjax.train import summary

    measures = {"train_clean": "training set, clean, in evaluation mode", "test": "test set"}
    families: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for label, workdirs in runs.items():
        family, _, depth = label.rpartition("-")
        families.setdefault(family, {})[int(depth)] = [s for w in workdirs if (s := summary.read(w))]
    facts = {label: OpenedRun.open(*workdirs).facts() for label, workdirs in runs.items()}
    several = "points are runs; lines and bars are mean ± sample standard deviation over n seeds"
    caption = "; ".join(filter(None, [figure.about(facts), several, note]))
    with figure.panels(path, 1, 2, (9, 4.4), caption, sharex=True, sharey=True) as [row]:
        for axes, (measure, title) in zip(row, measures.items(), strict=True):
            for colour, (family, by_depth) in enumerate(families.items()):
                errors = {at: [100 * (1 - s[f"{measure}_accuracy"]) for s in all_] for at, all_ in by_depth.items()}
                means, stds = zip(*map(spread, errors.values()), strict=True)
                n = " to ".join(map(str, sorted({min(map(len, errors.values())), max(map(len, errors.values()))})))
                axes.errorbar(
                    list(errors),
                    means,
                    yerr=[std or 0.0 for std in stds],
                    fmt="--" if family.startswith("plain") else "-",
                    color=f"C{colour}",
                    lw=1.6,
                    capsize=3,
                    label=f"{family} (n={n})",
                )
                for at, values in errors.items():
                    axes.plot([at] * len(values), values, ".", ms=6, alpha=0.5, color=f"C{colour}")
            figure.by_depth(axes, "depth (weighted layers)")
            axes.set(title=title, xticks=sorted(set().union(*families.values())))
            figure.from_zero(axes)
        row[0].set_ylabel("error (%)")
        row[0].legend()
