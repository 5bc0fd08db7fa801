"""The moving average of the weights against torchvision's loop, and all that is done with it."""

import json
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import evaluate, experiment
from resjax.cli import load
from resjax.errors import BadInput
from resjax.evaluation.evaluate import evaluate as means_of
from resjax.train import digest
from resjax.train.checkpoint import Checkpoints
from resjax.train.ema import Ema
from resjax.train.initialize import initialize_from

pytestmark = pytest.mark.usefixtures("quick_compilation")

SEED, STEPS = np.uint32(0), 8
FLAGS = (
    *("--config.ema.decay=0.75", "--config.ema.every_steps=2", "--config.mesh.data=1"),
    *(f"--config.total_steps={STEPS}", "--config.checkpoint_every_steps=5", "--config.eval_every_steps=4"),
)


def torchvision(weights, decay, every, warmup):
    """The averages after each step, as references/classification/train.py and AveragedModel keep them."""
    averages, average, count = [], None, 0
    for i, w in enumerate(weights):
        if i % every == 0:
            average = w if count == 0 else jax.tree.map(lambda e, w: decay * e + (1 - decay) * w, average, w)
            count += 1
            if i < warmup:
                count = 0
        averages.append(average)
    return averages


@pytest.mark.parametrize(("every", "warmup"), [(1, 0), (1, 3), (3, 0), (3, 4), (3, 6)])
def test_average(every, warmup):
    weights = list(np.random.default_rng(0).normal(size=(14, 3)).astype("f"))
    ema, found = jax.jit(Ema(0.9, every, warmup)), jnp.full(3, 7.0)
    for step, expected in enumerate(torchvision(weights, 0.9, every, warmup)):
        found = ema(found, weights[step], step)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def opened(tiny):
    return experiment.open(load([*tiny, *FLAGS]))


@pytest.fixture(scope="module")
def states(opened):
    """The states, on the host, after every step of the run, from 0."""
    state = opened.program.init(SEED)
    kept = [jax.device_get(state)]
    with closing(opened.batches()) as batches:
        for _ in range(STEPS):
            state, _ = opened.program.train_step(state, opened.program.take(batches, 1), SEED)
            kept.append(jax.device_get(state))
    return kept


def test_a_run_averages_weights_and_statistics_and_trains_as_without(states, tiny):
    weights = [{"params": state.params, "batch_stats": state.batch_stats} for state in states]
    for state, expected in zip(states[1:], torchvision(weights[1:], 0.75, 2, warmup=2), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.ema, expected)
    assert digest.of(states[0].ema) == digest.of(weights[0]) != digest.of(states[-1].ema)
    plain = experiment.open(load([*tiny, *FLAGS, "--config.ema.decay=0"]))
    state = plain.program.init(SEED)
    assert state.ema is None
    with closing(plain.batches()) as batches:
        for _ in range(3):
            state, _ = plain.program.train_step(state, plain.program.take(batches, 1), SEED)
    assert digest.of(state) == digest.of(states[3].replace(ema=None))


def test_a_run_with_an_average(call, tiny, opened, states, tmp_path, read_records, monkeypatch):
    """Its evaluations, its summary, a resumption to the same bits, and the commands that look at it afterwards."""
    flags = (*tiny, *FLAGS, f"--workdir={tmp_path}")
    monkeypatch.setattr("resjax.train.preemption.StopRequest.at", lambda self, step: step == 5)
    assert call(*flags)[0] == 75
    monkeypatch.undo()
    code, _, err = call(*flags)
    assert code == 0, err
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["state_digest"] == digest.of(states[-1])

    by_name = {e.name: e for e in opened.evaluations}
    assert by_name.keys() == {"validation", "test", "validation_ema", "test_ema"}
    for name, evaluation in by_name.items():
        assert [record["step"] for record in read_records(tmp_path, name)] == [4, 8]
        own = states[-1].ema if name.endswith("_ema") else vars(states[-1])
        means = means_of(opened.program.eval_step, own["params"], own["batch_stats"], evaluation.batches())
        assert {key: found[f"{name}_{key}"] for key in means} == means
    assert found["test_ema_loss"] != found["test_loss"]
    assert f"({100 * found['test_ema_accuracy']:.2f} % of the moving average)" in err

    judged = json.loads(call("--mode=eval", f"--workdir={tmp_path}")[1])
    assert judged["test_ema_loss"] == found["test_ema_loss"]
    out = tmp_path / "ema.json"
    code, _, err = call(f"--workdir={tmp_path}", "--weights=ema", f"--out={out}", command=evaluate.main)
    assert code == 0, err
    other = json.loads(out.read_text())
    assert other["loss"] == pytest.approx(found["test_ema_loss"], rel=1e-5)
    assert other["runs"][0]["weights_digest"] == digest.of(states[-1].ema)

    # Takes the weights, and averages from them.
    state = initialize_from(str(tmp_path), opened.program.init(SEED), opened.spec)
    assert digest.of(state.params) == digest.of(states[-1].params)
    assert digest.of(state.ema) == digest.of({k: getattr(states[-1], k) for k in digest.WEIGHTS})


def test_an_average_of_a_run_that_had_none(whole, call, capfd):
    """It starts from the weights that are restored, in buffers of its own: a step may donate all of them."""
    with closing(Checkpoints(whole)) as checkpoints:
        state, _ = checkpoints.restore(averaging(whole).abstract, 90)
        assert "has no ema: it starts now" in capfd.readouterr().err
        with pytest.raises(BadInput, match=r"checkpoint 90 .* holds no moving average"):
            checkpoints.weights(90, averaged=True)
    assert digest.of(state.ema) == digest.of({k: getattr(state, k) for k in digest.WEIGHTS})
    jax.block_until_ready(jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state))
    code, _, err = call(f"--workdir={whole}", "--weights=ema", command=evaluate.main)
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"--weights=ema: --workdir={whole} has no moving average" in err


def averaging(workdir):
    """The program of a run with a moving average besides."""
    config = experiment.load(workdir)[0].config
    config.ema.decay = 0.5
    return experiment.open(config).program


def test_damage_to_an_average_is_found(states, tmp_path):
    """The bytes are compared with a digest of their own; those of the weights are whole."""
    with closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        state = jax.device_put(states[-1])
        checkpoints.save(state, {"config": {}}).result()
    with closing(Checkpoints(tmp_path)) as checkpoints:
        meta = checkpoints.meta(STEPS)
        assert digest.of(checkpoints.weights(STEPS, averaged=True)) == meta["ema_digest"]
        checkpoints.meta = lambda step: meta | {"ema_digest": meta["weights_digest"]}
        checkpoints.weights(STEPS)
        with pytest.raises(BadInput, match="its bytes do not match their digest"):
            checkpoints.weights(STEPS, averaged=True)
