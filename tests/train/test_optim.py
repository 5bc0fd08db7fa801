"""Schedules and optimizers against the papers' recipe and against formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax.cli import load
from resjax.config import Durations, durations
from resjax.models import scan
from resjax.train.optim import learning_rate, optimizer, trust


def rates(*flags, size=50_000):
    """The schedule of a config as a function of the step, and its durations."""
    config = load(list(flags))
    plan = durations(config, size)
    schedule = learning_rate(config, plan)
    return lambda *steps: [round(float(schedule(step)), 7) for step in steps], plan


PAPER = (0, 399, 400, 31_999, 32_000, 47_999, 48_000, 63_999)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("v2-110", [0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ("v1-110", [0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ("v2-164", [0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ("v1-20", [0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ("plain-20", [0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
    ],
)
def test_papers_recipe(network, expected):
    rate, plan = rates(f"--config=configs/cifar10.py:{network}")
    assert rate(*PAPER) == expected
    assert plan.total == 64_000


def test_imagenet_recipe():
    rate, plan = rates("--config=configs/imagenet.py:v1-50", size=1_281_167)
    assert plan.total == round(90 * 1_281_167 / 256)
    epoch = 1_281_167 / 256
    assert rate(0, round(30 * epoch) - 1, round(30 * epoch), round(60 * epoch)) == [0.1, 0.1, 0.01, 0.001]


DIGITS = (
    "--config=configs/digits.py",
    "--config.total_steps=100",
    "--config.optimizer.learning_rate=0.1",
    "--config.schedule.name=cosine",
    "--config.schedule.warmup=linear",
)


def test_cosine_after_linear_warmup():
    rate, _ = rates(*DIGITS, "--config.schedule.warmup_steps=10", "--config.optimizer.learning_rate=0.2")
    assert rate(0, 5, 10, 55, 100) == pytest.approx([0.01, 0.105, 0.2, 0.1, 0.0], abs=1e-7)
    rate, _ = rates(*DIGITS, "--config.schedule.warmup=none")
    assert rate(0, 50, 100) == pytest.approx([0.1, 0.05, 0.0], abs=1e-7)


def test_cosine_to_a_final_rate():
    """final + (peak - final) (1 + cos(pi t / T)) / 2."""
    flags = ("--config.schedule.warmup_steps=10", "--config.schedule.final_rate=0.02")
    rate, _ = rates(*DIGITS, *flags)
    expected = [0.02 + 0.08 * (1 + np.cos(np.pi * t / 90)) / 2 for t in (0, 30, 45, 90)]
    assert rate(10, 40, 55, 100) == pytest.approx(expected, abs=1e-7)


def test_the_rate_grows_with_the_batch():
    """arXiv 1706.02677 section 2: k times the rate for k times the batch, after a warm-up from the rate of one."""
    flags = (
        "--config.optimizer.reference_batch=256",
        "--config.batch_size=1024",
        "--config.schedule.warmup_rate=0.1",
    )
    rate, _ = rates(*DIGITS, *flags, "--config.schedule.warmup_steps=10")
    assert rate(0, 5, 10, 55, 100) == pytest.approx([0.1, 0.25, 0.4, 0.2, 0.0], abs=1e-7)


def test_constant():
    rate, _ = rates(*DIGITS, "--config.schedule.name=constant", "--config.schedule.warmup=none")
    assert rate(0, 99, 10_000) == [0.1, 0.1, 0.1]


def test_drops_that_the_warmup_hides_have_happened_when_it_ends():
    rate, _ = rates(
        *DIGITS,
        "--config.schedule.name=piecewise",
        "--config.schedule.warmup=constant",
        "--config.schedule.warmup_steps=20",
        "--config.schedule.drop_steps=5,10,30",
    )
    assert rate(0, 19, 20, 29, 30) == [0.01, 0.01, 0.001, 0.001, 0.0001]


def test_factor():
    rate, _ = rates(
        *DIGITS,
        "--config.schedule.name=piecewise",
        "--config.schedule.warmup=none",
        "--config.schedule.drop_epochs=1,2.5",
        "--config.batch_size=32",
        "--config.schedule.drop_factor=0.5",
        size=64,
    )
    assert rate(1, 2, 4, 5) == [0.1, 0.05, 0.05, 0.025]


PARAMS = {
    "conv": {"kernel": np.array([[0.3, -1.2], [0.7, 2.0]], np.float32)},
    "norm": {"scale": np.array([1.1, 0.9], np.float32), "bias": np.array([0.2, -0.1], np.float32)},
}


def gradients(steps=5):
    rng = np.random.default_rng(1)
    return [jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), PARAMS) for _ in range(steps)]


def trained(*flags, grads, lr=0.1):
    # The papers' optimizer, but for what decays.
    config = load(["--config=configs/cifar10.py", "--config.optimizer.decay_mask=all", *flags])
    tx = optimizer(config, lambda step: lr * (1 - 0.1 * step))
    params, state = jax.tree.map(jnp.asarray, PARAMS), tx.init(PARAMS)
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
    return params


def close(params, expected, rtol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7), params, expected)


def by_hand(step, grads, lr=0.1):
    """Applies `step(name, w, g, memory, lr, t) -> w` to every leaf; `memory` is the leaf's own dict."""
    params = jax.tree.map(lambda x: x.astype(np.float64), PARAMS)
    memories: dict = {}
    for t, grad in enumerate(grads):
        for module, leaves in params.items():
            for name in leaves:
                memory = memories.setdefault((module, name), {})
                leaves[name] = step(name, leaves[name], grad[module][name], memory, lr * (1 - 0.1 * t), t)
    return params


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("mask", ["all", "kernels"])
def test_sgd(nesterov, mask):
    """v = m v + g + wd w; w -= lr v, or lr (g + wd w + m v) with Nesterov's momentum; the rate is outside v."""

    def step(name, w, g, memory, lr, t):
        g = g + 0.01 * w if mask == "all" or name == "kernel" else g
        v = memory["v"] = 0.9 * memory.get("v", 0) + g
        return w - lr * (g + 0.9 * v if nesterov else v)

    grads = gradients()
    flags = (f"nesterov={nesterov}", f"decay_mask={mask}", "weight_decay=0.01")
    close(trained(*(f"--config.optimizer.{f}" for f in flags), grads=grads), by_hand(step, grads))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("mask", ["all", "kernels"])
