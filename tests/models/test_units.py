"""Every value of a unit against its formula, written out on small arrays without any of the layers."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.models import layout, published
from resjax.models.layers import Part
from resjax.models.resnet import ResNet, init_variables
from resjax.models.spec import ORDERS, UNITS, Spec, UnitShape
from resjax.models.units import Unit

# Its draws compile in a tenth of the time that the default generator's take on a CPU.
KEY = jax.random.key(0, impl="rbg")
N, SIDE, WIDTH = 3, 6, 8
MUTABLE = ("batch_stats", "intermediates")
SAME = UnitShape(stage=1, index=1, in_width=WIDTH, width=WIDTH, stride=1, size=SIDE, survival=1.0)
DOWN = dataclasses.replace(SAME, stage=2, index=0, in_width=4, stride=2)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def conv(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """A convolution as a sum over kernel positions, padded alike on both sides; a product for dense layers."""
    if kernel.ndim == 2:
        return x @ kernel
    k = len(kernel)
    padded = np.pad(x, [(0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)])
    out = [-(-side // stride) for side in x.shape[1:3]]
    total = 0
    for i in range(k):
        for j in range(k):
            rows = slice(i, i + stride * (out[0] - 1) + 1, stride)
            columns = slice(j, j + stride * (out[1] - 1) + 1, stride)
            total = total + padded[:, rows, columns] @ kernel[i, j]
    return total


class Reference:
    """A unit's parameters in float64, and what a formula needs: c(onvolution), n(orm), a(ctivation)."""

    def __init__(self, params: dict, stride: int = 1, strided: int = 1, a: Callable = relu) -> None:
        self.params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        self.stride, self.strided, self.a = stride, strided, a

    def c(self, i: int, x: np.ndarray) -> np.ndarray:
        layer = self.params[f"conv{i}"]
        return conv(x, layer["kernel"], self.stride if i == self.strided else 1) + layer.get("bias", 0)

    def n(self, i: int, x: np.ndarray) -> np.ndarray:
        return self.norm(self.params[f"norm{i}"], x)

    def norm(self, layer: dict, x: np.ndarray) -> np.ndarray:
        axes = tuple(range(x.ndim - 1))
        return (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) * layer["scale"] + layer["bias"]

    def part(self, name: str) -> "Reference":
        return Reference(self.params[name], self.stride, a=self.a)

    def project(self, x: np.ndarray, norm: bool = True) -> np.ndarray:
        layers = self.params["shortcut"]
        y = conv(x, layers["conv"]["kernel"], self.stride)
        return self.norm(layers["norm"], y) if norm else y


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def start(module: nn.Module, x: np.ndarray) -> dict:
    """Variables with random parameters (an initial gamma or beta would hide mistakes) and fresh statistics."""
    shapes = jax.eval_shape(lambda: module.init(KEY, jnp.asarray(x), False))
    leaves, structure = jax.tree.flatten(shapes["params"])
    params = structure.unflatten([0.5 * draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])
    stats = {"mean": np.zeros, "var": np.ones}
    return {"params": params} | {
        "batch_stats": jax.tree.map_with_path(
            lambda path, leaf: stats[path[-1].key](leaf.shape, np.float32), shapes.get("batch_stats", {})
        )
    }


def initial(module: nn.Module, x: np.ndarray) -> dict:
    """A module's own initial variables."""
    return jax.jit(lambda: module.init(KEY, jnp.asarray(x), False))()


def spec_of(**fields: object) -> Spec:
    return dataclasses.replace(Spec(units=(2, 2), widths=(WIDTH, WIDTH), stem_width=WIDTH), **fields)


def run(
    spec: Spec, shape: UnitShape, x: np.ndarray, train: bool = True, **options: object
) -> tuple[np.ndarray, dict, dict]:
    """A unit's output for random parameters, those parameters, and what it sowed."""
    unit = Unit(spec, shape)
    variables = start(unit, x)
    step = jax.jit(lambda variables, x: unit.apply(variables, x, train, mutable=MUTABLE, **options))
    y, state = step(variables, x)
    sown = {key: np.asarray(value[0]) for key, value in state.get("intermediates", {}).items()}
    return np.asarray(y), variables["params"], sown


