"""Runs of older versions go on living: small ones of every released version resume, evaluate and initialise."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import jax
import pytest

from resjax import config as configs
from resjax import experiment
from resjax.cli import load
from resjax.evaluation.evaluate import evaluate
from resjax.train import digest
from resjax.train.checkpoint import Checkpoints
from resjax.train.initialize import check_source, initialize_from

FLAGS = (
    "--config=configs/digits.py",
    "--config.model.units=1,2",
    "--config.model.widths=4,8",
    "--config.model.stem_width=4",
    "--config.batch_size=32",
    "--config.log_every_steps=2",
    "--config.total_steps=60",
    "--config.eval_every_steps=20",
    "--config.checkpoint_every_steps=20",
    "--config.data.train_split=train[:1300]",
    "--config.data.validation_split=train[1300:]",
    "--config.checkpoint_keep=3",
    "--config.mesh.data=1",
    "--config.schedule.warmup_steps=2",
    "--config.name=old",
)
STEPS = {"finished": 60, "interrupted": 20}
SHORT = ("--config.total_steps=2", "--config.schedule.warmup=none", "--config.batch_size=32")


@pytest.fixture(params=[pytest.param("as it was", marks=pytest.mark.long), "without zero_gamma"])
def old(request, tmp_path):
    """Copies of the runs of 0.1.0; once as if saved before there was a field that 0.1.0 had."""
    shutil.copytree(Path(__file__).parent / "fixtures" / "0.1.0", tmp_path / "old")
    if request.param != "as it was":
        for path in (tmp_path / "old").rglob("config.json"):
            saved = json.loads(path.read_text())
            del saved["model"]["zero_gamma"]
            path.write_text(json.dumps(saved))
        for path in (tmp_path / "old").rglob("meta/metadata"):
            saved = json.loads(path.read_text())
            del saved["config"]["model"]["zero_gamma"]
            path.write_text(json.dumps(saved))
    return tmp_path / "old"


def restored(workdir):
    """The config of a run, from its file."""
    path = workdir / "config.json"
    return configs.restored(json.loads(path.read_text()), path)


def program(config):
    return experiment.open(config).program


@pytest.mark.parametrize("run", STEPS)
def test_the_checkpoint_restores_and_matches_its_digest(old, run):
    with closing(Checkpoints(old / run)) as checkpoints:
        assert checkpoints.steps() == [STEPS[run]]
        assert checkpoints.best_step() == STEPS[run]  # its score lies where 0.1.0 put it
        state, meta = checkpoints.restore_latest(program(restored(old / run)).abstract)
        weights = checkpoints.weights(STEPS[run])
    assert int(state.step) == STEPS[run] == meta["data"]["next_step"]
    assert len(meta["digest"]) == 64
    assert digest.of_0_1_0(state) == meta["digest"]
    assert digest.of_0_1_0(weights) == meta["weights_digest"]
    assert digest.of(weights["params"]) == digest.of(state.params)
    if run == "finished":
        assert meta["digest"] == json.loads((old / run / "summary.json").read_text())["state_digest"]


def test_in_the_scanned_form_and_over_eight_devices(old):
    config = restored(old / "finished")
    config.model.scan, config.mesh.data = True, 8
    with closing(Checkpoints(old / "finished")) as checkpoints:
        state, meta = checkpoints.restore(program(config).abstract, 60)
    assert digest.of_0_1_0(state) == meta["digest"]


def test_a_flipped_bit_is_found_by_the_old_digest(old):
    with closing(Checkpoints(old / "finished")) as checkpoints:
        state, meta = checkpoints.restore(program(restored(old / "finished")).abstract, 60)
    assert digest.matches(state, meta["digest"])
    head = state.params["head"]
    head["bias"] = head["bias"].at[3].set(0.5)
    assert not digest.matches(state, meta["digest"])


def test_weights_start_another_run(old):
    config = restored(old / "finished")
    check_source(str(old / "finished"), configs.network(config))
    fresh = program(config).abstract
    fresh = jax.tree.map(lambda a: jax.device_put(jax.numpy.zeros(a.shape, a.dtype), a.sharding), fresh)
    state = initialize_from(str(old / "finished"), fresh, configs.network(config))
    with closing(Checkpoints(old / "finished")) as checkpoints:
        weights = checkpoints.weights(60)
    assert digest.of({"params": state.params, "batch_stats": state.batch_stats}) == digest.of(weights)
    assert int(state.step) == 0


def test_the_weights_give_the_accuracy_of_the_summary(old):
    config = restored(old / "finished")
    with closing(Checkpoints(old / "finished")) as checkpoints:
        weights = checkpoints.weights(60)
    run = experiment.open(config)
    test = next(each for each in run.evaluations if each.name == "test")
    found = evaluate(run.program.eval_step, weights["params"], weights["batch_stats"], test.batches())
    summary = json.loads((old / "finished" / "summary.json").read_text())
    assert found["accuracy"] == pytest.approx(summary["test_accuracy"], abs=1e-4)
    assert found["loss"] == pytest.approx(summary["test_loss"], abs=1e-4)


def test_the_flags_are_still_those_of_the_runs():
    """By which the commands of 0.1.0 resume and evaluate."""
    saved = json.loads((Path(__file__).parent / "fixtures/0.1.0/finished/config.json").read_text())
    here = configs.flatten(configs.plain(experiment.open(load(list(FLAGS))).config))
    here["data.image_size"] = 0  # 0.1.0 did not resolve it
    assert {key: here.get(key) for key in configs.flatten(saved)} == configs.flatten(saved)


def test_the_commands_go_on_with_them(old, run):
    """The same command as then resumes to the numbers of 0.1.0; a finished run says so, and is evaluated."""
    resumed = run(*FLAGS, f"--workdir={old / 'interrupted'}")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed  from step 20" in resumed.stderr
    found, then = (json.loads((old / name / "summary.json").read_text()) for name in ("interrupted", "finished"))
    for field in ("steps", "params", "macs", "depth"):
        assert found[field] == then[field]
    for split in ("train", "validation", "test"):
        assert found[f"{split}_loss"] == pytest.approx(then[f"{split}_loss"], rel=1e-3)
        assert found[f"{split}_accuracy"] == pytest.approx(then[f"{split}_accuracy"], abs=0.01)
    done = run(*FLAGS, f"--workdir={old / 'finished'}")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        0,
        f"{old / 'finished'} is finished: 60 steps; train longer or choose another --workdir",
    )
    judged = run("--mode=eval", f"--workdir={old / 'finished'}")
    assert judged.returncode == 0, judged.stderr
    assert json.loads(judged.stdout)["test_accuracy"] == then["test_accuracy"]
    begun = run(*FLAGS[:4], *SHORT, f"--config.init_from={old / 'finished'}", f"--workdir={old / 'new'}")
    assert begun.returncode == 0, begun.stderr
