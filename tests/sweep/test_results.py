"""The table's numbers against numbers worked out by hand."""

import csv
import json

import pytest

from resjax import markdown
from resjax.analysis import figure
from resjax.sweep import Sweep
from resjax.sweep.plan import plan
from resjax.sweep.results import Result, about, spread, write


@pytest.fixture
def runs(tmp_path):
    """Three finished runs with 4, 6 and 11 % test error, one of another variant, one that is not there."""
    found = plan(Sweep("configs/digits.py:v1-8", {"A": {}, "B": {"model.shortcut": "B"}}, (0, 1, 2)), tmp_path)
    accuracy = {"A/seed0": 0.96, "A/seed1": 0.94, "A/seed2": 0.89, "B/seed1": 0.5}
    for run in found:
        if run.name in accuracy:
            run.workdir.mkdir(parents=True)
            (run.workdir / "config.json").write_text(json.dumps({"total_epochs": 50.0}))
            summary = {"test_accuracy": accuracy[run.name], "train_accuracy": 0.75, "seconds": 10.0 + run.seed}
            summary |= {"test_accuracy_top5": 1.0, "images_per_second": 100.0, "params": 9, "device": "1 x cpu"}
            (run.workdir / "summary.json").write_text(json.dumps(summary | {"steps": 22, "state_digest": "0"}))
    return found


def test_mean_and_sample_deviation(runs, tmp_path):
    write(runs, tmp_path)
    a, b = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert a["n"] == 3
    assert a["test_error_mean"] == pytest.approx(7.0)
    assert a["test_error_std"] == pytest.approx(((9 + 1 + 16) / 2) ** 0.5)  # over n - 1
    assert (a["train_error_mean"], a["train_error_std"]) == (25.0, 0.0)
    assert (a["params"], a["seconds"], a["test_errors"]) == (75002, 11.0, pytest.approx([4.0, 6.0, 11.0]))
    assert (b["n"], b["seeds"], b["test_error_mean"], b["test_error_std"]) == (1, [1], 50.0, None)


def test_the_three_tables_agree(runs, tmp_path):
    table = write(runs, tmp_path)
    assert table == (tmp_path / "table.md").read_text()
    assert table.startswith("4 of 6 runs are finished.")
    assert "| A   | 3 | 7.00 ± 3.61 | 25.00 ± 0.00   | 75,002     | 22    | 11      |\n" in table
    assert "| B   | 1 | 50.00       | 25.00          | 77,754     | 22    | 11      |\n" in table
    with (tmp_path / "table.csv").open() as file:
        a, b = csv.DictReader(file)
    assert (float(a["test_error_mean"]), b["test_error_std"], b["params"]) == (pytest.approx(7.0), "", "77754")
    assert (a["steps"], a["error"]) == ("22", "")


def test_errors_that_some_runs_have_evaluated(runs, tmp_path):
    """On a validation split, or on the clean training set: a column each, over the runs that have it."""
    for run, accuracy in zip(runs, (0.875, 0.625), strict=False):
        path = run.workdir / "summary.json"
        found = json.loads(path.read_text()) | {"validation_accuracy": accuracy, "train_clean_accuracy": 1.0}
        path.write_text(json.dumps(found))
    table = write(runs, tmp_path)
    assert "| run | n | validation error | test error  | clean training error | training error |" in table
    assert "| A   | 3 | 25.00 ± 17.68    | 7.00 ± 3.61 | 0.00 ± 0.00          | 25.00 ± 0.00   |" in table
    assert "| B   | 1 |                  | 50.00       |                      | 25.00          |" in table
    a, b = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert (a["validation_errors"], a["validation_error_mean"]) == ([12.5, 37.5], 25.0)
    assert (b["validation_errors"], b["train_clean_error_mean"]) == ([], None)


def test_nothing_has_run(tmp_path):
    runs = plan(Sweep("configs/digits.py:v1-8", {"A": {}}), tmp_path)
    assert "| A   | 0 |            |                | 75,002     |       |         |\n" in write(runs, tmp_path)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ({}, "nothing is finished"),
        ({"A": 22, "B": 22}, "digits, 22 steps"),
        ({"A": 22, "B": 1220, "C": None}, "A: digits, 22 steps; B: digits, 1,220 steps"),
    ],
)
def test_the_caption_says_data_and_length(lengths, expected):
    results = [
        Result(name, 1, "digits", {0: {"steps": steps}} if steps else {}, 0, 0, "")
        for name, steps in lengths.items()
    ]
    assert about(results) == expected


def test_the_plot_has_its_caption(runs, tmp_path, monkeypatch):
    captions, drawn = [], figure.panels

    def panels(path, rows, columns, size, caption):
        captions.append(caption)
        return drawn(path, rows, columns, size, caption)

    monkeypatch.setattr(figure, "panels", panels)
    write(runs, tmp_path)
    assert captions == ["digits, 22 steps; points are runs, bars mean ± sample standard deviation over n seeds"]


def test_spread():
    assert spread([]) == (None, None)
    assert spread([3.0]) == (3.0, None)
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))


def test_markdown_lines_up():
    assert markdown.table(["a", "bc"], [["x|y", ""]]) == "| a    | bc |\n|------|----|\n| x\\|y |    |"