def agree(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-5)


# v2 Fig. 4 for branches of two, three and one weight layers.
FORMULAS = {
    ("basic", "original"): lambda u, x: u.a(x + u.n(2, u.c(2, u.a(u.n(1, u.c(1, x)))))),
    ("basic", "bn_after_addition"): lambda u, x: u.a(u.n(2, x + u.c(2, u.a(u.n(1, u.c(1, x)))))),
    ("basic", "relu_before_addition"): lambda u, x: x + u.a(u.n(2, u.c(2, u.a(u.n(1, u.c(1, x)))))),
    ("basic", "relu_only_preactivation"): lambda u, x: x + u.n(2, u.c(2, u.a(u.n(1, u.c(1, u.a(x)))))),
    ("basic", "full_preactivation"): lambda u, x: x + u.c(2, u.a(u.n(2, u.c(1, u.a(u.n(1, x)))))),
    ("bottleneck", "original"): lambda u, x: u.a(x + u.n(3, u.c(3, u.a(u.n(2, u.c(2, u.a(u.n(1, u.c(1, x))))))))),
    ("bottleneck", "bn_after_addition"): lambda u, x: u.a(
        u.n(3, x + u.c(3, u.a(u.n(2, u.c(2, u.a(u.n(1, u.c(1, x))))))))
    ),
    ("bottleneck", "relu_before_addition"): lambda u, x: (
        x + u.a(u.n(3, u.c(3, u.a(u.n(2, u.c(2, u.a(u.n(1, u.c(1, x)))))))))
    ),
    ("bottleneck", "relu_only_preactivation"): lambda u, x: (
        x + u.n(3, u.c(3, u.a(u.n(2, u.c(2, u.a(u.n(1, u.c(1, u.a(x)))))))))
    ),
    ("bottleneck", "full_preactivation"): lambda u, x: (
        x + u.c(3, u.a(u.n(3, u.c(2, u.a(u.n(2, u.c(1, u.a(u.n(1, x)))))))))
    ),
    ("single", "original"): lambda u, x: u.a(x + u.n(1, u.c(1, x))),
    ("single", "bn_after_addition"): lambda u, x: u.a(u.n(1, x + u.c(1, x))),
    ("single", "relu_before_addition"): lambda u, x: x + u.a(u.n(1, u.c(1, x))),
    ("single", "relu_only_preactivation"): lambda u, x: x + u.n(1, u.c(1, u.a(x))),
    ("single", "full_preactivation"): lambda u, x: x + u.c(1, u.a(u.n(1, x))),
}


@pytest.mark.parametrize(("unit", "order"), FORMULAS)
def test_orders(unit: str, order: str) -> None:
    x = draw(1, N, SIDE, SIDE, WIDTH)
    y, params, _ = run(spec_of(unit=unit, order=order), SAME, x)
    agree(y, FORMULAS[unit, order](Reference(params), x))
    kernels = [params[f"conv{i}"]["kernel"].shape[0] for i in range(1, len(UNITS[unit].kernels) + 1)]
    assert kernels == list(UNITS[unit].kernels)


def branch(u: Reference, x: np.ndarray) -> np.ndarray:
    """F(x) of the original two-layer unit."""
    return u.n(2, u.c(2, u.a(u.n(1, u.c(1, x)))))


@pytest.mark.parametrize(("shortcut_scale", "branch_scale"), [(0.0, 1.0), (0.5, 1.0), (0.5, 0.5)])
def test_constant_scaling(shortcut_scale: float, branch_scale: float) -> None:
    x = draw(1, N, SIDE, SIDE, WIDTH)
    y, params, _ = run(spec_of(shortcut_scale=shortcut_scale, branch_scale=branch_scale), SAME, x)
    agree(y, relu(shortcut_scale * x + branch_scale * branch(Reference(params), x)))


