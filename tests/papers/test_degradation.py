"""The demonstration: what it searches, chooses and draws; summaries are written by hand in place of training."""

import json
import statistics

import pytest

from resjax.config import durations
from resjax.data.splits import parse_slice
from resjax.papers import TABLES, degradation, measured, pictures
from resjax.papers.recipe import sweep
from resjax.sweep import definition
from resjax.sweep.plan import plan

DIGITS = {"train": 1437, "test": 360}


def configs(name, tmp_path):
    """Row -> its config on the digits."""
    whole, taken = sweep(TABLES[name], "digits", 1)
    by_variant = {run.variant: run.resolved for run in plan(whole, tmp_path)}
    return {row: by_variant[variant] for row, variant in taken.items()}


def test_every_network_has_the_papers_decay_and_no_smoothing(tmp_path):
    found = configs("degradation", tmp_path)
    depths = {name: 2 * sum(config.model.units) + 2 for name, config in found.items()}
    families = {name: config.model.shortcut for name, config in found.items()}
    assert depths == {f"{f}-{d}": d for f in ("plain", "resnet") for d in (8, 14, 20, 32, 44, 56)}
    assert families == {name: "none" if name.startswith("plain") else "A" for name in depths}
    for config in found.values():
        assert (config.optimizer.weight_decay, config.optimizer.label_smoothing) == (1e-4, 0)
        assert config.eval_train
        assert not config.data.validation_split  # chosen before; now every training image counts


def test_longer_is_twice_as_long_and_nothing_else(tmp_path):
    usual, longer = configs("degradation", tmp_path), configs("degradation-longer", tmp_path)
    assert "plain-56" in longer
    for name, config in longer.items():
        once, twice = durations(usual[name], 1437), durations(config, 1437)
        assert twice.total == pytest.approx(2 * once.total, abs=1)
        assert twice.warmup == pytest.approx(2 * once.warmup, abs=1)
        for field in ("total_epochs", "eval_every_epochs"):
            config[field] = usual[name][field]
        config.schedule.warmup_epochs = usual[name].schedule.warmup_epochs
        assert config == usual[name]


def test_the_search_judges_by_images_that_it_does_not_train_on(tmp_path):
    runs = plan(definition.load("configs/sweeps/degradation.py"), tmp_path)
    assert len(runs) == len(degradation.NETWORKS) * len(degradation.CHOICES)
    for run in runs:
        own = run.config
        assert run.arguments[0] == f"--config=configs/digits.py:{own.name.removeprefix('digits-')}"
        parts = [parse_slice("", own.data[f"{part}_split"], DIGITS) for part in ("train", "validation")]
        assert not parts[0].overlaps(parts[1])
        assert {part.base for part in parts} == {"train"}
        assert (own.total_epochs, own.optimizer.weight_decay) == (degradation.EPOCHS / 2, 1e-4)


def finish(network, choice, accuracies, loss=1.0):
    found = [{"validation_accuracy": accuracy, "validation_loss": loss} for accuracy in accuracies]
    return {degradation.candidate(network, *choice): found}


@pytest.fixture
def searched():
    """Every candidate got half of the validation images right."""
    runs = {}
    for network in degradation.NETWORKS:
        for choice in degradation.CHOICES:
            runs |= finish(network, choice, (0.5, 0.5))
    return runs


def test_the_lowest_mean_validation_error_is_chosen(searched):
    searched |= finish("plain-56", (0.03, "clipped"), (0.75, 0.5))
    searched |= finish("plain-56", (0.03, "at-once"), (0.625, 0.5), loss=0.5)
    del searched[degradation.candidate("plain-56", 0.1, "clipped")]  # it diverged
    searched |= finish("v1-20", (0.01, "warm-up"), (0.5, 0.5), loss=0.75)
    best = degradation.best(searched)
    assert best["plain-56"] == (0.03, "clipped")
    assert best["v1-20"] == (0.01, "warm-up")  # among equals the lowest loss
    assert best.keys() == set(degradation.NETWORKS)


def test_error_against_depth(tmp_path, drawn):
    """Both errors of every run, and their means with the sample standard deviation, by depth."""
    errors = {"plain-8": (1, 3), "plain-56": (20, 30), "ResNet-8": (2, 2), "ResNet-56": (0, 1)}
    runs = {}
    for label, found in errors.items():
        runs[label] = [tmp_path / label / f"seed{i}" for i in range(2)]
        for workdir, error in zip(runs[label], found, strict=True):
            workdir.mkdir(parents=True)
            run = plan(sweep(TABLES["degradation"], "digits", 1)[0], tmp_path)[0]
            (workdir / "config.json").write_text(json.dumps(run.config.to_dict()))
            summary = {"train_clean_accuracy": 1 - error / 100, "test_accuracy": 1 - 2 * error / 100, "steps": 1}
            summary |= {"train_accuracy": 0.0, "test_accuracy_top5": 1.0, "images_per_second": 1.0, "params": 9}
            summary |= {"seconds": 1.0, "state_digest": "0", "device": "1 x cpu"}
            (workdir / "summary.json").write_text(json.dumps(summary))
    pictures.error_by_depth(runs, tmp_path / "x.png", "")
    for axes, times in zip(drawn[0].axes, (1, 2), strict=True):
        for bars, family in zip(axes.containers, ("plain", "ResNet"), strict=True):
            line, _, [segments] = bars
            assert list(line.get_xdata()) == [8, 56]
            own = [[times * error for error in errors[f"{family}-{depth}"]] for depth in (8, 56)]
            assert line.get_ydata() == pytest.approx([statistics.fmean(pair) for pair in own])
            lengths = [(low[1], high[1]) for low, high in segments.get_segments()]
            halves = [(high - low) / 2 for low, high in lengths]
            assert halves == pytest.approx([statistics.stdev(pair) for pair in own])
            assert bars.get_label() == f"{family} (n=2)"


def test_choices_are_those_that_the_recorded_search_leads_to():
    record = json.loads((measured.RESULTS / "degradation-search.json").read_text())
    assert record["runs"].keys() == {
        degradation.candidate(network, *choice)
        for network in degradation.NETWORKS
        for choice in degradation.CHOICES
    }
    assert degradation.best(record["runs"]) == degradation.CHOSEN
