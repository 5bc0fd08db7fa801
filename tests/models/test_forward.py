"""Whole networks against a forward pass written out in NumPy: in training, in evaluation, and its gradient."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from resjax.models.resnet import ResNet, init_variables
from resjax.models.spec import Spec
from resjax.train.loss import Loss

SMALL = {"units": (2, 2), "widths": (4, 8), "stem_width": 4, "input_size": 9}
EPSILON, MOMENTUM = 1e-3, 0.8
BN = {"bn_epsilon": EPSILON, "bn_momentum": MOMENTUM}


class Reference:
    """Variables in float64, or complex, and layers by their path; `train` collects the new running statistics.

    `maps` holds the output of every unit. All functions are analytic, but for the kink of the ReLU.
    """

    def __init__(self, variables: dict, train: bool) -> None:
        self.params, self.stats = variables["params"], variables["batch_stats"]
        self.train, self.new, self.maps = train, {}, []

    def at(self, tree: dict, path: str) -> dict:
        for name in path.split("/"):
            tree = tree[name]
        return {name: np.asarray(leaf) + np.float64(0) for name, leaf in tree.items()}

    def conv(self, path: str, x: np.ndarray, stride: int = 1, groups: int = 1) -> np.ndarray:
        """Output pixel (r, c) is the sum over the window that the zero-padded input has around (s r, s c)."""
        kernel = self.at(self.params, path)["kernel"]
        k = len(kernel)
        padded = np.pad(x, [(0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))  # [N, H, W, C, k, k]
        parts = zip(np.split(windows[:, ::stride, ::stride], groups, 3), np.split(kernel, groups, 3), strict=True)
        return np.concatenate([np.einsum("nhwcij,ijcd->nhwd", *part) for part in parts], 3)

    def norm(self, path: str, x: np.ndarray) -> np.ndarray:
        own, running = self.at(self.params, path), self.at(self.stats, path)
        mean, var = running["mean"], running["var"]
        if self.train:
            mean = x.mean((0, 1, 2))
            var = np.square(x - mean).mean((0, 1, 2))
            new = {"mean": mean, "var": var}
            self.new[path] = {key: MOMENTUM * running[key] + (1 - MOMENTUM) * new[key] for key in new}
        return (x - mean) / np.sqrt(var + EPSILON) * own["scale"] + own["bias"]

    def head(self, x: np.ndarray) -> np.ndarray:
        own = self.at(self.params, "head")
        return x.mean((1, 2)) @ own["kernel"] + own["bias"]


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x.real > 0, x, 0)


def option_a(x: np.ndarray, width: int, stride: int) -> np.ndarray:
    x = x[:, ::stride, ::stride]
    return np.concatenate([x, np.zeros((*x.shape[:3], width - x.shape[3]))], 3)


UNITS = [("stage1/unit0", 4, 1), ("stage1/unit1", 4, 1), ("stage2/unit0", 8, 2), ("stage2/unit1", 8, 1)]


def v1(net: Reference, x: np.ndarray) -> np.ndarray:
    """v1 Fig. 2 with option A: ReLU after the addition."""
    x = relu(net.norm("stem/norm1", net.conv("stem/conv1", x)))
    for at, width, stride in UNITS:
        y = relu(net.norm(f"{at}/norm1", net.conv(f"{at}/conv1", x, stride)))
        y = net.norm(f"{at}/norm2", net.conv(f"{at}/conv2", y))
        x = relu(y + option_a(x, width, stride))
        net.maps.append(x)
    return net.head(x)


def bottleneck(net: Reference, x: np.ndarray, *, groups: int = 1, strided: str = "conv1") -> np.ndarray:
    """v1 Fig. 5 (right) with option B; in groups arXiv 1611.05431 Fig. 3 (c), which strides on its 3x3."""
    x = relu(net.norm("stem/norm1", net.conv("stem/conv1", x)))
    for at, _, stride in UNITS:
        strides = {strided: stride}
        y = relu(net.norm(f"{at}/norm1", net.conv(f"{at}/conv1", x, strides.get("conv1", 1))))
        y = relu(net.norm(f"{at}/norm2", net.conv(f"{at}/conv2", y, strides.get("conv2", 1), groups)))
        y = net.norm(f"{at}/norm3", net.conv(f"{at}/conv3", y))
        if stride > 1:
            x = net.norm(f"{at}/shortcut/norm", net.conv(f"{at}/shortcut/conv", x, stride))
        x = relu(x + y)
        net.maps.append(x)
    return net.head(x)


def v2(net: Reference, x: np.ndarray, *, raw: bool = False, project: bool = False) -> np.ndarray:
    """v2 Fig. 4 (e) and the appendix: nothing after the addition, BN and ReLU before every convolution and last."""
    x = net.conv("stem/conv1", x)
    if not raw:
        x = relu(net.norm("stem/norm1", x))
    for i, (at, width, stride) in enumerate(UNITS):
        start = x if i == 0 and not raw else relu(net.norm(f"{at}/norm1", x))
        y = net.conv(f"{at}/conv1", start, stride)
        y = net.conv(f"{at}/conv2", relu(net.norm(f"{at}/norm2", y)))
        changes = stride > 1
        if project and changes:
            x = net.conv(f"{at}/shortcut/conv", start, stride) + y
        else:
            x = option_a(x, width, stride) + y
        net.maps.append(x)
    return net.head(relu(net.norm("norm", x)))


PREACTIVATED = {"order": "full_preactivation"}
BOTTLENECK = {"unit": "bottleneck", "squeeze": 2, "shortcut": "B", "widths": (8, 16), "stem_width": 8}
NETWORKS: dict[str, tuple[dict, Callable]] = {
    "v1": ({}, v1),
    "bottleneck": (BOTTLENECK, bottleneck),
    "ResNeXt": (
        {**BOTTLENECK, "groups": 2, "stride_on": "3x3"},
        partial(bottleneck, groups=2, strided="conv2"),
    ),
    "v2": (PREACTIVATED, v2),
    "v2 with projections": ({**PREACTIVATED, "shortcut": "B"}, partial(v2, project=True)),
    "v2 with a raw stem": (
        {**PREACTIVATED, "shortcut": "B", "stem_raw": True},
        partial(v2, raw=True, project=True),
    ),
}


def draw(spec: Spec) -> dict[str, Any]:
    """Weights and BN values of both signs; some variances so small that epsilon counts."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, shape: Any) -> np.ndarray:
        x = rng.normal(size=shape.shape)
        if path[-1].key == "kernel":
            x *= np.sqrt(2 / np.prod(shape.shape[:-1]))
        elif path[-1].key == "var":
            x = np.where(rng.uniform(size=shape.shape) < 0.3, 1e-3, np.abs(x))
        return x.astype(np.float32)

    return jax.tree.map_with_path(leaf, jax.eval_shape(lambda: init_variables(spec, 0)))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_network(name: str, train: bool) -> None:
    fields, forward = NETWORKS[name]
    spec = Spec(**SMALL | BN | fields)
    variables = draw(spec)
    images = np.random.default_rng(1).normal(size=(3, 9, 9, 3)).astype(np.float32)
    apply = jax.jit(partial(ResNet(spec).apply, train=train, mutable=["batch_stats"]))
    logits, state = apply(variables, images)
    net = Reference(variables, train)
    expected = forward(net, images.astype(np.float64))
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert train == bool(net.new)
    for path, values in net.new.items():
        for key, value in values.items():
            found = net.at(state["batch_stats"], path)[key]
            np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-4, err_msg=f"{path} {key}")


