import json
import statistics

import numpy as np
import pytest

from resjax import files
from resjax.analysis import curves
from resjax.analysis.runs import OpenedRun, Options, gather
from resjax.errors import BadInput

OPTIONS = Options()


def write(workdir, residual, training, test):
    """A run that has recorded `training` and `test`, both step -> accuracy."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_bytes((residual / "config.json").read_bytes())
    records = [{"step": step, "split": "train", "accuracy": a} for step, a in training.items()]
    records += [{"step": step, "split": "test", "accuracy": a} for step, a in test.items()]
    records.sort(key=lambda record: record["step"])
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return workdir


def test_errors_in_percent_of_every_split(residual, tmp_path):
    found = curves.measure(OpenedRun.open(residual), OPTIONS)
    summary = json.loads((residual / "summary.json").read_text())
    assert found["splits"].keys() == {"train", "test"}
    assert (found["splits"]["test"]["step"], found["splits"]["train"]["step"]) == ([4], [2, 4])
    assert found["splits"]["test"]["error"] == [100 * (1 - summary["test_accuracy"])]
    # The mean over the only interval between evaluations is the summary's own training error.
    mean = np.mean(found["splits"]["train"]["error"])
    np.testing.assert_allclose(mean, 100 * (1 - summary["train_accuracy"]), rtol=1e-9)
    assert (found["data"], found["total_steps"], found["batch_size"], found["seeds"]) == ("digits", 4, 32, 1)
    curves.draw({"a": residual, "b": [residual]}, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0


def test_training_errors_stand_for_equally_many_steps(residual, tmp_path):
    # Logged every 20 steps, evaluated every 22: intervals of 20 and 2 steps.
    training = {20: 0.5, 22: 0.0, 40: 0.5, 44: 1.0, 60: 0.5, 66: 1.0}
    found = curves.read(write(tmp_path / "a", residual, training, {22: 0.1, 44: 0.2, 66: 0.3}))
    assert found["train"]["step"] == [22, 44, 66]
    np.testing.assert_allclose(found["train"]["error"], [100 - 1000 / 22, 100 - 1300 / 22, 100 - 1400 / 22])
    assert found["test"] == {"step": [22, 44, 66], "error": [90, 80, 70]}


def test_a_last_interval_of_one_step_is_part_of_the_one_before(residual, tmp_path):
    training = {22: 0.5, 44: 0.5, 66: 0.5, 67: 0.0}
    found = curves.read(write(tmp_path / "a", residual, training, {22: 0.1, 44: 0.2, 66: 0.3, 67: 0.3}))
    assert found["train"]["step"] == [22, 44, 67]
    np.testing.assert_allclose(found["train"]["error"][-1], 100 - 100 * 11 / 23)
    assert found["test"]["step"] == [22, 44, 66, 67]


def test_the_curve_of_a_run_that_goes_on(residual, tmp_path):
    training = {10: 0.1, 20: 0.2, 24: 0.3}
    assert curves.read(write(tmp_path / "a", residual, training, {}))["train"]["step"] == [10, 20, 24]
    assert curves.read(write(tmp_path / "b", residual, training, {20: 0.5}))["train"]["step"] == [10, 20, 24]
    ends = {10: 0.4, 20: 0.5}
    assert curves.read(write(tmp_path / "c", residual, training, ends))["train"]["step"] == [10, 20]
    longer = write(tmp_path / "d", residual, training | {30: 0.4}, ends)
    assert curves.read(longer)["train"]["step"] == [10, 20, 30]


def test_a_sweep_gives_the_mean_and_the_spread_of_its_seeds(residual, tmp_path, drawn):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    files.write_json(sweep / "sweep.json", {"seeds": [0, 1, 2], "runs": {"a": {}, "b": {}}})
    errors = {0: [50, 10], 1: [60, 20], 2: [70]}  # the third has not come to the end
    for seed, tests in errors.items():
        test = {10 * (i + 1): 1 - error / 100 for i, error in enumerate(tests)}
        write(sweep / "runs" / "a" / f"seed{seed}", residual, {step: 0.25 for step in test}, test)
    (sweep / "runs" / "b" / "seed0").mkdir(parents=True)  # begun, nothing recorded yet
    (sweep / "runs" / "b" / "seed0" / "config.json").write_bytes((residual / "config.json").read_bytes())

    runs = gather([sweep])
    with pytest.raises(BadInput, match="seed0 has no metrics yet"):
        curves.measure(runs["b"], OPTIONS)
    found = {"a": curves.measure(runs["a"], OPTIONS)}
    test = found["a"]["splits"]["test"]
    assert (found["a"]["seeds"], test["step"], test["n"]) == (3, [10, 20], [3, 2])
    np.testing.assert_allclose(test["error"], [60, 15])
    np.testing.assert_allclose(test["std"], [10, statistics.stdev([10, 20])])

    curves.plot(found, tmp_path / "x.png")
    [axes] = drawn[0].axes
    training, mean = axes.lines
    assert list(mean.get_ydata()) == test["error"]
    assert (training.get_linestyle(), mean.get_linestyle()) == ("--", "-")
    [band] = axes.collections
    band = band.get_paths()[0].vertices
    np.testing.assert_allclose(sorted({y for x, y in band if x == 10}), [50, 70])
    caption = " ".join(drawn[0].get_supxlabel().split())
    assert caption.startswith("digits, 20 steps of 32 images")
    assert caption.endswith("means over n seeds, bands: ± one sample standard deviation of the test error")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a (n=3)", "training", "test"]


def test_a_run_that_has_recorded_nothing(residual, tmp_path):
    (tmp_path / "config.json").write_text((residual / "config.json").read_text())
    with pytest.raises(BadInput, match="no metrics yet"):
        curves.measure(OpenedRun.open(tmp_path), OPTIONS)


def test_training_losses_beside_test_errors(residual, tmp_path, drawn):
    for seed, last in enumerate((0.5, 0.1)):
        folder = write(tmp_path / f"seed{seed}", residual, {}, {})
        losses = {("train", 10): 2.0, ("train", 20): 1.0, ("train", 40): last}
        records = [
            {"step": step, "split": split, "accuracy": 0.5, "loss": v} for (split, step), v in losses.items()
        ]
        records += [{"step": step, "split": "test", "accuracy": 0.2, "loss": 9.0} for step in (20, 40)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = curves.measure(OpenedRun.open(tmp_path / "seed0", tmp_path / "seed1"), OPTIONS)
    training = found["losses"]["train"]
    assert (training["step"], training["n"]) == ([20, 40], [2, 2])
    np.testing.assert_allclose(training["loss"], [1.5, 0.3])  # over the steps between evaluations, and the seeds
    assert found["losses"]["test"]["loss"] == [9.0, 9.0]

    curves.plot_losses({"a": found}, tmp_path / "x.png", "a note")
    left, right = drawn[0].axes
    [loss], [error] = left.lines, right.lines
    assert (list(loss.get_ydata()), loss.get_linestyle()) == (training["loss"], "--")
    assert (list(error.get_ydata()), error.get_linestyle()) == ([80.0, 80.0], "-")
    assert (left.get_yscale(), left.get_ylabel(), right.get_ylabel()) == ("log", "training loss", "test error (%)")
    assert "; a note; lines: means over n seeds" in " ".join(drawn[0].get_supxlabel().split())


def test_every_split_has_its_own_line(residual, tmp_path, drawn):
    folder = write(tmp_path / "a", residual, {10: 0.5}, {})
    records = [{"step": 10, "split": split, "accuracy": 0.5} for split in curves.STYLES]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    curves.plot({"a": curves.measure(OpenedRun.open(folder), OPTIONS)}, tmp_path / "x.png")
    [axes] = drawn[0].axes
    assert len(axes.lines) == len(curves.STYLES)


def test_a_run_without_losses_has_its_errors_drawn(residual, tmp_path, drawn):
    run = OpenedRun.open(write(tmp_path / "a", residual, {10: 0.5}, {10: 0.5}))
    curves.plot_losses({"a": curves.measure(run, OPTIONS)}, tmp_path / "x.png")
    assert [len(axes.lines) for axes in drawn[0].axes] == [0, 1]