def test_adamw(nesterov, mask):
    """Decay is decoupled: it is no part of the moments. Nesterov's momentum looks one step ahead."""

    def step(name, w, g, memory, lr, t):
        m = memory["m"] = 0.8 * memory.get("m", 0) + 0.2 * g
        v = memory["v"] = 0.95 * memory.get("v", 0) + 0.05 * g**2
        ahead = 0.8 * m / (1 - 0.8 ** (t + 2)) + 0.2 * g / (1 - 0.8 ** (t + 1))
        mean = ahead if nesterov else m / (1 - 0.8 ** (t + 1))
        update = mean / (np.sqrt(v / (1 - 0.95 ** (t + 1))) + 1e-8)
        return w - lr * (update + (0.01 * w if mask == "all" or name == "kernel" else 0))

    grads = gradients()
    flags = ("name=adamw", "momentum=0.8", "beta2=0.95", "weight_decay=0.01", f"decay_mask={mask}")
    flags += (f"nesterov={nesterov}",)
    close(trained(*(f"--config.optimizer.{f}" for f in flags), grads=grads), by_hand(step, grads))


@pytest.mark.parametrize("decay", [0.02, 0.0])
@pytest.mark.parametrize("mask", ["all", "kernels"])
def test_lamb(mask, decay):
    """timm's Lamb: Adam's update, decayed, is rescaled to the norm of its weight; only where weights decay."""

    def step(name, w, g, memory, lr, t):
        norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(grads[t])))
        g = g / max(norm / 1.0, 1)
        m = memory["m"] = 0.9 * memory.get("m", 0) + (1 - 0.9) * g
        v = memory["v"] = 0.999 * memory.get("v", 0) + (1 - 0.999) * g**2
        denominator = np.sqrt(v) / (1 - 0.999 ** (t + 1)) ** 0.5 + 1e-6
        update = (m / (1 - 0.9 ** (t + 1))) / denominator
        if decay and (mask == "all" or name == "kernel"):
            update = update + decay * w
            of_w, of_u = np.sqrt((w**2).sum()), np.sqrt((update**2).sum())
            update = update * (of_w / of_u if of_w > 0 and of_u > 0 else 1)
        return w - lr * update

    grads = gradients()
    for grad in grads:  # so short that epsilon counts
        grad["conv"] = jax.tree.map(lambda x: 1e-5 * x, grad["conv"])
    flags = ("name=lamb", f"weight_decay={decay}", f"decay_mask={mask}", "clip_norm=1")
    # 1 - 0.999 in float32 is off by 5e-5 of itself, of which the root is taken.
    close(trained(*(f"--config.optimizer.{f}" for f in flags), grads=grads), by_hand(step, grads), rtol=1e-4)


def test_lamb_rescales_every_unit_of_a_scanned_stage_by_itself():
    rng = np.random.default_rng(0)

    def stage():
        return {f"unit{i}": {"conv": {"kernel": (i + 1) * rng.normal(size=(3, 2)).astype("f")}} for i in range(4)}

    unrolled = {"stage1": stage(), "head": {"kernel": rng.normal(size=(2, 2)).astype("f")}}
    zero = jax.tree.map(np.zeros_like, unrolled["stage1"]["unit3"])
    unrolled["stage1"]["unit3"] = zero  # a weight without a length keeps its update
    updates = {"stage1": stage(), "head": {"kernel": rng.normal(size=(2, 2)).astype("f")}}
    expected = jax.tree.map(lambda u, w: u * (np.linalg.norm(w) / np.linalg.norm(u) or 1), updates, unrolled)
    rolled = trust().update(scan.roll(updates), optax.EmptyState(), scan.roll(unrolled))[0]
    close(scan.unroll(rolled), expected)


