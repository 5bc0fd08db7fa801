"""The arguments of both papers as experiments on stacks of fully connected units, where they are exact."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.models.resnet import Stage
from resjax.models.spec import Spec

KEY = jax.random.key(0, impl="rbg")
PREACTIVATED = {"order": "full_preactivation"}


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def stack(length: int, width: int, **fields: object) -> Stage:
    """`length` units of one width. None is the network's first, which would skip its pre-activation."""
    fields = {"unit": "dense", "stem": "dense", "stem_width": width, "scan": True, "input_size": 1, **fields}
    spec = Spec(units=(length + 1,), widths=(width,), **fields)
    return Stage(spec, tuple(spec.unit_shapes())[1:])


@cache
def initialise(stage: Stage, width: int) -> dict:
    return jax.jit(lambda: stage.init(KEY, jnp.zeros((1, width)), False))()


def init(stage: Stage, x: np.ndarray) -> dict:
    return initialise(stage, x.shape[-1])


def zeros(stage: Stage, x: np.ndarray) -> dict:
    """Variables in which every weight, bias, gamma and beta is zero."""
    shapes = jax.eval_shape(lambda: stage.init(KEY, jnp.asarray(x), False))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@cache
def forward_program(stage: Stage) -> Callable:
    """The output in training, and what the units sowed. Compiled once for all parameters."""
    mutable = ["batch_stats", "intermediates"]
    return jax.jit(lambda v, x: stage.apply(v, x, True, mutable=mutable, rngs={"dropout": KEY}))


@cache
def backward_program(stage: Stage, train: bool) -> Callable:
    def pull_back(v: dict, x: jax.Array, cotangent: jax.Array) -> jax.Array:
        def f(x: jax.Array) -> jax.Array:
            return stage.apply(v, x, train, mutable=["batch_stats"])[0]

        return jax.vjp(f, x)[1](cotangent)[0]

    return jax.jit(pull_back)


def forward(stage: Stage, v: dict, x: np.ndarray) -> jax.Array:
    return forward_program(stage)(v, x)[0]


def sown(stage: Stage, v: dict, x: np.ndarray) -> dict[str, jax.Array]:
    """The branch and the skip of every unit, [L, N, C]."""
    units = forward_program(stage)(v, x)[1]["intermediates"]
    return {
        name: jnp.concatenate([units["unit0"][name][0][None], units["units"][name][0]])
        for name in ("branch", "skip")
    }


def pull_back(stage: Stage, v: dict, x: np.ndarray, cotangent: np.ndarray, train: bool = False) -> jax.Array:
    """dE/dx_l where dE/dx_L is `cotangent`."""
    return backward_program(stage, train)(v, x, cotangent)


# Identity.


@pytest.mark.parametrize("depth", [2, 50])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_units_without_a_residual_are_the_identity_after_a_relu(depth: int, norm: str) -> None:
    x = np.maximum(draw(4, 8), 0)
    if norm == "batch":
        stage = stack(depth, 8, zero_gamma=True)
        v = init(stage, x)
    else:
        stage = stack(depth, 8, norm="none")
        v = zeros(stage, x)
    np.testing.assert_array_equal(forward(stage, v, x), x)
    # The ReLU after the addition cuts what is negative.
    np.testing.assert_array_equal(forward(stage, v, -x), 0 * x)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_preactivated_units_without_a_residual_are_the_identity_for_any_sign(norm: str) -> None:
    x = draw(4, 8)
    stage = stack(50, 8, norm=norm, **PREACTIVATED)
    np.testing.assert_array_equal(forward(stage, zeros(stage, x), x), x)


# Weight decay.


