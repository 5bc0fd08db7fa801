import pytest

from resjax.analysis import curves
from resjax.analysis.runs import Options, Run
from resjax.errors import BadInput
from resjax.files import read_lines


def test_errors_in_percent_of_every_split(residual, tmp_path):
    found = curves.measure(Run.open(residual), Options())
    records = [r for r in read_lines(residual / "metrics.jsonl") if r["split"] == "test"]
    assert found["test"] == {"step": [4], "error": [100 * (1 - records[0]["accuracy"])]}
    assert set(found) == {"train", "test"}
    curves.draw({"a": residual, "b": residual}, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0


def test_a_run_that_has_recorded_nothing(residual, tmp_path):
    (tmp_path / "config.json").write_text((residual / "config.json").read_text())
    with pytest.raises(BadInput, match="no metrics yet"):
        curves.measure(Run.open(tmp_path), Options())
