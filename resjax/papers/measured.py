"""What was measured, kept as raw summaries in `results/`, and the tables made from them.

    python -m resjax.papers.measured --add=NAME --workdir=W --title="..." --command="..." --hardware="..."
    python -m resjax.papers.measured

The first copies the summary of every finished run below W (the folder of a run, sweep or table), and the config of
every variant, into `results/NAME.json`; with `--benchmark=FILE` it copies what
`python -m resjax.benchmark --out=FILE` wrote, with `--drill=FILE` the drill.json of `python -m resjax.drill`. Both
rewrite `results/README.md`, a table for each record, and the table of both READMEs, between its marks: no number is
entered by hand. It works only in a checkout of the repository.
"""

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

import json
import re
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from resjax import checks, cli, files, markdown
from resjax.benchmark import pipeline
from resjax.benchmark import report as suite
from resjax.config import plain, restored
from resjax.drill import report
from resjax.errors import BadInput
from resjax.sweep.results import ERRORS, show
from resjax.train import summary as run_summary

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
READMES = ("README.md", "README.zh.md")
HEAD = """\
# Measured

Made from the raw summaries beside this file by `python -m resjax.papers.measured`. Errors are mean ± sample
standard deviation (n seeds) after the last step; training errors are of the last interval between evaluations, with
augmentation, and clean ones of the whole training split after the last step, without it.

"""
MARKS = "<!-- speed: begin -->\n", "<!-- speed: end -->\n"


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("add", None, "The name of a new record in results/.", flag_values=values)
    for name, what in {
        "workdir": "The folder of finished runs.",
        "benchmark": "A file of resjax.benchmark.",
        "drill": "A drill.json of resjax.drill.",
        "title": "What was measured.",
        "command": "The command that did it.",
        "hardware": "The machine, and what else it did.",
    }.items():
        flags.DEFINE_string(name, "", what, flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, define, config=False)
    if values.add:
        about = {name: getattr(values, name) for name in ("title", "command", "hardware")}
        for name, text in about.items():
            if not text:
                raise BadInput(f"--{name} is missing: give it, because a figure means nothing without it")
        RESULTS.mkdir(exist_ok=True)
        copied = [kind for kind in ("benchmark", "drill") if getattr(values, kind)]
        content: dict[str, Any] = {kind: files.read_json(Path(getattr(values, kind))) for kind in copied}
        if not copied:
            runs, configs = collect(Path(values.workdir))
            content = {"runs": runs, "configs": configs}
        files.write_json(RESULTS / f"{values.add}.json", about | content)
    files.replace(RESULTS / "README.md", HEAD + section(RESULTS))
    for name in READMES:
        files.replace(ROOT / name, fill((ROOT / name).read_text(), speed(RESULTS), name))
    print(f"wrote {RESULTS / 'README.md'} and the table of {' and '.join(READMES)}", file=sys.stderr)