def test_shrinking_weights_lead_to_the_identity_only_without_bn() -> None:
    x = np.abs(draw(16, 8))

    def change(norm: str, which: str, factor: float) -> float:
        """How far one unit is from the identity when the leaves called `which` shrink by `factor`."""
        stage = stack(1, 8, norm=norm, bn_epsilon=1e-12)
        v = init(stage, x)
        params = jax.tree.map_with_path(
            lambda path, leaf: leaf * factor if path[-1].key in which else leaf, v["params"]
        )
        return float(abs(forward(stage, {**v, "params": params}, x) - x).max())

    assert change("none", "kernel", 1e-3) < 1e-5 < change("none", "kernel", 1.0)
    assert change("batch", "kernel", 1e-3) == pytest.approx(change("batch", "kernel", 1.0), rel=1e-3)
    assert change("batch", "kernel", 1.0) > 0.5
    assert change("batch", "scale bias", 1e-3) < 1e-2
    assert change("batch", "scale bias", 0.0) == 0


# Projections.


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_unit_that_widens_is_its_projection(shortcut: str) -> None:
    spec = Spec(
        units=(1, 1), widths=(128, 256), unit="dense", stem="dense", stem_width=128, norm="none", shortcut=shortcut
    )
    stage = Stage(spec, tuple(spec.unit_shapes())[1:])
    x, learned = draw(4, 128), draw(128, 256, seed=1)
    v = zeros(stage, x)
    padding = np.eye(128, 256, dtype=np.float32)
    if shortcut == "B":
        assert v["params"]["unit0"]["shortcut"]["conv"]["kernel"].shape == (128, 256)
        v["params"]["unit0"]["shortcut"]["conv"]["kernel"] = learned
    expected = np.maximum(x @ (learned if shortcut == "B" else padding), 0)
    np.testing.assert_allclose(forward(stage, v, x), expected, rtol=1e-4, atol=1e-5)


# The unrolled sum, its gradient, and what a ReLU after the addition does to them.


def test_preactivated_output_is_the_input_plus_every_branch() -> None:
    x, stage = draw(16, 8), stack(20, 8, **PREACTIVATED)
    y, parts = forward(stage, init(stage, x), x), sown(stage, init(stage, x), x)
    np.testing.assert_allclose(y, x + parts["branch"].sum(0), rtol=1e-4, atol=1e-4)
    # The same from any unit on: what unit l carries is x_l.
    np.testing.assert_allclose(y, parts["skip"][7] + parts["branch"][7:].sum(0), rtol=1e-4, atol=1e-4)


def test_a_relu_after_the_addition_makes_the_sum_a_lower_bound() -> None:
    x, stage = np.abs(draw(16, 8)), stack(20, 8)
    v = init(stage, x)
    cut = forward(stage, v, x) - (x + sown(stage, v, x)["branch"].sum(0))
    assert (cut >= -1e-4).all()
    assert cut.max() > 0.1


def test_gradient_is_a_direct_term_plus_the_branches() -> None:
    x, direct = draw(16, 8), draw(16, 8, seed=1)
    stage = stack(10, 8, **PREACTIVATED)
    v = init(stage, x)
    gradient = pull_back(stage, v, x, direct, train=True)
    through_branches = jax.vjp(lambda x: sown(stage, v, x)["branch"].sum(0), x)[1](direct)[0]
    np.testing.assert_allclose(gradient, direct + through_branches, rtol=1e-3, atol=1e-4)
    assert abs(through_branches).max() > 0.1

    # With the branches scaled away the direct term is all that stays.
    faint = stack(10, 8, branch_scale=1e-3, **PREACTIVATED)
    rest = abs(pull_back(faint, v, x, direct, train=True) - direct).max()
    assert 0 < rest < 0.02


# Shortcuts that are not clean.


@pytest.mark.parametrize(("length", "product"), [(18, 3.8e-6), (54, 5.6e-17)])
def test_half_a_shortcut_multiplies_up(length: int, product: float) -> None:
    x, direct = draw(4, 8), draw(4, 8, seed=1)
    stage = stack(length, 8, shortcut_scale=0.5, norm="none", **PREACTIVATED)
    gradient = pull_back(stage, zeros(stage, x), x, direct)
    np.testing.assert_array_equal(gradient, direct * np.float32(0.5**length))
    assert 0.5**length == pytest.approx(product, rel=0.02)