@pytest.mark.parametrize("shape", [SAME, DOWN], ids=["same", "down"])
@pytest.mark.parametrize("gate", ["exclusive", "shortcut_only"])
def test_gates(gate: str, shape: UnitShape) -> None:
    x = draw(1, N, SIDE, SIDE, shape.in_width)
    y, params, _ = run(spec_of(gate=gate), shape, x)
    u = Reference(params, shape.stride)
    g = sigmoid(u.part("gate").c(1, x))
    skip = x if shape is SAME else option_a(x)
    agree(y, relu((1 - g) * skip + (g if gate == "exclusive" else 1) * branch(u, x)))


@pytest.mark.parametrize("bias", [0.0, -6.0])
def test_gate_bias_starts_where_the_spec_says(bias: float) -> None:
    unit = Unit(spec_of(gate="exclusive", gate_bias=bias), SAME)
    gate = initial(unit, np.zeros((1, SIDE, SIDE, WIDTH)))["params"]["gate"]
    assert set(gate) == {"conv1"}
    assert (gate["conv1"]["bias"] == bias).all()
    assert gate["conv1"]["kernel"].shape == (1, 1, WIDTH, WIDTH)


@pytest.mark.parametrize(("gate", "expected"), [("shortcut_only", 0.025), ("exclusive", 0.0034)])
def test_gates_of_resnet_32_start_near_their_bias_unless_the_signal_grows(gate: str, expected: float) -> None:
    """b_g = -6 alone is 0.0025; W_g adds to it, and more to the longer x that F without a gate makes."""
    spec = dataclasses.replace(published.cifar("v1-32"), gate=gate, gate_bias=-6.0, input_size=8)
    images = jax.random.normal(KEY, (16, 8, 8, 3))

    variables, only = init_variables(spec, seed=0), lambda module, _: module.name == "gate"
    _, tree = ResNet(spec).apply(variables, images, train=True, mutable=MUTABLE, capture_intermediates=only)
    found = tree["intermediates"]
    gates = [units[u]["gate"]["__call__"][0] for units in found.values() for u in units]
    assert len(gates) == 15
    assert np.mean([g.mean() for g in gates]) == pytest.approx(expected, rel=0.25)


def option_a(x: np.ndarray) -> np.ndarray:
    """Every other pixel, and zeros for the new channels."""
    x = x[:, ::2, ::2]
    return np.concatenate([x, np.zeros((*x.shape[:-1], WIDTH - x.shape[-1]))], -1)


@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize("option", "ABC")
def test_shortcut_at_a_dimension_change(option: str, side: int) -> None:
    x = draw(1, N, side, side, 4)
    y, params, _ = run(spec_of(shortcut=option), dataclasses.replace(DOWN, size=side), x)
    u = Reference(params, stride=2)
    agree(y, relu((option_a(x) if option == "A" else u.project(x)) + branch(u, x)))
    assert ("shortcut" in params) == (option != "A")


def test_option_c_projects_where_nothing_changes_and_b_does_not() -> None:
    x = draw(1, N, SIDE, SIDE, WIDTH)
    y, params, _ = run(spec_of(shortcut="C"), SAME, x)
    u = Reference(params)
    agree(y, relu(u.project(x) + branch(u, x)))
    assert "shortcut" not in run(spec_of(shortcut="B"), SAME, x)[1]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("option", "AB")
def test_preactivation_feeds_a_projection_but_not_an_identity(option: str, first: bool) -> None:
    x = draw(1, N, SIDE, SIDE, 4)
    shape = dataclasses.replace(DOWN, stage=1, stride=1) if first else DOWN
    y, params, _ = run(spec_of(shortcut=option, order="full_preactivation"), shape, x)
    u = Reference(params, shape.stride)
    # The stem has normalised and activated the network's first input.
    activated = x if first else relu(u.n(1, x))
    assert ("norm1" in params) == (not first)
    carried = x if first else x[:, ::2, ::2]
    padded = np.concatenate([carried, np.zeros_like(carried)], -1)
    skip = padded if option == "A" else u.project(activated, norm=False)
    agree(y, skip + u.c(2, relu(u.n(2, u.c(1, activated)))))