def collect(workdir: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, Any]]]:
    """The summaries of the finished runs below a folder and one config, by variant: the folder above the seed's.

    Raises:
      BadInput: if there is none, or if runs of one variant differ in more than the seed.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    configs: dict[str, ConfigDict] = {}
    for run in sorted(path.parent for path in workdir.rglob(run_summary.NAME)):
        name = run.parent.name if run.name.startswith("seed") else run.name
        if found := run_summary.read(run):
            config = restored(files.read_json(run / "config.json"), run / "config.json")
            config.seed, config.data.dir = 0, ""  # in which the variant's runs differ, and a folder of ours
            if changed := checks.differences(configs.setdefault(name, config), config):
                raise BadInput(f"--workdir={workdir}: two runs are named {name} ({changed[0]}); add one at a time")
            runs.setdefault(name, []).append(found)
    if not runs:
        raise BadInput(f"--workdir={workdir} holds no finished run; give the folder of a run, sweep or table")
    return runs, {name: plain(config) for name, config in configs.items()}


def section(results: Path) -> str:
    """Every record as Markdown: a title, a table, the machine and the command."""
    parts = []
    for path in sorted(results.glob("*.json")):
        record = json.loads(path.read_text())
        if "benchmark" in record:
            found = record["benchmark"]
            table = benchmark(found)
        elif "drill" in record:
            table = report.text(record["drill"]).rstrip("\n")
        else:
            table = runs_table(record["runs"])
        parts.append(f"**{record['title']}** ({record['hardware']})\n\n{table}\n\n    {record['command']}\n")
    return "\n".join(parts)


def speed(results: Path) -> str:
    """Every benchmark of one config in a line."""
    rows = []
    for path in sorted(results.glob("benchmark-*.json")):
        found = json.loads(path.read_text())["benchmark"]
        ratios = [
            f"{found[ratio]:.2f}" if ratio in found else "" for ratio in ("ratio_to_flax", "ratio_to_pytorch")
        ]
        rows.append(
            [
                found["network"],
                re.sub(r"\(R\)| Processor", "", found["processor"]),
                found["versions"]["jax"],
                f"{1e3 * found['step_seconds']:.1f}",
                f"{found['images_per_second']:,.0f}",
                *ratios,
                f"{found['save_step_ratio']:.2f}",
                f"{1e-6 * found['peak_memory_bytes']:,.0f}",
            ]
        )
    columns = [
        "",
        "CPU",
        "JAX",
        "step, ms",
        "images/s",
        "x stock Flax",
        "x PyTorch",
        "step while saving",
        "memory, MB",
    ]
    return f"{markdown.table(columns, rows)}\n"


def runs_table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Errors as mean ± sample standard deviation (test: n), size and wall time of every variant.

    Errors on the clean training set and on a validation split have a column if any run has them.
    """

    def errors(summaries: list[dict[str, Any]], measure: str) -> list[float]:
        return [100 * (1 - s[f"{measure}_accuracy"]) for s in summaries if f"{measure}_accuracy" in s]

    others = [m for m in ERRORS if m == "train" or (m != "test" and any(errors(s, m) for s in runs.values()))]
    rows = []
    for name, summaries in runs.items():
        test = errors(summaries, "test")
        rows.append(
            [
                name,
                f"{show(test)} ({len(test)})",
                *(show(errors(summaries, measure)) for measure in others),
                f"{summaries[0]['params']:,}",
                f"{summaries[0]['steps']:,}",
                f"{sum(s['seconds'] for s in summaries) / len(summaries):.0f}",
                f"{sum(s['images_per_second'] for s in summaries) / len(summaries):,.0f}",
            ]
        )
    heads = ["run", "test error, % (n)", *(f"{ERRORS[measure]}, %" for measure in others)]
    return markdown.table([*heads, "parameters", "steps", "seconds", "images/s"], rows)


def benchmark(found: dict[str, Any]) -> str:
    """The table of a suite, of the input, or of one config."""
    if "suite" in found:
        return suite.table(found)
    return pipeline.table(found) if "stage_seconds" in found else benchmark_table(found)


def benchmark_table(found: dict[str, Any]) -> str:
    """One benchmark, one line per figure; what was not measured is left out."""
    lines = {
        "compile_seconds": ("compilation, s", "{:.1f}"),
        "first_step_seconds": ("first step after the start of the process, s", "{:.1f}"),
        "step_seconds": ("median step, ms", "{:.1f}"),
        "images_per_second": ("images/s", "{:,.0f}"),
        "loop_overhead": ("the loop over the bare step, %", "{:.1f}"),
        "input_wait": ("waiting for input, %", "{:.2f}"),
        "save_step_ratio": ("a step while a checkpoint is saved, over one by itself", "{:.2f}"),
        "peak_memory_bytes": ("peak memory, MB", "{:,.0f}"),
        "forward_seconds": ("forward, ms", "{:.1f}"),
        "gradient_seconds": ("forward and backward, ms", "{:.1f}"),
        "flax_step_seconds": ("stock Flax, median step, ms", "{:.1f}"),
        "ratio_to_flax": ("ratio to stock Flax (above 1: resjax is faster)", "{:.2f}"),
        "pytorch_step_seconds": ("PyTorch, median step, ms", "{:.1f}"),
        "ratio_to_pytorch": ("ratio to PyTorch (above 1: resjax is faster)", "{:.2f}"),
    }
    scale = {"step_seconds": 1e3, "pytorch_step_seconds": 1e3, "flax_step_seconds": 1e3, "peak_memory_bytes": 1e-6}
    scale |= dict.fromkeys(("forward_seconds", "gradient_seconds"), 1e3)
    scale |= dict.fromkeys(("loop_overhead", "input_wait"), 100)
    rows = [
        [label, form.format(found[key] * scale.get(key, 1))]
        for key, (label, form) in lines.items()
        if found.get(key) is not None
    ]
    return markdown.table(["", f"{found['network']}, batch {found['batch_size']}"], rows)


def fill(text: str, table: str, name: str) -> str:
    """A README with the table between the marks.

    Raises:
      BadInput: if the marks are missing.
    """
    begin, end = MARKS
    before, there, rest = text.partition(begin)
    _, also, after = rest.partition(end)
    if not (there and also):
        raise BadInput(f"{name}: the lines {begin.strip()} and {end.strip()} are missing; put them back")
    return f"{before}{begin}\n{table}\n{end}{after}"


if __name__ == "__main__":
    cli.run(main)
