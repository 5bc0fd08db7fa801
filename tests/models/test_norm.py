"""Batch normalisation and its gradient against float64: in groups, in evaluation, on one device and on eight."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from resjax.models.norm import BatchNorm, normalize

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
    y, state = jax.jit(lambda v, x: norm.apply(v, x, train, mutable=["batch_stats"]))(v, x)
    return np.asarray(y), state["batch_stats"]


def plain(x, gamma, beta, axes, epsilon=EPSILON):
    """The formula as the paper has it, of NumPy or of JAX arrays; JAX can differentiate it."""
    mean = x.mean(axes, keepdims=True)
    var = ((x - mean) ** 2).mean(axes, keepdims=True)
    return gamma * (x - mean) / (var + epsilon) ** 0.5 + beta


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group", [0, 4, 8])
def test_against_the_formula_over_every_group(shape: tuple[int, ...], group: int) -> None:
    x, v = draw(*shape), variables()
    y, _ = apply(BatchNorm(group=group), v, x)
    groups = x.astype(np.float64).reshape(-1, group or 8, *shape[1:])
    expected = [plain(g, *v["params"].values(), tuple(range(g.ndim - 1))) for g in groups]
    np.testing.assert_allclose(y, np.concatenate(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 16, 16, 8), (64, 2, 2, 64), (128, 64)])
@pytest.mark.parametrize("mean", [0, 3, -10, 100, 1000])
def test_a_mean_far_from_zero_costs_no_digits(mean: float, shape: tuple[int, ...]) -> None:
    x = (mean + np.random.default_rng(0).normal(size=shape)).astype(np.float32)
    channels = np.ones(shape[-1], np.float32)
    v = {"params": {"scale": channels, "bias": 0 * channels}, "batch_stats": {"mean": channels, "var": channels}}
    for group in (0, 32):
        y, stats = apply(BatchNorm(group=group, momentum=0.0), v, x)
        groups = x.astype(np.float64).reshape(-1, group or len(x), *shape[1:])
        axes = tuple(range(1, groups.ndim - 1))
        assert abs(y - plain(groups, 1, 0, axes).reshape(shape)).max() <= 1e-6
        np.testing.assert_allclose(stats["var"], groups.var(axes).mean(0), rtol=2e-6)
        np.testing.assert_allclose(stats["mean"], groups.mean(axes).mean(0), rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize(
    ("shape", "axes"), [((6, 3, 4, 5), (0, 1, 2)), ((2, 3, 3, 4, 5), (1, 2, 3)), ((6, 5), (0,)), ((2, 3, 5), (1,))]
)
def test_gradient_is_that_of_the_formula(shape: tuple[int, ...], axes: tuple[int, ...], scale: float) -> None:
    rng = np.random.default_rng(0)
    flat = (1,) * (len(shape) - 1) + shape[-1:]
    with jax.enable_x64(True):
        x, g = 2 + rng.normal(size=(2, *shape))
        arguments = jnp.asarray(x), jnp.asarray(scale * rng.normal(size=flat)), jnp.asarray(rng.normal(size=flat))

        def both(f: Callable[..., jax.Array]) -> tuple[jax.Array, ...]:
            y, backward = jax.vjp(f, *arguments)
            return y, *backward(jnp.asarray(g))

        own = jax.jit(lambda: both(lambda *a: normalize(*a, axes, 0.1)[0]))()
        expected = jax.jit(lambda: both(lambda *a: plain(*a, axes, 0.1)))()
        for found, exact in zip(own, expected, strict=True):
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)


def gradients(norm: BatchNorm, v: dict, x: jax.Array, g: jax.Array) -> tuple[dict, jax.Array]:
    def y(params: dict, x: jax.Array) -> jax.Array:
        return norm.apply({**v, "params": params}, x, True, mutable=["batch_stats"])[0]

    return jax.jit(lambda params, x, g: jax.vjp(y, params, x)[1](g))(v["params"], x, g)


@pytest.mark.parametrize("mean", [0, 10])
def test_gradient_in_float32(mean: float) -> None:
    x, g = np.random.default_rng(0).normal(size=(2, 64, 8, 8, 5)).astype(np.float32)
    x, v = x + np.float32(mean), variables()
    found = jax.tree.leaves(gradients(BatchNorm(), v, x, g + 1))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (v, x, g + 1))
        exact = jax.tree.leaves(gradients(BatchNorm(), *wide))
        for own, one in zip(found, exact, strict=True):
            # The sums are over g x, whose rounding grows with the mean.
            assert abs(own - one).max() <= 1e-5 * (1 + mean) * np.sqrt(np.square(one).mean())


def test_gradients_have_the_types_of_what_they_are_of() -> None:
    v, norm = variables(), BatchNorm(group=4)
    x, g = (jnp.asarray(draw(8, 3, 3, 5) + shift, jnp.bfloat16) for shift in (0, 1))
    of_params, of_x = gradients(norm, v, x, g)
    exact_params, exact_x = gradients(norm, v, x.astype(jnp.float32), g.astype(jnp.float32))
    assert of_x.dtype == jnp.bfloat16
    np.testing.assert_array_equal(of_x, exact_x.astype(jnp.bfloat16))
    for name in ("scale", "bias"):
        assert of_params[name].dtype == jnp.float32
        np.testing.assert_allclose(of_params[name], exact_params[name], rtol=1e-6)


def test_float64_stays_float64_and_its_statistics_float32() -> None:
    x, v = draw(8, 3, 3, 5), variables()
    with jax.enable_x64(True):
        y, state = BatchNorm().apply(v, jnp.asarray(x, jnp.float64), True, mutable=["batch_stats"])
        expected = plain(x.astype(np.float64), *v["params"].values(), (0, 1, 2))
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


def test_gradient_is_the_same_where_the_forward_pass_is_repeated() -> None:
    x, v = jnp.asarray(draw(8, 3, 3, 5)), variables()

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sin(BatchNorm(group=4).apply(v, x, True, mutable=["batch_stats"])[0]).sum()

    found, again = (jax.jit(jax.grad(f))(x) for f in (loss, jax.checkpoint(loss)))
    np.testing.assert_allclose(again, found, rtol=0, atol=1e-6)


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


def test_evaluation_with_small_variances_and_large_means() -> None:
    x, v = draw(8, 3, 3, 5), variables()
    var, mean = np.array([1e-6, 1e-5, 1e-4, 1, 1e4], np.float32), np.array([0, 3, -3, 1000, -1000], np.float32)
    x = (x - 3) * np.sqrt(var) + mean
    v["batch_stats"] = {"mean": mean, "var": var}
    y, _ = apply(BatchNorm(), v, x, train=False)
    expected = (x.astype(np.float64) - mean) / np.sqrt(var.astype(np.float64) + EPSILON)
    np.testing.assert_allclose(y, expected * v["params"]["scale"] + v["params"]["bias"], rtol=0, atol=1e-6)


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


@pytest.fixture(scope="module")
def over_eight() -> NamedSharding:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data"))


@pytest.mark.parametrize("group", [0, 4, 8])
def test_one_device_and_eight_give_equal_numbers(group: int, over_eight: NamedSharding) -> None:
    x, g, v = draw(32, 3, 3, 5), draw(32, 3, 3, 5)[::-1] - 2, variables()
    norm = BatchNorm(group=group)
    step = jax.jit(lambda x, g: (norm.apply(v, x, True, mutable=["batch_stats"]), gradients(norm, v, x, g)))
    sharded = jax.device_put((x, g), over_eight)
    assert len(sharded[0].sharding.device_set) == 8
    (outputs, of_one), (outputs_of_eight, of_eight) = step(x, g), step(*sharded)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6), outputs, outputs_of_eight)
    # Those of gamma and beta are sums of 288 products of about 10: 3,000 times float32's 1e-7.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=5e-4), of_one[0], of_eight[0])
    np.testing.assert_allclose(of_one[1], of_eight[1], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("group", "most"), [(0, 3), (4, 0)])
def test_groups_that_lie_on_one_device_need_no_messages(group: int, most: int, over_eight: NamedSharding) -> None:
    """The whole batch takes one for the guess of the mean, one for the statistics, one in the backward pass."""
    v, x = variables(), jax.device_put(draw(32, 3, 3, 5), over_eight)

    def output_and_gradient(x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, backward = jax.vjp(lambda x: BatchNorm(group=group).apply(v, x, True, mutable=["batch_stats"])[0], x)
        return y, backward(g)[0]

    compiled = jax.jit(output_and_gradient, out_shardings=over_eight).lower(x, x).compile().as_text()
    messages = re.findall(r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", compiled)
    assert set(messages) == ({"all-reduce"} if most else set())
    assert len(messages) <= most


@pytest.mark.parametrize("train", [False, True])
def test_initialisation_leaves_the_running_statistics_alone(train: bool) -> None:
    v = BatchNorm(zero_scale=True, shift=-6.0).init(jax.random.key(0), jnp.asarray(draw(8, 5)), train)
    assert (v["batch_stats"]["mean"] == 0).all()
    assert (v["batch_stats"]["var"] == 1).all()
    assert (v["params"]["scale"] == 0).all()
    assert (v["params"]["bias"] == -6).all()
