"""Runs a table or figure of the papers again: `python -m resjax.papers NAME`, with a NAME from the list.

    python -m resjax.papers list
    python -m resjax.papers v2-table1 --data=digits --seeds=5 --workdir=runs/v2-table1

Runs what a table still lacks as a sweep, and writes table.md, table.csv, table.json and the figures. It may be
repeated. See `resjax.sweep` for jobs, launchers and exit codes. Every row can be run; the list says which ever was,
on which data and how long, from the runs in `results/`.
"""

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

import shlex
import textwrap
from pathlib import Path

from absl import flags

from resjax import cli
from resjax.errors import INTERRUPTED, BadInput, unknown
from resjax.papers import TABLES, Table, status
from resjax.papers.judge import judge, views
from resjax.papers.recipe import CONFIGS, sweep
from resjax.papers.report import Report
from resjax.sweep.conduct import conduct, define, say
from resjax.sweep.definition import MOST_SEEDS
from resjax.sweep.plan import Run, plan

RESULTS = CONFIGS.parent / "results"


def define_all(values: flags.FlagValues) -> None:
    flags.DEFINE_string("data", None, "The data set; the paper's own by default.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "Where prepared data sets are.", flag_values=values)
    flags.DEFINE_list("rows", None, "Only these rows.", flag_values=values)
    flags.DEFINE_integer("seeds", None, "Runs of each row; by default as many as the paper's.", flag_values=values)
    flags.DEFINE_float("budget", 1.0, "Part of every schedule's length to run, in (0, 1].", flag_values=values)
    define(values)


def main(argv: list[str]) -> int:
    if argv[:1] == ["list"]:
        cli.parse(argv[1:], lambda values: None, config=False)
        print(listing(RESULTS))
        return 0
    name = argv.pop(0) if argv and not argv[0].startswith("-") else ""
    values = cli.parse(argv, define_all, config=False)
    if not name:
        raise BadInput("NAME is missing: give a table, such as v1-table6; python -m resjax.papers list shows them")
    if name not in TABLES:
        raise BadInput(unknown("table", name, [*TABLES, "list"]))
    table = TABLES[name]
    data = values.data or table.data[0]
    if data not in table.data:
        raise BadInput(unknown("--data", data, table.data) + f" for {name}")
    seeds = table.seeds if values.seeds is None else values.seeds
    if not 1 <= seeds <= MOST_SEEDS:
        raise BadInput(f"--seeds={seeds}: must be at least 1 and at most {MOST_SEEDS}")
    rows = [row.name for row in table.rows]
    for row in values.rows or []:
        if row not in rows:
            raise BadInput(unknown_row(row, table))
    if values.rows == []:
        raise BadInput("--rows is empty: give names, or leave it out for all")

    default = Path("runs") / (name if data == table.data[0] else f"{name}-{data}")
    workdir = Path(values.workdir or default)
    each = {row: max(seeds, table.ensemble.members.count(row) if table.ensemble else 0) for row in rows}
    whole, taken = sweep(table, data, max(each.values()), values.data_dir, values.budget)
    runs = plan(whole, workdir)
    wanted = values.rows or (values.seeds is None and table.quick) or rows
    chosen = [run for run in runs if any(run.variant == taken[row] and run.seed < each[row] for row in wanted)]
    command = shlex.join(["python", "-m", "resjax.papers", name, *argv])
    report = Report(table, data, values.budget, taken, command)
    code = conduct(runs, chosen, workdir, values, report.write, table.jobs)
    if not values.dry_run:
        if values.launcher == "local" and code != INTERRUPTED and (views(table, data) or table.ensemble):
            code = max(code, judge(table, data, runs, taken, workdir))
            print(report.write(runs, workdir), end="")
        draw(table, runs, taken, workdir, values.budget)
    return code


def unknown_row(name: str, table: Table) -> str:
    """One line for a row that the table lacks, with the rows whose names or labels contain it, or the nearest."""
    alike = [row.name for row in table.rows if name.lower() in f"{row.name} {row.label}".lower()]
    if name and alike:
        return f"--rows={name!r} is unknown; did you mean {', '.join(alike)}?"
    return unknown("--rows", name, [row.name for row in table.rows])


def listing(results: Path) -> str:
    """Every table with what it shows, and its rows by how far the records in `results` say that they were run."""
    records = status.recorded(results)
    width = max(map(len, TABLES)) + 2
    lines, whole, total = [], 0, 0

    def add(text: str, name: str = "") -> None:
        first, *rest = textwrap.wrap(text, 80 - width, break_on_hyphens=False)
        lines.extend([name.ljust(width) + first, *(" " * width + line for line in rest)])

    for name, table in TABLES.items():
        add(f"{table.what}; {len(table.rows)} rows", name)
        by_status: dict[str, list[str]] = {}
        for row in table.rows:
            runs = status.ran(table, row, records)
            by_status.setdefault("; ".join(map(str, runs)) or "not run", []).append(row.name)
            if table.data[0] != "digits":
                total += 1
                whole += any(run.data == table.data[0] and run.share == 1 for run in runs)
        for text, rows in sorted(by_status.items(), key=lambda item: item[0] == "not run"):
            add(f"{text}: {', '.join(rows)}")
    lines.append("v1 Table 1, Fig. 5: counted by python -m resjax.describe --compare=vgg-16,vgg-19")
    lines.append(f"{whole} of {total} rows were run at full length on the papers' data, says results/")
    return "\n".join(lines)


def draw(table: Table, runs: list[Run], taken: dict[str, str], workdir: Path, budget: float) -> None:
    """Draws the table's pictures from the finished runs of each row."""
    finished: dict[str, list[Path]] = {}
    for run in runs:
        if run.summary():
            finished.setdefault(run.variant, []).append(run.workdir)
    note = f"budget: {budget:g} of every schedule's length" if budget != 1 else ""
    for picture in table.pictures:
        rows = [row for row in table.rows if row.name in picture.rows or not picture.rows]
        own = {row.label: finished[taken[row.name]] for row in rows if taken[row.name] in finished}
        if own:
            picture.draw(own, workdir / picture.file, note)
            say(f"picture  {workdir / picture.file}")


if __name__ == "__main__":
    cli.run(main)
