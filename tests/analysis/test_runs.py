import json

import jax
import numpy as np
import pytest

from resjax.analysis.runs import Run, labels
from resjax.config import durations
from resjax.errors import BadInput
from resjax.models import scan
from resjax.models.spec import Spec
from resjax.train.checkpoint import Checkpoints
from resjax.train.program import build


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)))


def test_a_run_knows_its_steps_and_weights(residual):
    run = Run.open(residual)
    assert run.steps == (2, 4)
    assert run.find("latest") == 4
    assert run.find("2") == 2
    assert run.find("0") == 0
    program = build(run.config, run.spec, durations(run.config, run.dataset.train_size))
    with_optimizer, _ = Checkpoints(residual).restore(program.abstract, 2)
    assert same(run.variables(2)["params"], with_optimizer.params)
    assert same(run.variables(2)["batch_stats"], with_optimizer.batch_stats)


def test_step_zero_is_what_training_started_from(residual, scanned):
    for workdir in (residual, scanned):
        run = Run.open(workdir)
        trained = Spec(**run.config.model)
        begun = build(run.config, trained, durations(run.config, run.dataset.train_size)).init()
        assert same(run.variables(0)["params"], scan.unroll(begun.params))


def test_a_scanned_run_is_opened_unit_by_unit(scanned):
    run = Run.open(scanned)
    assert not run.spec.scan
    assert set(run.variables(2)["params"]["stage1"]) == {"unit0", "unit1"}


def test_weights_of_another_run_are_a_start_too(residual, tmp_path):
    config = json.loads((residual / "config.json").read_text()) | {"init_from": str(residual)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert same(Run.open(tmp_path).variables(0), Run.open(residual).variables(4))


def test_what_is_random_in_training_is_taken_out(residual, tmp_path):
    config = json.loads((residual / "config.json").read_text())
    config["model"] |= {"stochastic_depth": 0.5, "shortcut_dropout": 0.5, "shortcut_scale": 0.8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = Run.open(tmp_path).spec
    assert (spec.stochastic_depth, spec.shortcut_dropout, spec.shortcut_scale) == (0, 0, 0.4)


def test_batches_hold_whole_bn_groups(residual, tmp_path):
    config = json.loads((residual / "config.json").read_text())
    config["model"]["bn_group"] = 20
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = Run.open(tmp_path)
    assert [len(run.batch(n)["label"]) for n in (5, 20, 50)] == [20, 20, 40]


def test_labels_are_short_and_tell_runs_apart(tmp_path):
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c"]
    assert list(labels(paths[::2])) == ["run", "c"]
    assert list(labels(paths)) == ["a/run", "b/run", f"{tmp_path.name}/c"]
    with pytest.raises(BadInput, match="given twice"):
        labels([tmp_path, tmp_path])


def test_folders_that_hold_nothing_to_look_at(residual, tmp_path):
    with pytest.raises(BadInput, match="no run"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_text((residual / "config.json").read_text())
    run = Run.open(tmp_path)
    with pytest.raises(BadInput, match="no checkpoint yet"):
        run.find("latest")
    assert not (tmp_path / "checkpoints").exists()
    with pytest.raises(BadInput, match="--step=3"):
        Run.open(residual).find("3")
