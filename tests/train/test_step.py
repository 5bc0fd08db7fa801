"""One training step against loops written by hand, and what is counted."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax import experiment
from resjax.cli import load
from resjax.data.augment.device import Normalization, evaluation_views
from resjax.data.loader import open_dataset
from resjax.evaluation.evaluate import evaluate, make_eval_step, sums
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec
from resjax.train import program
from resjax.train.ema import Ema
from resjax.train.loss import Loss
from resjax.train.mix import Mix
from resjax.train.step import init_state, make_train_step

SPEC = Spec(units=(1, 1), widths=(4, 8), stem_width=4, input_size=8, input_channels=1)
PLAIN_NORM = dataclasses.replace(SPEC, norm="none", init_gain=0.5)  # no BN: images do not see each other
TX = optax.sgd(0.1)
DIGITS = "--config=configs/digits.py"


def batch(n=16, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(n, 8, 8, 1)).astype(np.float32)
    return {"image": jnp.asarray(image), "label": jnp.asarray(rng.integers(0, 10, n, np.int32))}


def step_of(spec, seed=0, **options):
    """The training step as a function (state, batch) -> (state, sums)."""
    step = make_train_step(ResNet(spec), TX, optax.constant_schedule(0.1), **options)

    def of_one_seed(state, batch):
        state, metrics = step(state, batch, jnp.uint32(seed))
        return state, metrics["sums"]

    return of_one_seed


@functools.cache  # compiling is what takes the time
def stepped(spec, **options):
    """The state after one step, the state before it, and the step's sums."""
    before = init_state(spec, TX, seed=0)
    after, metrics = jax.jit(step_of(spec, **options))(before, batch())
    return after, before, metrics


def loss_of(spec, params, stats, part, smoothing=0.0):
    """Mean loss and new statistics, written without the code under test."""
    logits, new = ResNet(spec).apply(
        {"params": params, "batch_stats": stats}, part["image"], train=True, mutable=["batch_stats"]
    )
    log_p = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(log_p, part["label"][:, None], 1)[:, 0]
    return -((1 - smoothing) * own + smoothing * log_p.mean(1)).mean(), new.get("batch_stats", {})


def loss_and_grad(spec, state, part, smoothing=0.0):
    def loss(params):
        return loss_of(spec, params, state.batch_stats, part, smoothing)

    return jax.value_and_grad(loss, has_aux=True)(state.params)


