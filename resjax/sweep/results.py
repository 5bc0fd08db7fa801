"""A sweep's result, read from the runs' own summaries: table.md, table.csv, table.json and plot.png."""

import csv
import dataclasses
import io
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from resjax import files, markdown
from resjax.errors import NON_FINITE
from resjax.sweep.plan import Run

# What a run may have measured, by its name in a summary, as a column's head.
ERRORS = {
    "validation": "validation error",
    "validation_ema": "validation error of averaged weights",
    "test": "test error",
    "test_ema": "test error of averaged weights",
    "train_clean": "clean training error",
    "train": "training error",
}


@dataclasses.dataclass(frozen=True)
class Result:
    """What the seeds of one variant gave: lists have one value for every finished run, errors are in percent.

    `train_error` is over the last interval between evaluations, with augmentation, while the weights moved;
    `train_clean_error` is of the whole split after the last step; without `config.eval_train` there is none.
    """

    name: str
    params: int | None
    data: str
    summaries: dict[int, dict[str, Any]]  # by seed, of finished runs
    failed: int
    diverged: int
    error: str

    @property
    def n(self) -> int:
        """Finished runs."""
        return len(self.summaries)

    @property
    def steps(self) -> int | None:
        """The length of the finished runs; None if there are none."""
        return next((summary["steps"] for summary in self.summaries.values()), None)

    @property
    def seeds(self) -> list[int]:
        return list(self.summaries)

    @property
    def test_error(self) -> list[float]:
        return self.errors("test")

    @property
    def top5_error(self) -> list[float]:
        return self.errors("test", "accuracy_top5")

    @property
    def train_error(self) -> list[float]:
        return self.errors("train")

    @property
    def train_clean_error(self) -> list[float]:
        return self.errors("train_clean")

    @property
    def seconds(self) -> list[float]:
        return [summary["seconds"] for summary in self.summaries.values()]

    def errors(self, measure: str, metric: str = "accuracy") -> list[float]:
        """What a name in `ERRORS` came to."""
        field = f"{measure}_{metric}"
        return [100 * (1 - summary[field]) for summary in self.summaries.values() if field in summary]

    def row(self, measures: Iterable[str]) -> dict[str, Any]:
        """One row of the table, with these of `ERRORS`; a value that is not known is None."""
        row: dict[str, Any] = {"name": self.name, "n": self.n, "failed": self.failed}
        for measure in measures:
            row[f"{measure}_error_mean"], row[f"{measure}_error_std"] = spread(self.errors(measure))
        row |= {"params": self.params, "steps": self.steps, "seconds": spread(self.seconds)[0]}
        return row | {"error": self.error}


def collect(runs: Iterable[Run]) -> list[Result]:
    """Reads the outcome of every run, variant by variant."""
    by_variant: dict[str, list[Run]] = {}
    for run in runs:
        by_variant.setdefault(run.variant, []).append(run)
    return [_result(name, group) for name, group in by_variant.items()]


def measured(results: Sequence[Result]) -> list[str]:
    """The names in `ERRORS` that a table shows: what every run has, and what any of them had evaluated."""
    return [m for m in ERRORS if m in ("test", "train") or any(result.errors(m) for result in results)]


def spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (over n - 1); None where there are too few values."""
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def show(values: Sequence[float]) -> str:
    """`mean ± std`, the mean alone for one value, nothing for none."""
    mean, std = spread(values)
    if mean is None:
        return ""
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def whole(value: float | None) -> str:
    """A whole number with commas; empty for None."""
    return "" if value is None else f"{value:,.0f}"


def write(runs: list[Run], workdir: Path) -> str:
    """Writes the tables and the plot of the results so far, and returns the table in Markdown."""
    results = collect(runs)
    total, finished = len(runs), sum(result.n for result in results)
    head = (
        f"{finished} of {total} runs are finished. Errors in percent, mean ± sample standard\n"
        "deviation over n seeds; training errors are of the last interval between\n"
        "evaluations, with augmentation."
    )
    measures = measured(results)
    columns = ["run", "n", *(ERRORS[m] for m in measures), "parameters", "steps", "seconds", "error"]
    rows = [
        [
            *(result.name, str(result.n), *(show(result.errors(measure)) for measure in measures)),
            *(whole(result.params), whole(result.steps), whole(spread(result.seconds)[0]), result.error),
        ]
        for result in results
    ]
    if not any(result.error for result in results):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    json_rows = [
        result.row(measures) | {"seeds": result.seeds} | {f"{m}_errors": result.errors(m) for m in measures}
        for result in results
    ]
    csv_rows = [result.row(measures) for result in results]
    table = write_tables(workdir, head, columns, rows, csv_rows, json_rows)
    plot(results, workdir / "plot.png")
    return table


def write_tables(
    workdir: Path,
    head: str,
    columns: list[str],
    rows: list[list[str]],
    csv_rows: list[dict[str, Any]],
    json_rows: list[dict[str, Any]],
) -> str:
    """Writes table.md (`columns` and `rows` under `head`), table.csv and table.json; returns the first."""
    table = f"{head}\n\n{markdown.table(columns, rows)}\n"
    (workdir / "table.md").write_text(table)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(csv_rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_rows)
    (workdir / "table.csv").write_text(text.getvalue())
    files.write_json(workdir / "table.json", {"head": head, "rows": json_rows})
    return table


def plot(results: Sequence[Result], path: Path) -> None:
    """Writes a PNG: every run's test error as a point, and mean ± standard deviation as a bar above the points."""
    from resjax.analysis.figure import panels  # matplotlib takes a second to import

    caption = f"{about(results)}; points are runs, bars mean ± sample standard deviation over n seeds"
    with panels(path, 1, 1, (7, 1.5 + 0.4 * len(results)), caption) as [[axes]]:
        for y, result in enumerate(results):
            mean, std = spread(result.test_error)
            if mean is not None:
                axes.errorbar(mean, y, xerr=std, fmt="|", ms=12, color=f"C{y % 10}", capsize=4)
                axes.plot(result.test_error, [y + 0.2] * result.n, "o", ms=4, alpha=0.6, color=f"C{y % 10}")
        axes.set_yticks(range(len(results)), [f"{result.name} (n={result.n})" for result in results])
        axes.set(xlabel="test error (%)", ylim=(len(results) - 0.5, -0.5))


def about(results: Iterable[Result]) -> str:
    """Data and length of the finished runs, once if all are alike: `digits, 561 steps`."""
    by_length: dict[str, list[str]] = {}
    for result in results:
        if result.steps:
            by_length.setdefault(f"{result.data}, {result.steps:,} steps", []).append(result.name)
    if len(by_length) < 2:
        return next(iter(by_length), "nothing is finished")
    return "; ".join(f"{', '.join(names)}: {length}" for length, names in by_length.items())


def _result(name: str, runs: list[Run]) -> Result:
    summaries = {run.seed: summary for run in runs if (summary := run.summary())}
    errors = {run.seed: error for run in runs if (error := run.error())}
    diverged = sum(run.seed in errors and run.exit_code() == NON_FINITE for run in runs)
    return Result(
        name=name,
        params=runs[0].params,
        data=runs[0].config.data.name,
        summaries=summaries,
        failed=len(errors),
        diverged=diverged,
        error="; ".join(
            f"seed {', '.join(str(s) for s in errors if errors[s] == error)}: {error}"
            for error in dict.fromkeys(errors.values())
        ),
    )