@pytest.mark.parametrize(("stride_on", "strided"), [("1x1", 1), ("3x3", 2)])
def test_bottleneck_stride(stride_on: str, strided: int) -> None:
    x = draw(1, N, SIDE, SIDE, 4)
    y, params, _ = run(spec_of(unit="bottleneck", shortcut="B", stride_on=stride_on), DOWN, x)
    u = Reference(params, stride=2, strided=strided)
    agree(y, relu(u.project(x) + u.n(3, u.c(3, relu(u.n(2, u.c(2, relu(u.n(1, u.c(1, x))))))))))


def test_groups_see_their_own_channels_only() -> None:
    x = draw(1, N, SIDE, SIDE, WIDTH)
    y, params, _ = run(spec_of(unit="bottleneck", squeeze=1, groups=4), SAME, x)
    u = Reference(params)
    hidden = relu(u.n(1, u.c(1, x)))
    kernel = params["conv2"]["kernel"]
    assert kernel.shape == (3, 3, WIDTH // 4, WIDTH)
    parts = [conv(hidden[..., i : i + 2], kernel[..., i : i + 2]) for i in range(0, WIDTH, 2)]
    agree(y, relu(x + u.n(3, u.c(3, relu(u.n(2, np.concatenate(parts, -1)))))))


@pytest.mark.parametrize("squeeze", [0, 1, 2])
def test_squeeze_is_the_width_inside_a_bottleneck(squeeze: int) -> None:
    x = draw(1, N, SIDE, SIDE, WIDTH)
    y, params, _ = run(spec_of(unit="bottleneck", squeeze=squeeze), SAME, x)
    assert params["conv2"]["kernel"].shape == (3, 3, *[WIDTH // (squeeze or 4)] * 2)
    agree(y, FORMULAS["bottleneck", "original"](Reference(params), x))


@pytest.mark.parametrize("order", ["original", "full_preactivation"])
def test_squeeze_and_excitation(order: str) -> None:
    x = draw(1, N, SIDE, SIDE, WIDTH)
    y, params, sown = run(spec_of(excitation=4, order=order), SAME, x)
    u = Reference(params)
    f = branch(u, x) if order == "original" else u.c(2, relu(u.n(2, u.c(1, relu(u.n(1, x))))))
    e = u.part("excitation")
    assert params["excitation"]["conv1"]["kernel"].shape == (WIDTH, 2)
    factors = sigmoid(e.c(2, relu(e.c(1, f.mean((1, 2))))))
    scaled = f * factors[:, None, None]
    agree(sown["branch"], scaled)
    agree(y, relu(x + scaled) if order == "original" else x + scaled)


def test_a_raw_stem_ends_in_its_last_convolution() -> None:
    x = draw(1, N, 16, 16, 3)
    spec = spec_of(stem="deep", stem_raw=True)
    module = Part(spec, layout.stem(spec))
    variables = start(module, x)
    y, _ = jax.jit(lambda v, x: module.apply(v, x, True, mutable=MUTABLE))(variables, x)
    u = Reference(variables["params"], stride=2)
    z = u.c(3, relu(u.n(2, u.c(2, relu(u.n(1, u.c(1, x)))))))
    padded = np.pad(z, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    windows = [[padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(4)] for i in range(4)]
    agree(np.asarray(y), np.array(windows).transpose(2, 0, 1, 3))
    assert "norm3" not in variables["params"]


def test_dropout_shortcut_keeps_the_survivors_as_they_are() -> None:
    x = draw(1, N, SIDE, SIDE, WIDTH)
    spec = spec_of(shortcut_dropout=0.25)
    y, params, sown = run(spec, SAME, x, rngs={"dropout": KEY})
    kept = sown["skip"] != 0
    assert (sown["skip"][kept] == x[kept]).all()
    assert kept.mean() == pytest.approx(0.75, abs=0.06)
    agree(y, relu(sown["skip"] + branch(Reference(params), x)))
    *_, evaluated = run(spec, SAME, x, train=False)
    agree(evaluated["skip"], 0.75 * x)


@pytest.mark.parametrize("side", [6, 7])
def test_resnet_d_shortcut(side: int) -> None:
    x = draw(1, N, side, side, 4)
    spec = spec_of(shortcut="B", shortcut_pool=True)
    shortcut = Part(spec, layout.unit(spec, dataclasses.replace(DOWN, size=side)).shortcut)
    variables = start(shortcut, x)
    y, _ = jax.jit(lambda v, x: shortcut.apply(v, x, True, mutable=MUTABLE))(variables, x)
    out = -(-side // 2)
    # Slices stop at the edge, so the last cell of an odd map is a mean of fewer pixels.
    pooled = np.stack(
        [[x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)) for j in range(out)] for i in range(out)]
    ).transpose(2, 0, 1, 3)
    agree(np.asarray(y), Reference({"shortcut": variables["params"]}).project(pooled))


@pytest.mark.parametrize("side", [16, 13])
@pytest.mark.parametrize(("stem", "strides"), [("conv7", (2,)), ("deep", (2, 1, 1)), ("conv3", (1,))])
def test_stems(stem: str, strides: tuple[int, ...], side: int) -> None:
    x = draw(1, N, side, side, 3)
    spec = spec_of(stem=stem)
    module = Part(spec, layout.stem(spec))
    variables = start(module, x)
    params = variables["params"]
    y, _ = jax.jit(lambda v, x: module.apply(v, x, True, mutable=MUTABLE))(variables, x)
    expected = x
    for i, stride in enumerate(strides, 1):
        u = Reference(params, stride, strided=i)
        expected = relu(u.n(i, u.c(i, expected)))
    if stem != "conv3":
        padded = np.pad(expected, [(0, 0), (1, 1), (1, 1), (0, 0)])  # after a ReLU zeros never win
        out = -(-expected.shape[1] // 2)
        windows = [[padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] for j in range(out)] for i in range(out)]
        expected = np.stack([[w.max((1, 2)) for w in row] for row in windows]).transpose(2, 0, 1, 3)
    agree(np.asarray(y), expected)
    assert params["conv1"]["kernel"].shape[-1] == (WIDTH // 2 if stem == "deep" else WIDTH)


@pytest.mark.parametrize(
    ("unit", "order"), [("basic", "original"), ("bottleneck", "original"), ("basic", "relu_only_preactivation")]
)
def test_zero_gamma_starts_as_the_shortcut(unit: str, order: str) -> None:
    x = draw(1, N, SIDE, SIDE, WIDTH)
    module = Unit(spec_of(unit=unit, order=order, zero_gamma=True), SAME)
    y, _ = jax.jit(lambda v, x: module.apply(v, x, True, mutable=MUTABLE))(initial(module, x), x)
    assert (y == (relu(x) if order == "original" else x)).all()


def test_stochastic_depth_drops_whole_branches_of_images() -> None:
    x = draw(1, 64, 2, 2, WIDTH)
    spec = spec_of(stochastic_depth=0.5)
    options = {"rngs": {"dropout": KEY}}
    y, params, _ = run(spec, SAME, x, survival=0.75, **options)
    dropped = (y == relu(x)).all((1, 2, 3))
    expected = relu(x + branch(Reference(params), x) / 0.75)
    agree(y[~dropped], expected[~dropped])
    assert 0.5 < 1 - dropped.mean() < 0.95
    agree(run(spec, SAME, x, train=False)[2]["skip"], x)


def test_stochastic_depth_grows_linearly_to_its_rate() -> None:
    spec = dataclasses.replace(published.cifar("v1-20"), stochastic_depth=0.5)
    survival = [shape.survival for shape in spec.unit_shapes()]
    np.testing.assert_allclose(survival, [1 - 0.5 * (i + 1) / 9 for i in range(9)])


@pytest.mark.parametrize("scan", [False, True])
def test_stochastic_depth_in_the_network_draws_each_unit_anew(scan: bool) -> None:
    spec = Spec(units=(4,), widths=(WIDTH,), stem_width=WIDTH, stochastic_depth=0.9, scan=scan)
    net, x = ResNet(spec), draw(1, 64, 4, 4, 3)
    rngs = {"dropout": KEY}
    _, state = jax.jit(lambda v, x: net.apply(v, x, True, rngs=rngs, mutable=MUTABLE))(initial(net, x), x)
    stage = state["intermediates"]["stage1"]
    sown = [stage["unit0"]["branch"][0]]
    sown += list(stage["units"]["branch"][0]) if scan else [stage[f"unit{i}"]["branch"][0] for i in range(1, 4)]
    kept = np.array([(np.asarray(one) != 0).any((1, 2, 3)) for one in sown])  # [4, N]
    np.testing.assert_allclose(kept.mean(1), [shape.survival for shape in spec.unit_shapes()], atol=0.2)
    # One draw for all units would never keep a deeper branch where it drops a shallower one.
    assert (kept[1:] & ~kept[:-1]).any(1).all()


def test_the_original_highway_layer() -> None:
    spec = published.highway_original(layers=2, width=WIDTH, features=4, classes=10)
    x = draw(1, N, WIDTH)
    shape = list(spec.unit_shapes())[1]
    y, params, _ = run(spec, shape, x)
    u = Reference(params)
    h, t = relu(u.c(1, x)), sigmoid(u.part("gate").c(1, x))
    agree(y, h * t + x * (1 - t))
    gate = initial(Unit(spec, shape), x)["params"]["gate"]
    assert (gate["conv1"]["bias"] == -2).all()


@pytest.mark.parametrize("shape", [SAME, DOWN], ids=["same", "down"])
def test_the_highway_unit_of_110_layers(shape: UnitShape) -> None:
    spec = published.highway(110)
    assert spec.widths == (14, 28, 56)
    spec = dataclasses.replace(spec, units=(2, 2), widths=(WIDTH, WIDTH))
    x = draw(1, N, SIDE, SIDE, shape.in_width)
    y, params, _ = run(spec, shape, x)
    u = Reference(params, shape.stride)
    g = u.part("gate")
    t = sigmoid(g.n(2, g.c(2, relu(g.n(1, g.c(1, x))))))
    skip = x if shape is SAME else u.project(x)
    agree(y, t * relu(branch(u, x)) + (1 - t) * skip)
    gate = initial(Unit(spec, shape), x)["params"]["gate"]
    assert (gate["norm2"]["bias"] == -6).all()
    assert (gate["norm1"]["bias"] == 0).all()
    assert "bias" not in gate["conv1"]


def test_how_highway_networks_start() -> None:
    params = jax.jit(lambda: init_variables(published.highway(8), 0))()["params"]
    units = [unit for stage in ("stage1", "stage2", "stage3") for unit in params[stage].values()]
    assert len(units) == 3
    for unit in units:
        assert (unit["gate"]["norm2"]["bias"] == -6).all()
        assert (unit["gate"]["norm1"]["bias"] == 0).all()
        assert (unit["norm2"]["bias"] == 0).all()
    # 2 over the inputs, where inputs and outputs differ by a factor of two.
    first = params["stage3"]["unit0"]
    for layer in (first["conv1"], first["gate"]["conv1"]):
        assert np.var(layer["kernel"]) == pytest.approx(2 / (9 * 28), rel=0.1)

    original = published.highway_original(layers=2, width=50, features=28, classes=10)
    params = jax.jit(lambda: init_variables(original, 0))()["params"]
    assert np.var(params["stem"]["conv1"]["kernel"]) == pytest.approx(2 / 28**2, rel=0.1)
    for unit in params["stage1"].values():
        assert (unit["gate"]["conv1"]["bias"] == -2).all()
        assert (unit["conv1"]["bias"] == 0).all()


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("option", "AB")
@pytest.mark.parametrize("fan", [4, WIDTH])
def test_dense_units(fan: int, option: str, norm: str) -> None:
    shape = dataclasses.replace(SAME, stage=2, index=0, in_width=fan, size=1)
    x = draw(1, N, fan)
    dense = {"unit": "dense", "stem": "dense", "norm": norm, "shortcut": option, "stem_width": 4}

    def n(u: Reference, i: int, y: np.ndarray) -> np.ndarray:
        return y if norm == "none" else u.n(i, y)

    def skip(u: Reference, source: np.ndarray, projection_norm: bool) -> np.ndarray:
        if fan == WIDTH:
            return x
        return u.project(source, norm=projection_norm) if option == "B" else np.pad(x, [(0, 0), (0, WIDTH - fan)])

    y, params, _ = run(spec_of(**dense), shape, x)
    u = Reference(params)
    f = n(u, 2, u.c(2, relu(n(u, 1, u.c(1, x)))))
    agree(y, relu(f + skip(u, x, projection_norm=norm == "batch")))
    assert ("bias" in params["conv1"]) == (norm == "none")

    y, params, _ = run(spec_of(**dense, order="full_preactivation"), shape, x)
    u = Reference(params)
    activated = relu(n(u, 1, x))
    agree(y, skip(u, activated, False) + u.c(2, relu(n(u, 2, u.c(1, activated)))))


@pytest.mark.parametrize("shape", [SAME, DOWN], ids=["same", "down"])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize(("activation", "a"), [("relu", relu), ("sigmoid", sigmoid)])
def test_plain_units(activation: str, a: Callable, norm: str, shape: UnitShape) -> None:
    x = draw(1, N, SIDE, SIDE, shape.in_width)
    y, params, sown = run(spec_of(shortcut="none", norm=norm, activation=activation), shape, x)
    u = Reference(params, shape.stride, a=a)
    if norm == "batch":
        agree(y, a(branch(u, x)))
    else:
        agree(y, a(u.c(2, a(u.c(1, x)))))
    assert not sown


TABLE_1 = {
    "original": {},
    "plain": {"shortcut_scale": 0.0},
    "constant 0.5, 1": {"shortcut_scale": 0.5},
    "constant 0.5, 0.5": {"shortcut_scale": 0.5, "branch_scale": 0.5},
    **{f"exclusive {b}": {"gate": "exclusive", "gate_bias": float(b)} for b in (0, -5, -6, -7)},
    **{f"shortcut only {b}": {"gate": "shortcut_only", "gate_bias": float(b)} for b in (0, -6)},
    "1x1 convolution": {"shortcut": "C"},
    "dropout": {"shortcut_dropout": 0.5},
}
TABLE_2 = {order: {"order": order} for order in ORDERS}


@pytest.mark.parametrize("case", TABLE_1 | TABLE_2)
def test_forward_and_backward_through_every_row_of_v2(case: str) -> None:
    spec = dataclasses.replace(published.cifar("v1-110"), scan=True, **(TABLE_1 | TABLE_2)[case])
    net, images = ResNet(spec), jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(lambda: net.init(KEY, images))

    def loss(params: dict, stats: dict) -> tuple[jax.Array, dict]:
        variables = {"params": params, "batch_stats": stats}
        rngs = {"dropout": KEY}
        logits, state = net.apply(variables, images, True, rngs=rngs, mutable=["batch_stats"])
        return logits.sum(), state["batch_stats"]

    (value, stats), grads = jax.eval_shape(
        jax.value_and_grad(loss, has_aux=True), variables["params"], variables["batch_stats"]
    )
    assert value.dtype == jnp.float32
    assert (grads, stats) == (variables["params"], variables["batch_stats"])