def assert_close(a, b, tolerance=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_step(smoothing):
    after, before, metrics = stepped(SPEC, loss=Loss(label_smoothing=smoothing))
    (loss, stats), grads = loss_and_grad(SPEC, before, batch(), smoothing)
    np.testing.assert_allclose(metrics["loss"] / metrics["count"], loss, rtol=1e-6)
    assert_close(after.params, jax.tree.map(lambda p, g: p - 0.1 * g, before.params, grads))
    assert_close(after.batch_stats, stats)
    assert int(after.step) == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_is_1_minus_eps_plus_eps_over_k(smoothing):
    """Uniform logits lose log K whatever the smoothing; the gradient of the bias shows the targets."""
    params = jax.tree.map(jnp.zeros_like, init_state(PLAIN_NORM, TX, 0).params)
    before = init_state(PLAIN_NORM, TX, 0).replace(params=params)
    labels = {"image": batch()["image"], "label": jnp.full(16, 3, jnp.int32)}
    after, metrics = jax.jit(step_of(PLAIN_NORM, loss=Loss(label_smoothing=smoothing)))(before, labels)
    np.testing.assert_allclose(metrics["loss"] / 16, np.log(10), rtol=1e-6)
    targets = np.full(10, smoothing / 10)
    targets[3] += 1 - smoothing
    np.testing.assert_allclose(after.params["head"]["bias"], 0.1 * (targets - 0.1), rtol=1e-5, atol=1e-7)


def test_accumulation_without_bn_is_the_full_batch():
    full, _, metrics = stepped(PLAIN_NORM)
    for k in (2, 4, 16):
        split, _, other = stepped(PLAIN_NORM, accumulate=k)
        assert_close(split.params, full.params)
        assert_close(other, metrics, 1e-5)


def test_accumulation_with_bn_is_a_loop_over_microbatches():
    after, before, metrics = stepped(SPEC, accumulate=4)
    stats, grads, loss = before.batch_stats, None, 0.0
    for i in range(4):
        part = {name: x[i::4] for name, x in batch().items()}
        (own, stats), grad = loss_and_grad(SPEC, before.replace(batch_stats=stats), part)
        grads = grad if grads is None else jax.tree.map(jnp.add, grads, grad)
        loss += float(own)
    assert_close(after.params, jax.tree.map(lambda p, g: p - 0.1 * g / 4, before.params, grads))
    assert_close(after.batch_stats, stats)
    np.testing.assert_allclose(metrics["loss"], loss * 4, rtol=1e-5)
    assert metrics["count"] == 16


def test_randomness_is_a_function_of_seed_step_and_microbatch():
    spec = dataclasses.replace(SPEC, stochastic_depth=0.5)
    before = init_state(spec, TX, seed=0)

    @functools.cache
    def program(seed, accumulate=1):
        return jax.jit(step_of(spec, seed, accumulate=accumulate))

    def loss(seed, step):
        return float(program(seed)(before.replace(step=jnp.int32(step)), batch())[1]["loss"])

    assert loss(0, 3) == loss(0, 3)
    assert len({loss(0, 3), loss(0, 4), loss(1, 3)}) == 3
    # Two equal halves: the second draws anew.
    half = {name: x[:8] for name, x in batch().items()}
    twice = {name: jnp.repeat(x, 2, axis=0) for name, x in half.items()}
    once, both = program(0)(before, half)[1], program(0, accumulate=2)(before, twice)[1]
    assert abs(float(both["loss"]) - 2 * float(once["loss"])) > 1e-3


def test_seed_of_the_weights():
    def kernel(seed):
        return np.asarray(init_state(SPEC, TX, seed).params["head"]["kernel"])

    np.testing.assert_array_equal(kernel(1), kernel(1))
    assert not np.array_equal(kernel(1), kernel(2))


def test_bfloat16_is_for_convolutions_only():
    spec = dataclasses.replace(SPEC, dtype="bfloat16")
    after, _, metrics = stepped(spec)
    kept = jax.tree.leaves((after.params, after.batch_stats, metrics))
    assert {leaf.dtype for leaf in kept} == {np.dtype("float32")}
    exact, _, _ = stepped(SPEC)
    difference = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after.params, exact.params)
    assert 0 < max(jax.tree.leaves(difference)) < 0.05
    text = str(jax.make_jaxpr(step_of(spec))(init_state(spec, TX, 0), batch()))
    convolutions = [line for line in text.splitlines() if "= conv_general_dilated" in line]
    assert convolutions
    assert all(":bf16[" in line.partition("=")[0] for line in convolutions)


def test_a_step_is_deterministic():
    """The same state and batch give the same bits, also where dropout draws and from a program compiled anew."""
    spec = dataclasses.replace(SPEC, stochastic_depth=0.3, shortcut_dropout=0.2)
    before = init_state(spec, TX, seed=0)
    runs = [jax.device_get(jax.jit(step_of(spec, accumulate=2))(before, batch())) for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *runs)


def counted(logits, labels, mask=None):
    logits, labels = jnp.asarray(logits, jnp.float32), jnp.asarray(labels)
    mask = None if mask is None else jnp.asarray(mask, jnp.float32)
    found = sums(logits, jnp.arange(1.0, len(labels) + 1), labels, mask)
    return {name: float(value) for name, value in found.items()}


def test_sums():
    rng = np.random.default_rng(0)
    logits, labels, mask = rng.normal(size=(50, 12)), rng.integers(0, 12, 50), rng.random(50) < 0.7
    order = np.argsort(-logits, axis=1)
    found = counted(logits, labels, mask)
    assert found["correct"] == ((order[:, 0] == labels) & mask).sum()
    assert found["correct5"] == ((order[:, :5] == labels[:, None]).any(1) & mask).sum()
    assert found["count"] == mask.sum()
    assert found["loss"] == (np.arange(1, 51) * mask).sum()
    assert counted(logits, labels)["count"] == 50


def test_ties_count_once_and_nan_never():
    """Of ten equal logits one class is predicted, so of ten labels one is right; NaN predicts nothing."""
    equal = counted(np.zeros((10, 10)), np.arange(10))
    assert (equal["correct"], equal["correct5"]) == (1, 5)
    for bad in (np.nan, np.inf, -np.inf):
        found = counted(np.full((10, 10), bad), np.arange(10))
        assert (found["correct"], found["correct5"]) == (0, 0)
    # The first of equals is predicted, as argmax does: not the last, and not every one.
    for label in range(10):
        found = counted(np.zeros((1, 10)), np.array([label]))
        assert (found["correct"], found["correct5"]) == (label == 0, label < 5)
    one = np.zeros((2, 10))
    one[0, 4], one[1, 4] = np.nan, np.nan  # the label of the first, not of the second
    assert counted(one, np.array([4, 0]))["correct"] <= 1