@pytest.mark.parametrize("gate", ["exclusive", "shortcut_only"])
@pytest.mark.parametrize(
    ("length", "products"),
    [(54, {0: 5.6e-17, -5: 0.696, -6: 0.875, -7: 0.952}), (18, {0: 3.8e-6, -5: 0.886, -6: 0.956, -7: 0.984})],
)
def test_a_gate_at_its_bias_multiplies_up(length: int, products: dict[int, float], gate: str) -> None:
    x = np.abs(draw(4, 8)) + 1
    stage = stack(length, 8, gate=gate, norm="none", unit="dense_single")
    v = zeros(stage, x)
    for bias, product in products.items():
        for unit in v["params"].values():
            unit["gate"]["conv1"]["bias"][...] = bias
        gradient = pull_back(stage, v, x, np.ones_like(x))
        np.testing.assert_allclose(gradient, np.full_like(x, product), rtol=0.02)


def test_dropout_scales_the_shortcut_in_expectation() -> None:
    x = np.ones((512, 64), np.float32)
    stage = stack(4, 64, shortcut_dropout=0.5, norm="none", unit="dense_single")
    v = zeros(stage, x)
    assert set(np.unique(forward(stage, v, x))) == {0, 1}  # survivors are not rescaled
    np.testing.assert_allclose(sown(stage, v, x)["skip"].mean((1, 2)), 0.5 ** np.arange(1, 5), rtol=0.1)
    np.testing.assert_array_equal(jax.jit(lambda v, x: stage.apply(v, x, False))(v, x), 0.5**4 * x)


# Depth without shortcuts.


@pytest.mark.parametrize(("length", "most"), [(10, 9.5e-7), (20, 9.1e-13), (50, 7.9e-31)])
def test_a_sigmoid_passes_a_quarter_of_the_gradient_at_most(length: int, most: float) -> None:
    stage = stack(length, 1, shortcut="none", norm="none", activation="sigmoid", unit="dense_single")
    x = np.full((1, 1), 0.5, np.float32)
    v = zeros(stage, x)

    def gradient(bias: float) -> float:
        for unit in v["params"].values():
            unit["conv1"]["kernel"][...], unit["conv1"]["bias"][...] = 1, bias
        return float(pull_back(stage, v, x, np.ones_like(x))[0, 0])

    # With this bias every layer stands at z = 0, where the slope is the largest: sigmoid(0.5 - 0.5) = 0.5.
    assert gradient(-0.5) == pytest.approx(0.25**length, rel=1e-5)
    assert 0.25**length == pytest.approx(most, rel=0.01)
    assert 0 < gradient(0.3) < 0.25**length


@pytest.mark.parametrize(("gain", "per_layer"), [(2.0, 1.0), (1.0, 0.5)])
def test_he_initialisation_keeps_the_variance(gain: float, per_layer: float) -> None:
    x = np.maximum(draw(256, 256), 0)
    stage = stack(12, 256, shortcut="none", norm="none", unit="dense_single", init_gain=gain)
    y = forward(stage, init(stage, x), x)
    measured = float(np.mean(np.square(y)) / np.mean(np.square(x)))
    assert measured ** (1 / 12) == pytest.approx(per_layer, rel=0.1)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_variance_of_54_preactivated_units(norm: str) -> None:
    x = draw(128, 128)
    stage = stack(54, 128, norm=norm, **PREACTIVATED)
    variance = sown(stage, init(stage, x), x)["skip"].var((1, 2))  # of x_l, for l = 0 to 53
    if norm == "none":
        # Every branch has the variance of its input: the sum doubles.
        assert np.log2(variance[-1] / variance[0]) / 53 == pytest.approx(1, abs=0.1)
    else:
        # Every branch starts from unit variance: the sum grows by about one a unit.
        np.testing.assert_allclose(variance, 1 + np.arange(54), rtol=0.25)
