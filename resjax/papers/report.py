"""A table with the paper's numbers beside ours; a row that was not run has an empty cell."""

import dataclasses
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resjax.papers import judge
from resjax.papers.table import Row, Table
from resjax.papers.v2 import FAIL_ABOVE
from resjax.sweep.plan import Run
from resjax.sweep.results import Result, collect, show, spread, whole, write_tables

WIDTH = 116  # of what is read in a terminal, too


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes the tables of one table on one data set.

    Attributes:
      taken: row -> the variant whose runs it takes.
      command: the command that made it, for the head.
    """

    table: Table
    data: str
    budget: float
    taken: dict[str, str]
    command: str

    def write(self, runs: list[Run], workdir: Path) -> str:
        """Writes table.md, table.csv and table.json of the results so far, and returns the first."""
        results = {result.name: self.judged(result, runs) for result in collect(runs)}
        arguments = {run.variant: run.arguments for run in runs}
        clean = any(result.train_clean_error for result in results.values())
        columns = [
            *("row", "paper", "ours"),
            *(["ours, clean training"] if clean else []),
            *(["ours, training"] if self.table.training else []),
            *(["ours, validation"] if self.table.validation else []),
            *("parameters", "steps", "note"),
        ]
        lowest, why = self.lowest(results)
        rows, records, long_records = [], [], []
        pairs = [(row, results[self.taken[row.name]]) for row in self.table.rows]
        if self.table.ensemble:
            members = judge.members(self.table, runs, self.taken)
            pairs.append((self.table.ensemble.row, self.together(members, workdir)))
            arguments["ensemble"] = tuple(f"--workdir={run.workdir}" for run in members)
        for row, result in pairs:
            note = self._note(row, result)
            if row.name == lowest:
                note = "; ".join(filter(None, [why, note]))
            also = [show(result.train_clean_error)] if clean else []
            also += [show(result.train_error)] if self.table.training else []
            also += [show(result.errors("validation"))] if self.table.validation else []
            size = f"{whole(result.params)} (paper {row.size})" if row.size else whole(result.params)
            cells = [row.label, str(row.published), self.cell(row, result), *also, size, whole(result.steps), note]
            rows.append(cells)
            record = self._record(row, result, note)
            records.append(record)
            long_records.append(
                record
                | {
                    "network": row.network,
                    "arguments": arguments[result.name],
                    "statistic_paper": row.published.statistic,
                    "seeds": result.seeds,
                    "test_errors": result.test_error,
                    "train_errors": result.train_error,
                    "train_clean_errors": result.train_clean_error,
                    "validation_errors": result.errors("validation"),
                    "device": sorted({s["device"] for s in result.summaries.values()}),
                }
            )
        return write_tables(workdir, self.head(), columns, rows, records, long_records)

    def judged(self, result: Result, runs: Sequence[Run]) -> Result:
        """The result over the table's views, of the runs that were judged so; where it has none, as it is."""
        if not (views := judge.views(self.table, self.data)):
            return result
        own = {run.seed: judge.read(judge.kept(run, views), [run]) for run in runs if run.variant == result.name}
        summaries = {seed: summary | found for seed, summary in result.summaries.items() if (found := own[seed])}
        return dataclasses.replace(result, summaries=summaries)

    def together(self, members: Sequence[Run], workdir: Path) -> Result:
        """The result of the ensemble, if it was judged; its seconds are those of all its members."""
        summaries = {}
        if found := judge.read(workdir / judge.ENSEMBLE, members):
            costs = [summary for run in members if (summary := run.summary())]
            cost = {"steps": costs[0]["steps"], "seconds": sum(one["seconds"] for one in costs)}
            summaries[0] = found | cost | {"device": costs[0]["device"]}
        return Result("ensemble", None, self.data, summaries, failed=0, diverged=0, error="")

    def head(self) -> str:
        """What the table shows, on which data, under which budget."""
        own, table = self.table.data[0], self.table
        lines = [f"Paper: {table.source}."]
        if table.note:
            lines.append(table.note)
        lines.append(
            "Ours: test error in percent after the last step, in the paper's statistic first, and always as mean ± "
            "sample standard deviation (n runs)."
            + (" Training errors are of the last interval between evaluations, with augmentation." * table.training)
            + (
                " The last tenth of the training split is held out; choose by the errors on it alone."
                * table.validation
            )
        )
        if views := judge.views(self.table, self.data):
            lines.append(f"Views: {views}, as `python -m resjax.evaluate --views={views}` has them.")
        elif self.table.views:
            lines.append("Views: the centre of every image, once, where the paper has many.")
        if self.data == "cifar10":
            lines.append(f"fail: the median run ends above {FAIL_ABOVE:.0f} % test error on CIFAR-10 (v2 Table 1).")
        if self.data != own:
            lines.append(
                f"Data: {self.data} with its own schedule, not the paper's {own}: compare orders, not numbers."
            )
        else:
            lines.append(f"Data: {self.data}.")
        if self.budget != 1:
            lines.append(f"Budget: {self.budget:g}; every schedule is cut to this part of its length.")
        filled = (textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False) for line in lines)
        return "\n".join([f"# {table.name}: {table.what}", "", *filled, "", f"    {self.command}"])

    def lowest(self, results: dict[str, Result]) -> tuple[str, str]:
        """The row with the lowest mean validation error, and that as a note; nothing before two rows have run."""
        means = {
            row.name: statistics.fmean(errors)
            for row in self.table.rows
            if self.table.validation and (errors := results[self.taken[row.name]].errors("validation"))
        }
        if len(means) < 2:
            return "", ""
        return min(means, key=means.__getitem__), f"the lowest validation error of {len(means)} rows"

    def cell(self, row: Row, result: Result) -> str:
        """Ours: `mean ± std (n)`, after the paper's own statistic; "fail" before it where the paper would say so.

        Empty where nothing ran.
        """
        number = show(result.test_error)
        if any(row.published.top5 is not None for row in self.table.rows) and result.n:
            number += f" / {show(result.top5_error)}"
        number += f" ({result.n})" if result.n else ""
        if result.n > 1 and row.published.kind == "median":
            number = f"median {statistics.median(result.test_error):.2f}, mean {number}"
        if result.n > 1 and row.published.kind == "mean":
            number = f"mean {number}"
        if result.n > 1 and row.published.best is not None:
            number += f", best {min(result.test_error):.2f}"
        return f"fail {number}".strip() if self.failed(result) else number

    def failed(self, result: Result) -> bool:
        """True if the median run is above 20 % on CIFAR-10; a diverged run counts as 100 %.

        On other data, or under a budget, errors above 20 % are no failure: only divergence counts.
        """
        errors = [*result.test_error, *[100.0] * result.diverged]
        limit = FAIL_ABOVE if result.data == "cifar10" and self.budget == 1 else 99.99
        return bool(errors) and statistics.median(errors) > limit

    def _note(self, row: Row, result: Result) -> str:
        notes = [row.note]
        if result.name != row.name:
            shared = next(other.label for other in self.table.rows if other.name == result.name)
            notes.append(f"the runs of {shared!r}")
        if result.diverged:
            notes.append(f"{result.diverged} diverged")
        if result.failed > result.diverged:
            notes.append(result.error)
        return "; ".join(filter(None, notes))

    def _record(self, row: Row, result: Result, note: str) -> dict[str, Any]:
        published = row.published
        mean, std = spread(result.test_error)
        top5, top5_std = spread(result.top5_error) if published.top5 is not None else (None, None)
        train, train_std = spread(result.train_error)
        clean, clean_std = spread(result.train_clean_error)
        return {
            "row": row.name,
            "label": row.label,
            "paper": published.top1,
            "paper_mean": published.mean,
            "paper_std": published.std,
            "paper_best": published.best,
            "paper_top5": published.top5,
            "paper_words": published.words,
            "n": result.n,
            "mean": mean,
            "std": std,
            "median": statistics.median(result.test_error) if result.n else None,
            "top5_mean": top5,
            "top5_std": top5_std,
            "train_mean": train,
            "train_std": train_std,
            "train_clean_mean": clean,
            "train_clean_std": clean_std,
            "fail": self.failed(result),
            "params": result.params,
            "steps": result.steps,
            "seconds": spread(result.seconds)[0],
            "note": note,
        }
