"""Batch normalisation against NumPy: over the batch, over groups, in evaluation, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from resjax.models.norm import BatchNorm

EPSILON = 1e-5
SHAPES = [(8, 3, 3, 5), (8, 5)]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)


def variables(channels: int = 5) -> dict:
    rng = np.random.default_rng(1)
    gamma, beta, mean = rng.normal(size=(3, channels)).astype(np.float32)
    var = rng.uniform(0.5, 2, channels).astype(np.float32)
    return {"params": {"scale": gamma, "bias": beta}, "batch_stats": {"mean": mean, "var": var}}


def apply(norm: BatchNorm, v: dict, x: np.ndarray, train: bool = True) -> tuple[np.ndarray, dict]:
    y, state = norm.apply(v, jnp.asarray(x), train, mutable=["batch_stats"])
    return np.asarray(y), state["batch_stats"]


def two_pass(x: np.ndarray, v: dict) -> np.ndarray:
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes, dtype=np.float64)
    var = np.square(x - mean).mean(axes)
    return (x - mean) / np.sqrt(var + EPSILON) * v["params"]["scale"] + v["params"]["bias"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group", [0, 4, 8])
def test_against_two_passes_over_every_group(shape: tuple[int, ...], group: int) -> None:
    x, v = draw(*shape), variables()
    y, _ = apply(BatchNorm(group=group), v, x)
    groups = x.reshape(-1, group or 8, *shape[1:])
    np.testing.assert_allclose(y, np.concatenate([two_pass(g, v) for g in groups]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group", [0, 2])
def test_running_statistics_are_means_over_groups(group: int) -> None:
    x, v = draw(*SHAPES[0]), variables()
    _, stats = apply(BatchNorm(group=group, momentum=0.8), v, x)
    groups = x.reshape(-1, (group or 8) * 9, 5)
    # The biased variance within groups, not the variance of the whole batch.
    for name, new in (("mean", groups.mean(1).mean(0)), ("var", groups.var(1).mean(0))):
        np.testing.assert_allclose(stats[name], 0.8 * v["batch_stats"][name] + 0.2 * new, rtol=1e-5)


def test_evaluation_reads_the_running_statistics_and_leaves_them() -> None:
    x, v = draw(*SHAPES[0]), variables()
    y, stats = apply(BatchNorm(), v, x, train=False)
    mean, var = v["batch_stats"]["mean"], v["batch_stats"]["var"]
    expected = (x - mean) / np.sqrt(var + EPSILON) * v["params"]["scale"] + v["params"]["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert all((stats[name] == v["batch_stats"][name]).all() for name in stats)
    # Nothing depends on the rest of the batch, nor on the group.
    alone, _ = apply(BatchNorm(group=4), v, x[:1], train=False)
    np.testing.assert_array_equal(alone, y[:1])


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_in_and_out_with_float32_statistics(train: bool) -> None:
    x, v = jnp.asarray(draw(64, 4, 4, 5) + 100, jnp.bfloat16), variables()
    y, stats = apply(BatchNorm(), v, x, train)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
    exact, stats_of_float32 = apply(BatchNorm(), v, x.astype(jnp.float32), train)
    # The same numbers as in float32 but for the rounding of the output.
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), stats, stats_of_float32))


def test_a_constant_channel_stays_finite() -> None:
    y, stats = apply(BatchNorm(), variables(), np.full((8, 4, 4, 5), 1000.1, np.float32))
    assert np.isfinite(y).all()
    assert (np.asarray(stats["var"]) >= 0).all()


@pytest.mark.parametrize("group", [0, 4])
def test_one_device_and_eight_give_equal_numbers(group: int) -> None:
    x, v = draw(32, 3, 3, 5), variables()
    step = jax.jit(lambda x: BatchNorm(group=group).apply(v, x, True, mutable=["batch_stats"]))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert len(sharded.sharding.device_set) == 8
    one, eight = step(x), step(sharded)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, eight)


@pytest.mark.parametrize("train", [False, True])
def test_initialisation_leaves_the_running_statistics_alone(train: bool) -> None:
    v = BatchNorm(zero_scale=True, shift=-6.0).init(jax.random.key(0), jnp.asarray(draw(8, 5)), train)
    assert (v["batch_stats"]["mean"] == 0).all()
    assert (v["batch_stats"]["var"] == 1).all()
    assert (v["params"]["scale"] == 0).all()
    assert (v["params"]["bias"] == -6).all()