@pytest.mark.parametrize("batch_size", [1, 7, 64, 100, 360, 500])
def test_evaluation_counts_every_image_once(batch_size):
    """Whatever the batch: 360 test images, and a loss that does not depend on how they are cut."""
    dataset = open_dataset(**load(["--config=configs/digits.py"]).data)
    spec = dataclasses.replace(SPEC, norm="none")
    state = init_state(spec, TX, 0)

    def eval_step(params, stats, batch):
        found = step(params, stats, batch)
        count.append(float(found["count"]))
        return found

    def batches(size):
        normalization = Normalization.of(dataset.preprocessing)
        return [evaluation_views(jax.device_put(batch), normalization) for batch in dataset.evaluate("test", size)]

    step, count = jax.jit(make_eval_step(ResNet(spec))), []
    if batch_size == 1:  # the same images by hand
        parts = batches(360)
        logits = ResNet(spec).apply({"params": state.params}, parts[0]["image"])
        right = np.asarray(logits).argmax(1) == parts[0]["label"]
        means = evaluate(eval_step, state.params, state.batch_stats, batches(1))
        assert means["accuracy"] == right.mean()
    means = evaluate(eval_step, state.params, state.batch_stats, batches(batch_size))
    assert sum(count) in (360, 720)
    reference = evaluate(step, state.params, state.batch_stats, batches(360))
    assert means["accuracy"] == reference["accuracy"]
    assert means["loss"] == pytest.approx(reference["loss"], rel=1e-6)


def test_some_ties_are_broken_as_by_argmax():
    """Logits of few distinct values, as bfloat16 makes them."""
    rng = np.random.default_rng(1)
    logits, labels = rng.integers(0, 4, (200, 12)), rng.integers(0, 12, 200)
    order = np.argsort(-logits, axis=1, kind="stable")
    found = counted(logits, labels)
    assert found["correct"] == (logits.argmax(1) == labels).sum() == (order[:, 0] == labels).sum()
    assert found["correct5"] == (order[:, :5] == labels[:, None]).any(1).sum()


def test_padding_does_not_count_whatever_it_holds():
    state = init_state(SPEC, TX, 0)
    step = jax.jit(make_eval_step(ResNet(SPEC)))
    full = {**batch(), "mask": jnp.r_[jnp.ones(11), jnp.zeros(5)]}
    other = {**full, "image": full["image"].at[11:].set(7.0), "label": full["label"].at[11:].set(0)}
    assert jax.device_get(step(state.params, state.batch_stats, full)) == jax.device_get(
        step(state.params, state.batch_stats, other)
    )


def test_config_reaches_the_step(monkeypatch):
    """What `optimizer` does with its fields is tested beside it; these go another way."""
    seen = {}
    monkeypatch.setattr(
        program, "make_train_step", lambda model, tx, rate, **options: seen.update(options) or print
    )
    experiment.open(load([DIGITS]))
    assert seen == {"loss": Loss(label_smoothing=0.1), "accumulate": 1, "mix": None, "average": None}
    fields = (
        *("optimizer.label_smoothing=0.2", "optimizer.accumulate=4", "loss.name=binary", "loss.threshold=0.3"),
        *("mix.mixup=0.1", "mix.cutmix=0.7", "mix.definition=torchvision", "mix.group=32"),
        *("ema.decay=0.9", "ema.every_steps=5", "schedule.warmup_epochs=None", "schedule.warmup_steps=7"),
    )
    experiment.open(load([DIGITS, *(f"--config.{field}" for field in fields)]))
    assert seen == {
        "loss": Loss("binary", 0.2, 0.3),
        "accumulate": 4,
        "mix": Mix(0.1, 0.7, "torchvision", 32),
        "average": Ema(0.9, every=5, warmup=7),
    }


def test_metrics_tell_means_and_norms():
    """Beside the sums: the batch's means, the rate of this step, the gradient before clipping, the new weights."""
    rate = optax.linear_schedule(0.0, 1.0, 10)
    tx = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(rate))
    before = init_state(SPEC, tx, 0).replace(step=jnp.int32(3))
    step = make_train_step(ResNet(SPEC), tx, rate)
    after, metrics = jax.jit(step)(before, batch(), jnp.uint32(0))
    (loss, _), grads = loss_and_grad(SPEC, before, batch())
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    assert metrics["accuracy"] == metrics["sums"]["correct"] / 16
    assert metrics["accuracy_top5"] == metrics["sums"]["correct5"] / 16
    assert metrics["learning_rate"] == np.float32(0.3)
    for name, tree in (("gradient_norm", grads), ("weight_norm", after.params)):
        norm = np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in jax.tree.leaves(tree)))
        np.testing.assert_allclose(metrics[name], norm, rtol=1e-5)