@pytest.mark.parametrize(("nesterov", "theirs"), [(False, optax.adamw), (True, optax.nadamw)])
def test_adamw_is_optaxs(nesterov, theirs):
    grads = gradients()
    tx = theirs(lambda step: 0.1 * (1 - 0.1 * step), b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01)
    params, state = jax.tree.map(jnp.asarray, PARAMS), tx.init(PARAMS)
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    flags = ("name=adamw", f"nesterov={nesterov}", "weight_decay=0.01")
    close(trained(*(f"--config.optimizer.{f}" for f in flags), grads=grads), params)


def test_clip_is_of_the_global_norm_of_the_gradient_alone():
    def step(name, w, g, memory, lr, t):
        norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(grads[t])))
        g = g * min(1, 1.5 / norm) + 0.5 * w
        v = memory["v"] = 0.9 * memory.get("v", 0) + g
        return w - lr * v

    grads = gradients()
    grads[1] = jax.tree.map(lambda x: 0.01 * x, grads[1])  # one that is short enough
    flags = ("clip_norm=1.5", "weight_decay=0.5")
    close(trained(*(f"--config.optimizer.{f}" for f in flags), grads=grads), by_hand(step, grads))


def test_clip_comes_before_adams_moments_too():
    """Gradients of every length below the clip's train alike; decay does not count."""
    grads = gradients()
    norm = max(float(optax.tree.norm(grad)) for grad in grads)
    flags = [f"--config.optimizer.{f}" for f in ("name=adamw", "weight_decay=0.5")]
    free = trained(*flags, grads=grads)
    close(trained(*flags, f"--config.optimizer.clip_norm={1.01 * norm}", grads=grads), free)
    longer = [jax.tree.map(lambda x: 7 * x, grads[0]), *grads[1:]]
    short = [optax.tree.scale(1 / optax.tree.norm(grad), grad) for grad in longer]
    clipped = trained(*flags, "--config.optimizer.clip_norm=1", grads=longer)
    close(clipped, trained(*flags, grads=short))
    assert float(jnp.abs(clipped["conv"]["kernel"] - free["conv"]["kernel"]).max()) > 1e-4


def test_durations_is_all_that_a_schedule_needs():
    """A schedule is compiled into the step: it must work on traced steps."""
    config = load(["--config=configs/cifar10.py:v2-110"])
    plan = Durations(64_000, (32_000, 48_000), 400, 1, 1, 1, 1.0)
    traced = jax.vmap(learning_rate(config, plan))(jnp.array(PAPER))
    np.testing.assert_allclose(traced, [0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


UNITS, BELOW = (2, 3), 0.75
# BEiT's and timm's: a layer's rate times decay^(layers above it); stem 0, units 1 to 5, head 6.
FACTORS = {"stem": BELOW**6, "norm": 1.0, "head": 10.0} | {
    f"stage{stage}": {f"unit{i}": BELOW**power for i, power in enumerate(powers)}
    for stage, powers in {1: (5, 4), 2: (3, 2, 1)}.items()
}


def whole_network(seed):
    rng = np.random.default_rng(seed)

    def weights(_):
        return {"conv1": {"kernel": rng.normal(size=(3, 2)).astype("f"), "bias": rng.normal(size=2).astype("f")}}

    return jax.tree.map(weights, FACTORS)


# not lamb scanned: the norms of stacked weights are rounded otherwise
@pytest.mark.parametrize(
    ("name", "scanned"), [("sgd", False), ("sgd", True), ("adamw", False), ("adamw", True), ("lamb", False)]
)
def test_rates_by_layer(name, scanned):
    """A multiple of the update that there would be otherwise, bit for bit: decay's part too, and moments are as
    they were.
    """
    form = scan.roll if scanned else lambda tree: tree

    def updates(*flags):
        tx = optimizer(load([DIGITS[0], f"--config.optimizer.name={name}", *flags]), lambda step: 0.1)
        state, found = tx.init(form(whole_network(0))), []
        for seed in (1, 2):
            update, state = tx.update(form(whole_network(seed)), state, form(whole_network(seed + 2)))
            found.append(scan.unroll(update))
        return found

    fields = ("head_multiplier=10", f"layer_decay={BELOW}")
    flags = ["--config.model.units=2,3", "--config.model.widths=16,32"]
    flags += [f"--config.optimizer.{field}" for field in fields]
    for found, usual in zip(updates(*flags), updates(), strict=True):
        expected = jax.tree.map(
            lambda factor, part: jax.tree.map(lambda u: u * np.float32(factor), part), FACTORS, usual
        )
        jax.tree.map(np.testing.assert_array_equal, found, expected)
