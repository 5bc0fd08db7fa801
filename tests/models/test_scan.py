"""The scanned form of a network is the same function as the unrolled one, and its variables convert exactly."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax.models import published
from resjax.models.resnet import ResNet
from resjax.models.scan import roll, unroll
from resjax.models.spec import Spec

KEY = jax.random.key(0, impl="rbg")
# Ten units and more sort differently as text and as numbers; a stage of one unit has nothing to stack.
SPEC = Spec(units=(12, 1, 2), widths=(4, 8, 16), stem_width=4, input_size=8)


@flax.struct.dataclass
class State:
    """What a training run carries."""

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    rng: Any


def filled(tree: Any) -> Any:
    """The tree with a different random number in every place."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), tree)


def variables(spec: Spec) -> dict:
    x = jnp.zeros((1, spec.input_size, spec.input_size, spec.input_channels))
    return jax.eval_shape(lambda: dict(ResNet(spec).init(KEY, x)))


def train_state(spec: Spec) -> State:
    v = filled(variables(spec))
    optimizer = optax.chain(
        optax.add_decayed_weights(1e-4), optax.sgd(optax.linear_schedule(0, 1, 9), momentum=0.9)
    )
    opt_state = optimizer.init(v["params"])
    momentum = jax.tree.map(lambda leaf: leaf + 1, opt_state)
    return State(jnp.int32(7), v["params"], v["batch_stats"], momentum, jax.random.key_data(KEY))


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype, path
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def test_a_train_state_goes_there_and_back_bit_for_bit() -> None:
    state = train_state(SPEC)
    scanned = roll(state)
    assert set(scanned.params["stage1"]) == {"unit0", "units"}
    assert set(scanned.params["stage2"]) == {"unit0"}
    assert_same(unroll(scanned), state)
    assert_same(roll(unroll(scanned)), scanned)


def test_both_directions_are_idempotent() -> None:
    state = train_state(SPEC)
    assert_same(unroll(state), state)
    assert_same(roll(roll(state)), roll(state))


def test_units_are_stacked_in_their_order() -> None:
    params = filled(variables(SPEC))["params"]
    stacked = roll(params)["stage1"]["units"]["conv1"]["kernel"]
    assert len(stacked) == 11
    for i in range(1, 12):
        np.testing.assert_array_equal(stacked[i - 1], params["stage1"][f"unit{i}"]["conv1"]["kernel"])


@pytest.mark.parametrize("spec", [SPEC, dataclasses.replace(published.cifar("v2-164"), units=(3, 2, 1))])
def test_abstract_trees_are_what_each_form_initialises(spec: Spec) -> None:
    unrolled, scanned = variables(spec), variables(dataclasses.replace(spec, scan=True))
    assert jax.eval_shape(roll, unrolled) == scanned
    assert jax.eval_shape(unroll, scanned) == unrolled


SMALL = {"units": (3,), "widths": (8,), "stem_width": 4, "input_size": 8}
BOTTLENECKS = {"unit": "bottleneck", "order": "full_preactivation", "shortcut": "B"}
CASES: dict[str, tuple[dict, bool]] = {
    "v1": ({"units": (3, 2), "widths": (4, 8)}, True),
    "v2": (BOTTLENECKS, True),
    "gates": ({"gate": "exclusive", "gate_bias": -1.0, "shortcut": "C"}, True),
    "plain": ({"shortcut": "none"}, True),
    "groups, squeeze-and-excitation and a raw stem": (
        BOTTLENECKS | {"squeeze": 2, "groups": 2, "excitation": 4, "stem_raw": True},
        True,
    ),
    "stochastic depth in evaluation": ({"stochastic_depth": 0.5}, False),
    "recomputed": ({"remat": True}, True),
}


def outcome(spec: Spec, v: dict, train: bool) -> dict:
    """Logits, loss, gradients and statistics of one batch, in the unrolled form."""
    x, labels = np.random.default_rng(1).normal(size=(8, 8, 8, 3)).astype(np.float32), np.arange(8)

    def loss(params: dict) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        logits, state = ResNet(spec).apply({**v, "params": params}, x, train, mutable=["batch_stats"])
        mean = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return mean, (logits, state["batch_stats"])

    def step(params: dict) -> dict:
        (value, (logits, stats)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return unroll({"loss": value, "logits": logits, "stats": stats, "grads": grads})

    return jax.jit(step)(v["params"])


@pytest.mark.parametrize("case", CASES)
def test_scanned_and_unrolled_networks_agree(case: str) -> None:
    fields, train = CASES[case]
    spec = Spec(**{**SMALL, **fields})
    v = filled(variables(spec))
    v["params"] = jax.tree.map(lambda leaf: leaf / 3, v["params"])
    v["batch_stats"] = jax.tree.map(abs, v["batch_stats"])
    plain = outcome(dataclasses.replace(spec, remat=False), v, train)
    scanned = outcome(dataclasses.replace(spec, scan=True), roll(v), train)
    assert jax.tree.structure(plain) == jax.tree.structure(scanned)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, scanned)
    if spec.remat:
        recomputed = outcome(spec, v, train)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, recomputed)
    assert all(abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain["grads"]["stage1"]["unit2"]["conv1"]))
