"""Which rows were run is read off the configs of the runs in results/."""

import json
import re
import shutil

import pytest

from resjax.config import plain
from resjax.papers import TABLES, measured, status
from resjax.papers.__main__ import listing
from resjax.papers.recipe import sweep
from resjax.sweep.plan import plan
from tests.papers.conftest import SUMMARY

RECORDS = {  # table, row, data, budget, seeds: what is in results/ -> what the list says of the row
    ("v1-table6", "resnet-56", "cifar10", 1.0, 5): "cifar10 at full length, n=5",
    ("v1-table6", "resnet-20", "cifar10", 0.0158, 1): "cifar10 for 1.58 % of its length, n=1",  # drops are rounded
    ("v1-table6", "resnet-32", "digits", 1.0, 2): "digits at full length, n=2",
    ("v2-table5", "preact-152-320", "imagenet2012", 0.1, 3): "imagenet2012 for 10 % of its length, n=3",
}


@pytest.fixture
def results(data_sets, tmp_path):
    """`RECORDS` as files that `resjax.papers.measured --add` would write."""
    for i, (name, row, data, budget, n) in enumerate(RECORDS):
        whole, taken = sweep(TABLES[name], data, n, "D", budget)
        for run in plan(whole, tmp_path / "W"):
            if run.variant == taken[row]:
                run.workdir.mkdir(parents=True)
                (run.workdir / "config.json").write_text(json.dumps(plain(run.resolved)))
                (run.workdir / "summary.json").write_text(json.dumps(SUMMARY | {"state_digest": run.name}))
        runs, configs = measured.collect(tmp_path / "W")
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / f"results/{i}.json").write_text(json.dumps({"runs": runs, "configs": configs}))
        shutil.rmtree(tmp_path / "W")
    # The same runs in the record of another table are no more runs.
    shutil.copy(tmp_path / "results/0.json", tmp_path / "results/again.json")
    return tmp_path / "results"


def test_the_list_says_what_was_run_from_the_records(results):
    records = status.recorded(results)
    for (name, row, *_), text in RECORDS.items():
        [own] = [one for one in TABLES[name].rows if one.name == row]
        assert "; ".join(map(str, status.ran(TABLES[name], own, records))) == text
    listed = listing(results)
    lines = listed.split("v1-table6 ")[1].split("v1-fig1 ")[0]
    assert " ".join(lines.split()).endswith(
        "CIFAR-10; 6 rows cifar10 for 1.58 % of its length, n=1: resnet-20 digits at full length, n=2: resnet-32 "
        "cifar10 at full length, n=5: resnet-56 not run: resnet-44, resnet-110, resnet-1202"
    )
    # A run is every row that has its network and recipe.
    assert "cifar10 at full length, n=5: resnet-56" in listed.split("v1-fig7 ")[1].split("v2-")[0]
    assert re.search(r"\n3 of \d+ rows were run at full length", listed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.bn_group", 0),
        ("optimizer.weight_decay", 5e-4),
        ("data.train_split", "train[:45000]"),
        ("schedule.drop_steps", (30_000, 48_000)),
        ("total_steps", 65_000),
        ("init_from", "runs/other"),
    ],
)
def test_a_run_of_another_recipe_is_not_the_rows(field, value, data_sets, tmp_path):
    whole, _ = sweep(TABLES["v1-table6"], "cifar10", 1)
    run = plan(whole, tmp_path)[0]
    config = run.resolved.copy_and_resolve_references()
    assert status.share_of(run.config, config) == 1
    section, _, name = field.rpartition(".")
    (config[section] if section else config)[name] = value
    assert status.share_of(run.config, config) is None
