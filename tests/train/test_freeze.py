"""Frozen parts against the rest of the network trained by itself, in loops written by hand."""

import dataclasses
import functools
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax import experiment
from resjax.cli import load
from resjax.errors import BadInput
from resjax.models.resnet import ResNet, Stage
from resjax.models.spec import Spec
from resjax.train import digest
from resjax.train.adopt import adopt
from resjax.train.checkpoint import Checkpoints
from resjax.train.ema import Ema
from resjax.train.loss import SOFTMAX
from resjax.train.optim import optimizer
from resjax.train.step import init_state, make_loss, make_train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

SPEC = Spec(units=(1, 1), widths=(4, 8), stem_width=4, input_size=8, input_channels=1)
FROZEN = ("stem", "stage1")
DIGITS = "--config=configs/digits.py"
RATE, MOMENTUM, DECAY, CLIP, AVERAGE = 0.1, 0.9, 0.01, 0.05, 0.7
RECIPE = (
    *(f"--config.optimizer.momentum={MOMENTUM}", f"--config.optimizer.weight_decay={DECAY}"),
    *(f"--config.optimizer.clip_norm={CLIP}", "--config.optimizer.decay_mask=kernels"),
)


def batch(seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(8, 8, 8, 1)).astype(np.float32)
    return {"image": jnp.asarray(image), "label": jnp.asarray(rng.integers(0, 10, 8, np.int32))}


def started(spec, frozen, *flags):
    """A state with statistics unlike those of any batch, and the jitted step."""
    tx = optimizer(load([DIGITS, *RECIPE, *flags]), lambda step: RATE)
    state = jax.jit(lambda: init_state(spec, tx, 0, averaged=True, frozen=frozen))()
    stats = jax.tree.map(lambda x: x + 0.3, state.batch_stats)
    state = state.replace(batch_stats=stats, ema={"params": state.params, "batch_stats": stats})
    step = make_train_step(
        ResNet(spec, frozen), tx, optax.constant_schedule(RATE), accumulate=2, average=Ema(AVERAGE)
    )
    return state, jax.jit(step)


@functools.cache
def trained(scanned):
    """The states before, between and after two steps of two microbatches, and the metrics."""
    spec = dataclasses.replace(SPEC, scan=True, units=(2, 2)) if scanned else SPEC
    state, step = started(spec, FROZEN)
    states, found = [state], []
    for i in range(2):
        state, metrics = step(state, batch(i), jnp.uint32(0))
        states.append(state)
        found.append(metrics)
    return spec, states, found


def bits(tree, parts=FROZEN):
    return jax.tree.map(lambda x: np.asarray(x).tobytes(), {part: tree[part] for part in parts})


@pytest.mark.parametrize("scanned", [False, True])
def test_frozen_parts_stay_bit_for_bit(scanned):
    _, (before, *after), _ = trained(scanned)
    for state in after:
        assert bits(state.params) == bits(state.ema["params"]) == bits(before.params)
        assert bits(state.batch_stats) == bits(state.ema["batch_stats"]) == bits(before.batch_stats)


@pytest.mark.parametrize("scanned", [False, True])
def test_the_others_train_on_the_frozen_parts_map(scanned):
    """Clip by the norm of their own gradients, decay, momentum, average and statistics, on a map that is given."""
    spec, (before, *after), metrics = trained(scanned)
    shapes = tuple(shape for shape in spec.unit_shapes() if shape.stage == 2)
    variables = {"params": before.params, "batch_stats": before.batch_stats}

    def loss(own, stats, image, label):
        maps = ResNet(spec).apply(variables, image, train=False, method="features")["stage1"]
        x, new = Stage(spec, shapes).apply(
            {"params": own["stage2"], "batch_stats": stats}, maps, train=True, mutable=["batch_stats"]
        )
        logits = x.mean((1, 2)) @ own["head"]["kernel"] + own["head"]["bias"][None]
        log_p = jax.nn.log_softmax(logits)
        return -log_p[jnp.arange(len(label)), label].mean(), new["batch_stats"]

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    own = {name: before.params[name] for name in ("stage2", "head")}
    stats, average = before.batch_stats["stage2"], own
    speed = jax.tree.map(np.zeros_like, own)
    for i, state in enumerate(after):
        grads = []
        for half in (0, 1):
            part = jax.tree.map(lambda x, half=half: x[half::2], batch(i))
            grad, stats = gradient(own, stats, part["image"], part["label"])
            grads.append(grad)
        grad = jax.tree.map(lambda a, b: (a + b) / 2, *grads)
        norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grad)))
        np.testing.assert_allclose(metrics[i]["gradient_norm"], norm, rtol=1e-4)
        assert norm > CLIP
        decayed = jax.tree_util.tree_map_with_path(
            lambda path, g, w, norm=norm: g * CLIP / norm + (DECAY * w if path[-1].key == "kernel" else 0),
            grad,
            own,
        )
        speed = jax.tree.map(lambda v, g: MOMENTUM * v + g, speed, decayed)
        own = jax.tree.map(lambda w, v: w - RATE * v, own, speed)
        # The first time the average is a copy.
        average = jax.tree.map(lambda e, w, i=i: AVERAGE * e + (1 - AVERAGE) * w if i else w, average, own)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        for name in own:
            jax.tree.map(close, state.params[name], own[name])
            jax.tree.map(close, state.ema["params"][name], average[name])
        jax.tree.map(close, state.batch_stats["stage2"], stats)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_the_optimizer_knows_nothing_of_frozen_parts(name):
    tx = optimizer(load([DIGITS, *RECIPE, f"--config.optimizer.name={name}"]), lambda step: RATE)
    whole, state = (jax.eval_shape(lambda f=f: init_state(SPEC, tx, 0, frozen=f)) for f in ((), FROZEN))
    assert jax.tree.map(lambda x: x.shape, whole.params) == jax.tree.map(lambda x: x.shape, state.params)

    def parts(tree):
        keys = (
            key.key for path, _ in jax.tree_util.tree_leaves_with_path(tree) for key in path if hasattr(key, "key")
        )
        return set(keys) & {"stem", "stage1", "stage2", "head"}

    assert parts(whole.opt_state) == {"stem", "stage1", "stage2", "head"}
    assert parts(state.opt_state) == {"stage2", "head"}