@pytest.mark.parametrize("name", ["v1", "bottleneck", "ResNeXt", "v2 with projections"])
def test_the_gradient_is_that_of_the_formulas(name: str) -> None:
    """Of the loss in training, along a random direction of every parameter, to 1e-12 in float64.

    That of the formulas is Im f(w + i h v) / h, a step along the imaginary axis: nothing is subtracted, so h may be
    as small as it likes.
    """
    fields, forward = NETWORKS[name]
    spec = Spec(**SMALL | BN | fields, dtype="float64")
    with jax.enable_x64(True):
        variables = jax.tree.map(np.float64, draw(spec))
    rng = np.random.default_rng(1)
    images, labels, h = rng.normal(size=(3, 9, 9, 3)), np.eye(10)[[3, 1, 4]], 1e-30

    def loss(params: Any) -> jax.Array:
        logits, _ = ResNet(spec).apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return Loss(label_smoothing=0.1)(logits, labels).mean()

    def along(place: Any, v: np.ndarray) -> float:
        moved = jax.tree.map_with_path(lambda path, w: w + 1j * h * v if path == place else w, variables["params"])
        logits = forward(Reference({**variables, "params": moved}, train=True), images)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -((0.9 * labels + 0.01) * log_p).sum(1).mean().imag / h

    with jax.enable_x64(True):
        gradients = jax.device_get(jax.jit(jax.grad(loss))(variables["params"]))
    for place, gradient in jax.tree.leaves_with_path(gradients):
        v = rng.normal(size=gradient.shape)
        largest = np.linalg.norm(gradient) * np.linalg.norm(v)
        assert abs((gradient * v).sum() - along(place, v)) < 1e-12 * largest, jax.tree_util.keystr(place)


@pytest.mark.parametrize("name", ["v1", "v2 with projections"])
def test_features_are_the_maps_after_the_stages(name: str) -> None:
    """After the addition, and in v1 after the ReLU that follows it; what v2 has there belongs to the next unit."""
    fields, forward = NETWORKS[name]
    spec = Spec(**SMALL | BN | fields)
    variables = draw(spec)
    images = np.random.default_rng(1).normal(size=(3, 9, 9, 3)).astype(np.float32)
    maps = jax.jit(partial(ResNet(spec).apply, method="features"))(variables, images)
    assert maps.keys() == {"stage1", "stage2"}
    net = Reference(variables, train=False)
    forward(net, images.astype(np.float64))
    for found, expected in zip(maps.values(), net.maps[1::2], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert (maps["stage2"].min() < 0) == (name != "v1")


def test_the_head_starts_with_gain_one_over_its_inputs() -> None:
    spec = Spec(units=(1,), widths=(256,), stem_width=256, num_classes=400, input_size=1)
    head = jax.jit(partial(init_variables, spec))(0)["params"]["head"]
    w = np.asarray(head["kernel"])
    assert w.var() == pytest.approx(1 / 256, rel=0.03)
    assert (np.asarray(head["bias"]) == 0).all()
    # Whatever the other layers start with.
    other = Spec(**{**vars(spec), "init": "fan_in", "init_gain": 1.0})
    np.testing.assert_array_equal(jax.jit(partial(init_variables, other))(0)["params"]["head"]["kernel"], w)
