"""The command: what it lists, refuses, runs and writes; summaries are written by hand in place of training."""

import csv
import json
import shlex

import pytest

from resjax.config import durations
from resjax.errors import BadInput
from resjax.papers import TABLES
from resjax.papers.__main__ import main
from resjax.papers.recipe import sweep, variant
from resjax.sweep.plan import plan

CIFAR_TABLES = [name for name, table in TABLES.items() if table.data == ("cifar10", "digits")]


def test_list(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in (
        *("v1-table2", "v1-table3", "v1-table4", "v1-table6", "v1-fig1", "v1-fig4", "v1-fig6", "v1-fig7"),
        *("v2-table1", "v2-table2", "v2-table3", "v2-table4", "v2-table5", "v2-fig1", "v2-fig3", "v2-fig6"),
        *("v1-split", "v2-search", "v2-bn-after", "highway-mnist", "degradation"),
    ):
        assert f"\n{name} " in "\n" + out
        assert f"; {len(TABLES[name].rows)} rows " in " ".join(out.split())
    assert "scale-0.5-0.5" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "NAME is missing"),
        (["--seeds=1"], "NAME is missing"),
        (["v2-tabel1"], r"table='v2-tabel1' is unknown; did you mean v2-table1\? \(known: v1-table2, v1-table3, "),
        (["lst"], r"table='lst' is unknown; did you mean list\?"),
        (["v2-table1", "--rows=gate"], r"--rows='gate' is unknown; did you mean gated-0, gated-6\?$"),
        (
            ["v2-table1", "--rows=Gating"],
            "did you mean exclusive-0, exclusive-1, .*, exclusive-7, gated-0, gated-6",
        ),
        (["v2-table1", "--rows=original,exclusive-9"], "--rows='exclusive-9' is unknown; did you mean exclusive-"),
        (["v2-table1", "--rows="], "--rows"),
        (["v2-table1", "--data=cifar"], "--data='cifar' is unknown; did you mean cifar10"),
        (["degradation", "--data=cifar10"], "--data='cifar10' is unknown.*digits"),
        (["v2-table1", "--seeds=0"], "--seeds=0: must be at least 1"),
        (["v2-table1", "--jobs=0"], "--jobs=0: must be at least 1"),
        (["v2-table1", "--budget=0"], r"budget=0.0: must lie in \(0, 1\]"),
        (["v2-table1", "--budget=1.5"], r"budget=1.5: must lie in \(0, 1\]"),
        (["v2-table1", "--budgt=1"], "--budgt is unknown; did you mean --budget"),
        (["list", "--all"], "--all is unknown"),
    ],
)
def test_bad_input(argv, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        main([*argv, f"--workdir={tmp_path / 'W'}"] if "list" not in argv else argv)
    assert not (tmp_path / "W").exists()


@pytest.mark.parametrize("name", ["v1-table2", "v1-table6", "v2-table5"])
def test_a_data_set_that_is_missing(name, tmp_path):
    with pytest.raises(BadInput, match=f"data.name='{TABLES[name].data[0]}"):
        main([name, f"--data_dir={tmp_path}", f"--workdir={tmp_path / 'W'}"])
    assert not (tmp_path / "W").exists()


def test_dry_run_prints_commands_with_the_budget_in_plain_fields(tmp_path, capsys):
    flags = ["--rows=exclusive-6,original", "--seeds=2", "--budget=0.05", "--data_dir=D", "--dry_run"]
    assert main(["v2-table1", *flags, f"--workdir={tmp_path}"]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [line[-1] for line in lines] == [
        f"--workdir={tmp_path}/runs/{row}/seed{seed}" for row in ("original", "exclusive-6") for seed in (0, 1)
    ]
    assert lines[3][0].startswith("PJRT_NPROC=")
    assert sorted(lines[3][4:-1]) == [
        "--config.data.dir=D",
        "--config.model.gate=exclusive",
        "--config.model.gate_bias=-6.0",
        "--config.schedule.drop_steps=(1600,2400)",
        "--config.schedule.warmup_steps=20",
        "--config.seed=1",
        "--config.total_steps=3200",
        "--config=configs/cifar10.py:v1-110",
    ]


@pytest.mark.parametrize("name", ["v2-table1", "degradation"])
def test_a_small_budget_leaves_a_schedule(name, tmp_path):
    whole, _ = sweep(TABLES[name], "digits", 1, budget=0.01)
    assert all(5 < durations(run.config, 1437).total <= 20 for run in plan(whole, tmp_path))


def test_a_budget_of_epochs():
    table = TABLES["v2-table5"]
    overrides = variant(table, table.rows[0], "imagenet2012", budget=0.1).overrides
    assert overrides == {"schedule.drop_epochs": [3.0, 6.0], "total_epochs": 9.0}


def test_a_budget_leaves_a_curve_its_points():
    def every(name, budget):
        table = TABLES[name]
        return variant(table, table.rows[0], "digits", budget=budget).overrides["eval_every_epochs"]

    assert [every("degradation", budget) for budget in (1, 0.1, 0.01)] == [18.0, pytest.approx(1.8), 1.0]
    assert every("claim-speed", 0.1) == 1.0


@pytest.mark.parametrize("name", CIFAR_TABLES)
def test_rows_on_the_digits_are_the_same_networks(name, data_sets, tmp_path):
    on = {data: sweep(TABLES[name], data, 1) for data in ("cifar10", "digits")}
    networks = {}
    for data, (whole, taken) in on.items():
        configs = {run.variant: run.resolved for run in plan(whole, tmp_path)}
        networks[data] = {row.name: configs[taken[row.name]].model.to_dict() for row in TABLES[name].rows}
    for row, there in networks["cifar10"].items():
        ours = {"input_size": 8, "input_channels": 1, "bn_group": 0, "num_classes": 10}
        assert networks["digits"][row] == {**there, **ours}, row


def test_imagenet_networks_on_the_digits(tmp_path):
    whole, taken = sweep(TABLES["v1-table3"], "digits", 1)
    config = next(run.resolved for run in plan(whole, tmp_path) if run.variant == taken["resnet-34-C"])
    assert (config.data.name, config.model.units, config.model.shortcut) == ("digits", (3, 4, 6, 3), "C")
    assert (config.model.stem, config.model.input_size, config.model.num_classes) == ("conv7", 8, 10)


def test_the_table(finish, tmp_path, capsys):
    finish |= {"original": [6.0, 7.0, 8.0], "exclusive-5": [90.0, 30.0, 19.0], "dropout": ["3", 10.0, "3"]}
    flags = ["--rows=original,exclusive-5,dropout", "--seeds=3", "--budget=0.5", f"--workdir={tmp_path / 'W'}"]
    assert main(["v2-table1", *flags]) == 1
    table = (tmp_path / "W/table.md").read_text()
    assert table in capsys.readouterr().out
    cells = {line.split(" | ")[0].strip("| "): [c.strip() for c in line.split("|")] for line in table.splitlines()}
    assert cells["original"][2:5] == ["median 6.61", "median 7.00, mean 7.00 ± 1.00 (3)", "1,727,962"]
    exclusive = cells["exclusive gating, b_g = -5"]
    assert exclusive[2:4] == ["fail", "median 30.00, mean 46.33 ± 38.21 (3)"]  # half the schedule
    assert exclusive[5] == "1"
    assert cells["dropout shortcut, rate 0.5"][3] == "fail 10.00 (1)"
    assert cells["dropout shortcut, rate 0.5"][6].endswith("2 diverged")
    assert cells["shortcut-only gating, b_g = -6"][2:6] == ["median 6.91", "", "1,824,186", ""]  # not run: empty
    head = table.partition("| row")[0]
    assert "Budget: 0.5; every schedule is cut" in head
    assert "python -m resjax.papers v2-table1 --rows=original,exclusive-5,dropout" in head
    assert "medians of 5 runs" in head

    rows = {row["row"]: row for row in json.loads((tmp_path / "W/table.json").read_text())["rows"]}
    assert rows["exclusive-5"]["median"] == pytest.approx(30.0)
    assert (rows["dropout"]["fail"], rows["original"]["fail"]) == (True, False)
    assert rows["original"]["device"] == ["1 x cpu"]
    with (tmp_path / "W/table.csv").open() as file:
        by_row = {row["row"]: row for row in csv.DictReader(file)}
    assert (by_row["gated-6"]["paper"], by_row["gated-6"]["mean"], by_row["gated-6"]["n"]) == ("6.91", "", "0")

    finish["gated-6"] = [7.0, 7.0, 7.0]  # the rest may come later; what is there stays
    assert main(["v2-table1", *flags[1:], "--rows=original,gated-6"]) == 0
    table = (tmp_path / "W/table.md").read_text()
    assert "7.00 ± 0.00 (3)" in table
    assert "7.00 ± 1.00 (3)" in table
    with pytest.raises(
        BadInput, match=r"holds another sweep: run 'original': total_steps: 32000 there, 64000 here"
    ):
        main(["v2-table1", "--seeds=3", f"--workdir={tmp_path / 'W'}"])


def test_fail_is_a_median_above_20_percent_after_the_whole_schedule(finish, tmp_path):
    finish |= {"exclusive-5": [90.0, 30.0, 19.0], "original": [19.0, 30.0, 7.0]}
    main(["v2-table1", "--rows=exclusive-5,original", "--seeds=3", f"--workdir={tmp_path / 'W'}"])
    table = (tmp_path / "W/table.md").read_text()
    assert "| fail median 30.00, mean 46.33 ± 38.21 (3) |" in table
    assert "| median 19.00, mean 18.67 ± 11.50 (3) " in table


def test_the_paper_s_statistic(finish, tmp_path):
    finish |= {"resnet-110": [6.5, 6.4, 6.9], "resnet-1202": [8.0, 7.0, 7.5], "preact-1001": [4.9, 5.2, 5.0]}
    flags = [f"--rows={','.join(finish)}", "--seeds=3", f"--workdir={tmp_path / 'W'}"]
    assert main(["v2-table4", *flags]) == 0
    lines = (tmp_path / "W/table.md").read_text().splitlines()
    cells = {line.split(" | ")[0].strip("| "): [c.strip() for c in line.split("|")] for line in lines}
    assert cells["ResNet-110"][2:4] == ["mean 6.61 ± 0.16, best 6.43", "mean 6.60 ± 0.26 (3), best 6.40"]
    assert cells["ResNet-1202"][2:4] == ["7.93", "7.50 ± 0.50 (3)"]
    own = cells["pre-activation ResNet-1001"]
    assert own[2:4] == ["median 4.92, mean 4.89 ± 0.14", "median 5.00, mean 5.03 ± 0.15 (3)"]
    assert own[4] == "10,327,706 (paper 10.2M)"
    record = {row["row"]: row for row in json.loads((tmp_path / "W/table.json").read_text())["rows"]}["preact-1001"]
    assert (record["paper"], record["paper_mean"], record["statistic_paper"]) == (4.92, 4.89, "median of 5 runs")


def test_a_search_shows_validation_errors_and_the_lowest(finish, tmp_path):
    finish |= {"exclusive-5": [11.0], "exclusive-6": [9.0], "exclusive-7": [8.0]}  # validation: half of them
    flags = [f"--rows={','.join(finish)}", f"--workdir={tmp_path / 'W'}"]
    assert main(["v2-search", *flags]) == 0
    table = (tmp_path / "W/table.md").read_text()
    cells = [[c.strip() for c in line.split("|")][1:-1] for line in table.splitlines() if line.startswith("| excl")]
    assert [row[3] for row in cells] == ["", "", "", "", "", "5.50", "4.50", "4.00", "", "", ""]
    assert [row[6] for row in cells].index("the lowest validation error of 3 rows") == 7
    assert (cells[6][1], cells[6][2], sum("lowest" in row[6] for row in cells)) == ("chosen", "9.00 (1)", 1)
    assert "choose by the errors on it alone" in table


@pytest.mark.parametrize(
    ("error", "words"), [(20.0, "20.00 (1)"), (20.1, "fail 20.10 (1)"), (24.0, "fail 24.00 (1)")]
)
def test_fail_is_above_20_percent(error, words, finish, tmp_path):
    finish |= {"original": [error]}
    main(["v2-table1", "--rows=original", "--seeds=1", f"--workdir={tmp_path / 'W'}"])
    assert f"| {words} " in (tmp_path / "W/table.md").read_text()


def test_a_failure_on_other_data_is_a_number(finish, tmp_path):
    finish |= {"scale-0": [90.0]}
    main(["v2-table1", "--data=digits", "--rows=scale-0", "--seeds=1", f"--workdir={tmp_path / 'W'}"])
    table = (tmp_path / "W/table.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| constant scaling, shortcut 0, F 1 "))
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["fail", "90.00 (1)"]
    assert "Data: digits with its own schedule, not the paper's cifar10" in table


def test_top5_and_rows_that_share_their_runs(finish, tmp_path):
    finish |= {"original-152-224": [24.0]}
    flags = ["--rows=original-152-320", f"--workdir={tmp_path / 'W'}"]
    assert main(["v2-table5", *flags]) == 0
    lines = [line for line in (tmp_path / "W/table.md").read_text().splitlines() if "original ResNet-152" in line]
    assert ["24.00 / 0.00 (1)" in line for line in lines] == [True, True]
    assert "the runs of 'original ResNet-152, scale augmentation, test crop 224'" in lines[1]
    assert [path.name for path in (tmp_path / "W/runs").iterdir()] == ["original-152-224"]


def test_the_quick_form_leaves_out_depths(finish, tmp_path):
    finish |= {row.name: [50.0] for row in TABLES["degradation"].rows}
    ran = {}
    for form, flags in {"quick": [], "long": ["--seeds=1"], "asked": ["--rows=plain-44"]}.items():
        assert main(["degradation", *flags, f"--workdir={tmp_path / form}"]) == 0
        ran[form] = {path.name for path in (tmp_path / form / "runs").iterdir()}
    assert ran["quick"] == {f"{kind}-{depth}" for kind in ("plain", "resnet") for depth in (8, 20, 32, 56)}
    assert ran["long"] == {row.name for row in TABLES["degradation"].rows}
    assert ran["asked"] == {"plain-44"}


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("degradation", ["curves.png", "degradation.png"]),
        ("v1-fig1", ["fig1.png"]),
        ("v2-fig6", ["fig6-bn-after.png", "fig6-preact.png"]),
    ],
)
def test_pictures_and_training_errors(name, files, finish, tmp_path):
    finish |= {row.name: [50.0] for row in TABLES[name].rows}
    assert main([name, "--seeds=1", f"--workdir={tmp_path / 'W'}"]) == 0
    assert sorted(path.name for path in (tmp_path / "W").glob("*.png")) == files
    table = (tmp_path / "W/table.md").read_text()
    assert "| ours, training |" in table
    assert table.count("| 50.00 ") >= len(TABLES[name].rows)