def test_frozen_parts_are_not_computed_backward():
    """A step is a forward pass and about twice that backward; of a linear probe it is the forward pass."""

    def flops(frozen):
        state, step = started(SPEC, frozen)
        cost = step.lower(state, batch(0), jnp.uint32(0)).cost_analysis()
        return cost["flops"]

    full, some, probe = (flops(frozen) for frozen in ((), FROZEN, SPEC.parts))
    assert probe < 0.45 * full
    assert probe < some < 0.9 * full


def test_no_gradient_reaches_a_frozen_part():
    """Whoever differentiates with respect to all parameters, as the benchmark of a step's parts does."""
    loss = make_loss(ResNet(SPEC, FROZEN), SOFTMAX)
    state, _ = started(SPEC, FROZEN)
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    found, _ = gradient(state.params, state.batch_stats, batch(0), jax.random.key(0))
    zero = {part: not any(np.any(g) for g in jax.tree.leaves(grads)) for part, grads in found.items()}
    assert zero == {"stem": True, "stage1": True, "stage2": False, "head": False}


def test_a_probe_trains_the_head_alone():
    """With the BN before it in a pre-activated network; nothing is dropped at random."""
    spec = dataclasses.replace(SPEC, order="full_preactivation", remat=True, stochastic_depth=0.9)
    before, step = started(spec, spec.parts)
    after, _ = step(before, batch(0), jnp.uint32(0))

    def changed(part):
        a, b = (bits(getattr(state, part), getattr(state, part)) for state in (before, after))
        return {name for name in a if a[name] != b[name]}

    assert changed("params") == {"head", "norm"}
    assert changed("batch_stats") == {"norm"}
    others, _ = step(before, batch(0), jnp.uint32(1))
    assert bits(others.params, others.params) == bits(after.params, after.params)


def test_a_checkpoint_is_restored_scanned_but_not_with_other_parts_frozen(tiny, tmp_path):
    def opened(*flags):
        return experiment.open(load([*tiny, "--config.total_steps=4", *flags]))

    def program(*flags):
        return opened(*flags).program

    run = opened("--config.optimizer.freeze=stem,stage1", "--config.ema.decay=0.9")
    own = run.program
    assert own.abstract.opt_state[1].trace.keys() == {"stage2", "head"}
    state = own.init(np.uint32(0))
    weights = {"params": state.params, "batch_stats": state.batch_stats}
    assert adopt(tmp_path / "import", run.config, weights, run.dataset.preprocessing, {}) == digest.of(state)
    with closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        checkpoints.save(state, {"config": {}})
    scanned = program("--config.optimizer.freeze=stem,stage1", "--config.ema.decay=0.9", "--config.model.scan=true")
    other = program("--config.optimizer.freeze=stem", "--config.ema.decay=0.9")
    with closing(Checkpoints(tmp_path)) as checkpoints:
        found, _ = checkpoints.restore(scanned.abstract, 0)
        with pytest.raises(BadInput, match="another state: opt_state/"):
            checkpoints.restore(other.abstract, 0)
    assert digest.of(found) == digest.of(state)
