"""The tables are what the raw summaries in results/ say."""

import json
import re

import pytest

from resjax.config import default, plain
from resjax.errors import BadInput
from resjax.papers import measured


def test_the_files_are_made_from_the_results():
    for name in measured.READMES:
        readme = (measured.ROOT / name).read_text()
        assert measured.fill(readme, measured.speed(measured.RESULTS), name) == readme
    every = measured.section(measured.RESULTS)
    assert (measured.RESULTS / "README.md").read_text() == measured.HEAD + every
    for path in measured.RESULTS.glob("*.json"):
        assert json.loads(path.read_text())["title"] in every


def test_every_benchmark_of_one_config_has_a_line():
    lines = measured.speed(measured.RESULTS).splitlines()[2:]
    assert len(lines) == len(list(measured.RESULTS.glob("benchmark-*.json"))) >= 5


def test_table_of_runs(tmp_path):
    for seed, accuracy in enumerate((0.96, 0.98)):
        folder = tmp_path / "runs" / "A" / f"seed{seed}"
        folder.mkdir(parents=True)
        summary = {"test_accuracy": accuracy, "train_accuracy": 1.0, "params": 1234, "steps": 5}
        summary |= {"test_accuracy_top5": 1.0, "device": "1 x cpu", "state_digest": "0"}
        (folder / "summary.json").write_text(
            json.dumps(summary | {"seconds": 10 * seed, "images_per_second": 1000})
        )
        config = default()
        config.seed, config.data.dir, config.data.workers = seed, "/ours", seed
        (folder / "config.json").write_text(json.dumps(plain(config)))
    runs, configs = measured.collect(tmp_path)
    assert (configs.keys(), configs["A"]["data"]["dir"]) == ({"A"}, "")
    table = measured.runs_table(runs)
    cells = [cell.strip() for cell in table.splitlines()[-1].strip("|").split("|")]
    assert cells == ["A", "3.00 ± 1.41 (2)", "0.00 ± 0.00", "1,234", "5", "5", "1,000"]

    config.batch_size = 64
    (folder / "config.json").write_text(json.dumps(plain(config)))
    with pytest.raises(BadInput, match=r"two runs are named A \(batch_size: 128 there, 64 here\)"):
        measured.collect(tmp_path)


def test_errors_that_some_runs_have_evaluated():
    usual = {"test_accuracy": 0.5, "train_accuracy": 0.75, "params": 9, "steps": 5, "seconds": 1.0}
    usual |= {"images_per_second": 1.0}
    more = usual | {"train_clean_accuracy": 0.875, "validation_accuracy": 0.25}
    head, _, *rows = measured.runs_table({"a": [usual], "b": [more, more]}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *rows)]
    assert cells[0][1:5] == [
        "test error, % (n)",
        "validation error, %",
        "clean training error, %",
        "training error, %",
    ]
    assert cells[1][1:5] == ["50.00 (1)", "", "", "25.00"]
    assert cells[2][1:5] == ["50.00 ± 0.00 (2)", "75.00 ± 0.00", "12.50 ± 0.00", "25.00 ± 0.00"]


def test_every_record_says_how_it_was_made():
    for path in measured.RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        if " resjax.papers " in record["command"]:  # by these configs the list knows which rows were run
            assert record["configs"].keys() == record["runs"].keys()
        assert record["hardware"]
        assert re.search(r"python -m resjax\.\w+ ", record["command"])


def test_errors(tmp_path):
    with pytest.raises(BadInput, match="no finished run"):
        measured.collect(tmp_path)
    with pytest.raises(BadInput, match=r"README\.md: .* put them back"):
        measured.fill("# resjax", "", "README.md")
