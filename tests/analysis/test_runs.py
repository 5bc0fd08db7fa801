import json
import shutil
from contextlib import closing

import jax
import numpy as np
import pytest

from resjax import cli, experiment, files
from resjax.analysis.runs import OpenedRun, gather, spaced
from resjax.config import plain
from resjax.data.augment.device import Normalization, training_views
from resjax.errors import BadInput
from resjax.train.checkpoint import Checkpoints
from resjax.train.loop import train
from tests.conftest import ROOT, jax_flags


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)))


def test_a_run_knows_its_steps_and_weights(residual):
    run = OpenedRun.open(residual)
    assert run.steps == (2, 4)
    assert run.find("latest") == run.find(None) == 4
    assert run.find("2") == 2
    assert run.find("0") == 0
    with_optimizer, _ = Checkpoints(residual).restore(run.experiment.program.abstract, 2)
    assert same(run.variables(2)["params"], with_optimizer.params)
    assert same(run.variables(2)["batch_stats"], with_optimizer.batch_stats)


@pytest.mark.parametrize("scanned", [False, True])
def test_step_zero_is_what_training_started_from(tmp_path, scanned):
    """To the last bit, of a network whose initialisation rounds otherwise when it is compiled otherwise."""
    config = cli.load_file(f"{ROOT / 'configs' / 'digits.py'}:v1-8")
    config.total_epochs, config.total_steps, config.batch_size = None, 1, 16
    config.schedule.warmup, config.eval_every_epochs, config.eval_every_steps = "none", None, 1
    config.mesh.data, config.model.scan, config.model.units = 1, scanned, (3, 1, 1) if scanned else (1, 1, 1)
    config.optimizer.learning_rate = 1e-30  # one step leaves every kernel as it was
    files.write_json(tmp_path / "config.json", plain(config))
    train(experiment.open(config), tmp_path)
    run = OpenedRun.open(tmp_path)
    with jax_flags(jax_disable_most_optimizations=False):  # as the command has it; one step is not worth the time
        start = run.variables(0)["params"]
    after = run.variables(1)["params"]

    def kernels(params):
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return {jax.tree_util.keystr(path): x for path, x in leaves if "kernel" in jax.tree_util.keystr(path)}

    assert len(kernels(start)) == run.spec.depth
    assert same(kernels(start), kernels(after))


def test_a_scanned_run_is_opened_unit_by_unit(scanned):
    run = OpenedRun.open(scanned)
    assert not run.spec.scan
    assert set(run.variables(2)["params"]["stage1"]) == {"unit0", "unit1"}


def test_weights_of_another_run_are_a_start_too(residual, tmp_path):
    config = json.loads((residual / "config.json").read_text()) | {"init_from": str(residual)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert same(OpenedRun.open(tmp_path).variables(0), OpenedRun.open(residual).variables(4))


def test_what_is_random_in_training_is_taken_out(residual, tmp_path):
    config = json.loads((residual / "config.json").read_text())
    config["model"] |= {"stochastic_depth": 0.5, "shortcut_dropout": 0.5, "shortcut_scale": 0.8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = OpenedRun.open(tmp_path).spec
    assert (spec.stochastic_depth, spec.shortcut_dropout, spec.shortcut_scale) == (0, 0, 0.4)


def test_batches_hold_whole_bn_groups(residual, tmp_path):
    config = json.loads((residual / "config.json").read_text())
    config["model"]["bn_group"] = 16
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = OpenedRun.open(tmp_path)
    assert [len(run.batch(n)["label"]) for n in (5, 20, 50)] == [16, 16, 48]


def test_the_batch_is_the_first_of_the_runs_own_seed(residual, tmp_path):
    config = json.loads((residual / "config.json").read_text()) | {"seed": 7}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = OpenedRun.open(tmp_path)
    dataset = run.experiment.dataset
    with closing(dataset.train(32, 7)) as batches:
        first = training_views(next(batches), Normalization.of(dataset.preprocessing), dataset.pad)
    assert same(run.batch(32), first)
    assert not same(OpenedRun.open(residual).batch(32), first)


def test_images_are_prepared_as_the_weights_were_trained(residual, tmp_path):
    """Not by what the data would give today."""
    shutil.copytree(residual, tmp_path / "run")
    config = json.loads((residual / "config.json").read_text())
    config["data"]["train_split"] = "train[700:]"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    own, today = (
        OpenedRun.open(tmp_path / "run").experiment.dataset,
        experiment.open(OpenedRun.open(tmp_path / "run").config),
    )
    assert own.preprocessing == OpenedRun.open(residual).experiment.dataset.preprocessing
    assert own.preprocessing != today.dataset.preprocessing


def test_labels_are_short_and_tell_runs_apart(residual, tmp_path):
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c"]
    for path in paths:
        path.mkdir(parents=True)
        (path / "config.json").write_bytes((residual / "config.json").read_bytes())
    assert list(gather(paths[::2])) == ["run", "c"]
    assert list(gather(paths)) == ["a/run", "b/run", f"{tmp_path.name}/c"]
    with pytest.raises(BadInput, match="given twice"):
        gather([paths[0], paths[0]])


def test_a_sweep_is_its_variants_each_with_the_seeds_that_have_begun(residual, tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    files.write_json(sweep / "sweep.json", {"seeds": [2, 10], "runs": {"b": {}, "a": {}, "c": {}}})
    with pytest.raises(BadInput, match="no run has begun"):
        gather([sweep])
    for name in ("b/seed2", "b/seed10", "a/seed10"):
        (sweep / "runs" / name).mkdir(parents=True)
        (sweep / "runs" / name / "config.json").write_bytes((residual / "config.json").read_bytes())
    found = gather([sweep, residual])
    assert list(found) == ["b", "a", "residual"]  # in the sweep's own order
    assert [[seed.name for seed in run.seeds] for run in found.values()] == [
        ["seed2", "seed10"],
        ["seed10"],
        ["residual"],
    ]


def test_steps_that_would_hide_each_other_are_left_out():
    assert spaced([22, 44, 66, 67], 67 / 20) == [22, 44, 67]
    assert spaced([900, 950, 1000], 50) == [900, 950, 1000]
    assert spaced([], 0) == []


def test_folders_that_hold_nothing_to_look_at(residual, tmp_path):
    with pytest.raises(BadInput, match="no run"):
        OpenedRun.open(tmp_path)
    (tmp_path / "config.json").write_text((residual / "config.json").read_text())
    run = OpenedRun.open(tmp_path)
    with pytest.raises(BadInput, match="no checkpoint yet"):
        run.find("latest")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("step", ["3", "02", "-1", "²", "last", ""])
def test_a_step_that_is_not_saved_is_refused_with_those_that_are(residual, step):
    with pytest.raises(BadInput, match=rf"--step={step}: not saved .* choose latest, best or one of 0, 2, 4$"):
        OpenedRun.open(residual).find(step)


def test_the_best_step_needs_a_validation(residual):
    with pytest.raises(BadInput, match=r"nothing was validated .* choose latest or one of 0, 2, 4$"):
        OpenedRun.open(residual).find("best")


def test_a_run_of_an_older_version_needs_nothing_but_its_workdir(tmp_path):
    for name in ("finished", "interrupted"):
        shutil.copytree(ROOT / "tests" / "fixtures" / "0.1.0" / name, tmp_path / name)
        run = OpenedRun.open(tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert set(config["model"]) <= set(run.config.model)
        assert run.variables(run.find("latest"))["params"].keys() == run.variables(0)["params"].keys()
        assert run.facts() == {"data": "digits", "total_steps": config["total_steps"], "batch_size": 32}
