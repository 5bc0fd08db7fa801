"""Tables whose numbers are of many views or of an ensemble: what is judged, when, and what the table then says."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from resjax.papers.__main__ import main

TABLE4 = ("resnet-34-B", "resnet-34-C", "resnet-50", "resnet-101", "resnet-152")
SEEDS = [(row, 0) for row in TABLE4] + [("resnet-152", 1)]


@pytest.fixture
def judged(monkeypatch):
    """The flags of every call of `resjax.evaluate`, which finds 20 % error, and 10 % of several runs, or fails."""
    calls = []

    def run(command, stdout):
        assert command[1:3] == ["-m", "resjax.evaluate"]
        flags = [flag.partition("=")[::2] for flag in command[3:]]
        workdirs = [path for name, path in flags if name == "--workdir"]
        calls.append((workdirs, dict(flags).get("--views", "centre")))
        if any("resnet-50" in path for path in workdirs) and len(workdirs) == 1:
            return SimpleNamespace(returncode=2)
        top1, top5 = (
            ({"accuracy": 0.9}, {"accuracy": 0.98}) if workdirs[1:] else ({"accuracy": 0.8}, {"accuracy": 0.95})
        )
        steps = [json.loads(Path(path, "summary.json").read_text())["steps"] for path in workdirs]
        runs = [{"workdir": path, "step": step} for path, step in zip(workdirs, steps, strict=True)]
        Path(dict(flags)["--out"]).write_text(json.dumps({"top1": top1, "top5": top5, "runs": runs}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def lines(workdir):
    cells = [line.split("|") for line in (workdir / "table.md").read_text().splitlines() if line.startswith("| ")]
    return {row[1].strip(): [cell.strip() for cell in row[2:5]] for row in cells}


def test_finished_runs_are_judged_once_over_the_tables_views(finish, judged, tmp_path):
    finish |= {row: [30.0, 30.0] for row in TABLE4}
    flags = [f"--workdir={tmp_path / 'W'}", "--rows=resnet-34-B,resnet-50"]
    assert main(["v1-table4", *flags]) == 1  # one of them could not be judged
    own = [str(tmp_path / "W/runs" / row / "seed0") for row in ("resnet-34-B", "resnet-50")]
    assert judged == [([own[0]], "scales"), ([own[1]], "scales")]
    table = lines(tmp_path / "W")
    assert table["ResNet-34 B"] == ["21.84 / 5.71", "20.00 / 5.00 (1)", "21,797,672"]
    assert table["ResNet-50"][1] == ""  # its centre is not what the paper has
    assert "--views=scales" in (tmp_path / "W/table.md").read_text()
    judged.clear()
    assert main(["v1-table4", *flags]) == 1
    assert judged == [([own[1]], "scales")]
    # A run that went on is judged again.
    summary = Path(own[0]) / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"steps": 2}))
    judged.clear()
    main(["v1-table4", *flags])
    assert [workdirs for workdirs, _ in judged] == [[own[0]], [own[1]]]


def test_an_ensemble_takes_two_seeds_of_one_row(finish, judged, tmp_path):
    """On the digits there is one view, which the runs have in their summaries."""
    finish |= {row: [30.0, 40.0] for row in TABLE4}
    flags = ["v1-table5", "--data=digits", f"--workdir={tmp_path / 'W'}"]
    assert main([*flags, "--rows=resnet-152"]) == 0
    assert judged == []
    assert lines(tmp_path / "W")["six networks together"][:2] == ["top-5 3.57 (test set)", ""]
    assert main(flags) == 0
    assert judged == [([str(tmp_path / "W/runs" / row / f"seed{seed}") for row, seed in SEEDS], "centre")]
    assert sorted(path.name for path in (tmp_path / "W/runs/resnet-101").iterdir()) == ["seed0"]
    table = lines(tmp_path / "W")
    assert table["six networks together"][1] == "10.00 / 2.00 (1)"
    assert table["ResNet-152"][1] == "35.00 ± 7.07 / 0.00 ± 0.00 (2)"
    rows = {row["row"]: row for row in json.loads((tmp_path / "W/table.json").read_text())["rows"]}
    assert (rows["ensemble"]["paper_top5"], rows["ensemble"]["top5_mean"]) == (3.57, pytest.approx(2.0))
    assert len(rows["ensemble"]["arguments"]) == 6
