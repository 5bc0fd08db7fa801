"""Initialisation, padding, precision and the names of the parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.models import layout, published
from resjax.models.layers import Part
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec

# Its draws compile in a tenth of the time that the default generator's take on a CPU.
KEY = jax.random.key(0, impl="rbg")


def layer_of(spec: Spec, kind: str, in_width: int, width: int, **fields: int) -> Part:
    """One weight layer, to be initialised by itself."""
    return Part(spec, (layout.Layer(kind, in_width, width, size=1, name="layer", **fields),))


@pytest.mark.parametrize("gain", [2.0, 1.0])
@pytest.mark.parametrize("init", ["fan_out", "fan_in"])
@pytest.mark.parametrize(("kind", "kernel"), [("conv", 3), ("conv", 1), ("dense", 1)])
def test_variance_of_the_weights(kind: str, kernel: int, init: str, gain: float) -> None:
    fan_in, fan_out = 96, 256
    layer = layer_of(Spec(init=init, init_gain=gain), kind, fan_in, fan_out, kernel=kernel)
    x = jnp.zeros((1, fan_in) if kind == "dense" else (1, 2, 2, fan_in))
    w = np.asarray(jax.jit(layer.init, static_argnums=2)(KEY, x, False)["params"]["layer"]["kernel"])
    fan = kernel**2 * (fan_out if init == "fan_out" else fan_in)
    assert w.var() == pytest.approx(gain / fan, rel=0.05)
    assert abs(w.mean()) < 0.05 * w.std()
    # Untruncated: a truncated normal of this variance ends at 2.3 standard deviations.
    assert abs(w).max() > 3 * w.std()


def test_the_default_is_he_initialisation_over_the_outputs() -> None:
    assert (Spec().init, Spec().init_gain) == ("fan_out", 2.0)


@pytest.mark.parametrize("side", [4, 5, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (7, 2), (1, 2)])
def test_padding_is_the_same_on_both_sides(kernel: int, stride: int, side: int) -> None:
    x = np.random.default_rng(0).normal(size=(1, side, side, 2)).astype(np.float32)
    layer = layer_of(Spec(), "conv", 2, 3, kernel=kernel, stride=stride)
    v = jax.jit(layer.init, static_argnums=2)(KEY, x, False)
    w = np.asarray(v["params"]["layer"]["kernel"])
    out = -(-side // stride)
    expected = np.zeros((out, out, 3))
    for i, j, di, dj in np.ndindex(out, out, kernel, kernel):
        row, column = i * stride + di - kernel // 2, j * stride + dj - kernel // 2
        if 0 <= row < side and 0 <= column < side:
            expected[i, j] += x[0, row, column] @ w[di, dj]
    y = jax.jit(layer.apply, static_argnums=2)(v, x, False)
    assert y.shape == (1, out, out, 3)
    np.testing.assert_allclose(y[0], expected, rtol=1e-4, atol=1e-5)


SMALL = {"units": (2, 2), "widths": (8, 16), "stem_width": 8, "input_size": 8}
PRECISIONS = {
    "v1": {},
    "v2": {"order": "full_preactivation"},
    "projections": {"shortcut": "C"},
    "squeeze-and-excitation": {"excitation": 4},
    "gates": {"gate": "exclusive", "gate_bias": -6.0},
    "dropout": {"shortcut_dropout": 0.5},
    "scaling": {"shortcut_scale": 0.5, "branch_scale": 0.5},
    "stochastic depth": {"stochastic_depth": 0.5},
    "plain": {"shortcut": "none", "norm": "none"},
}


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("case", PRECISIONS)
def test_bfloat16_is_the_precision_of_convolutions_only(case: str, scan: bool) -> None:
    net = ResNet(Spec(**SMALL, **PRECISIONS[case], dtype="bfloat16", scan=scan))
    x, rngs = jnp.zeros((2, 8, 8, 3)), {"dropout": KEY}
    variables = jax.eval_shape(lambda: net.init(KEY, x))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    for train in (False, True):
        logits, state = jax.eval_shape(
            lambda v, train=train: net.apply(v, x, train, rngs=rngs, mutable=["batch_stats", "intermediates"]),
            variables,
        )
        assert logits.dtype == jnp.float32
        assert {leaf.dtype for leaf in jax.tree.leaves(state.get("batch_stats", {}))} <= {jnp.dtype("float32")}
        assert {leaf.dtype for leaf in jax.tree.leaves(state.get("intermediates", {}))} <= {jnp.dtype("bfloat16")}


def test_bfloat16_logits_are_close_to_float32_ones() -> None:
    x = jax.random.normal(KEY, (4, 8, 8, 3))
    net = ResNet(Spec(**SMALL))
    variables = jax.jit(net.init)(KEY, x)
    exact = jax.jit(net.apply)(variables, x)
    rounded = jax.jit(ResNet(Spec(**SMALL, dtype="bfloat16")).apply)(variables, x)
    assert 0 < abs(exact - rounded).max() < 0.05 * abs(exact).max()


def names(spec: Spec) -> dict[str, tuple[int, ...]]:
    x = jnp.zeros((1, spec.input_size, spec.input_size, spec.input_channels))
    params = jax.eval_shape(lambda: ResNet(spec).init(KEY, x)["params"])
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(params)
    }


def test_names_and_shapes_of_resnet_20() -> None:
    expected = {
        "stem/conv1/kernel": (3, 3, 3, 16),
        "stem/norm1/scale": (16,),
        "stem/norm1/bias": (16,),
        "head/kernel": (64, 10),
        "head/bias": (10,),
    }
    for stage, (before, width) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
        for unit in range(3):
            at = f"stage{stage}/unit{unit}"
            expected[f"{at}/conv1/kernel"] = (3, 3, width if unit else before, width)
            expected[f"{at}/conv2/kernel"] = (3, 3, width, width)
            for norm in ("norm1", "norm2"):
                expected |= {f"{at}/{norm}/scale": (width,), f"{at}/{norm}/bias": (width,)}
    assert names(published.cifar("v1-20")) == expected


NAMES = {
    "projection": (
        published.imagenet("v1-18"),
        {
            "stage2/unit0/shortcut/conv/kernel",
            "stage2/unit0/shortcut/norm/scale",
            "stage2/unit0/shortcut/norm/bias",
        },
    ),
    "gate": (
        dataclasses.replace(published.cifar("v1-8"), gate="exclusive"),
        {"stage1/unit0/gate/conv1/kernel", "stage1/unit0/gate/conv1/bias"},
    ),
    "bottleneck": (published.imagenet("v1-50"), {"stage1/unit0/conv3/kernel", "stage1/unit0/norm3/scale"}),
    "pre-activation": (published.cifar("v2-20"), {"norm/scale", "norm/bias", "stage1/unit1/norm1/scale"}),
    "deep stem": (
        dataclasses.replace(published.imagenet("v1-18"), stem="deep"),
        {"stem/conv3/kernel", "stem/norm3/scale"},
    ),
    "squeeze-and-excitation": (
        published.imagenet("se-50"),
        {f"stage1/unit0/excitation/{layer}/{leaf}" for layer in ("conv1", "conv2") for leaf in ("kernel", "bias")},
    ),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_of_the_other_parts(case: str) -> None:
    spec, expected = NAMES[case]
    assert expected <= set(names(spec))
