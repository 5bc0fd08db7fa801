"""Convolutions by matrix products against XLA's own in float64: every kernel, stride, padding and size."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resjax.models import convolution
from resjax.models.convolution import Geometry, convolve

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
xla = partial(lax.conv_general_dilated, dimension_numbers=DIMENSIONS)


def outcome(conv, x, kernel, strides, padding, dtype=np.float64):
    """Output and both gradients, for a loss that weighs every output otherwise; eagerly wide if float64."""
    with jax.enable_x64(dtype is np.float64):
        x, kernel = jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)

        def loss(x, kernel):
            y = conv(x, kernel, strides, padding)
            return (y * jnp.cos(jnp.arange(y.size, dtype=dtype)).reshape(y.shape)).sum(), y

        (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, kernel)
        return [np.asarray(one) for one in (y, *gradients)]


def draw(n, size, channels, kernel, features):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, *size, channels)), rng.normal(size=(*kernel, channels, features))


def same(a, b, tolerance=1e-12):
    for one, other in zip(a, b, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


WAYS = ("auto", "onednn", "products")
SELDOM = [(2, 2), (5, 5), (1, 3)]
KERNELS = [(1, 1), (3, 3), (7, 7), (3, 1), *(pytest.param(kernel, marks=pytest.mark.long) for kernel in SELDOM)]
PADDINGS = [((0, 0), (0, 0)), ((2, 0), (1, 3))]
SIZES = [(1, 1), (2, 2), (4, 4), (3, 5), (9, 8), (16, 7)]


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 2)], ids=str)
def test_against_xla_in_float64(kernel, strides) -> None:
    tried = 0
    for size, padding in [*((size, "half") for size in SIZES), *itertools.product(SIZES[3:5], PADDINGS)]:
        pads = tuple((k // 2, k // 2) for k in kernel) if padding == "half" else padding
        if any(n + sum(p) < k for n, p, k in zip(size, pads, kernel, strict=True)):
            continue  # the kernel is larger than the map
        x, w = draw(3, size, 4, kernel, 5)
        expected = outcome(xla, x, w, strides, pads)
        for how in WAYS:
            same(outcome(partial(convolve, how=how), x, w, strides, pads), expected)
        tried += 1
    assert tried >= 6


@pytest.mark.parametrize("images", [30, 31, 42])
@pytest.mark.parametrize("features", [4, 6])  # the gradient is written over its cause where both have one shape
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("how", WAYS)
def test_a_few_images_at_a_time(images, features, strides, how, monkeypatch) -> None:
    x, w = draw(images, (10, 10), 4, (3, 3), features)
    pads = ((1, 1), (1, 1))
    expected = outcome(xla, x, w, strides, pads)
    g = Geometry((10, 10, 4), w.shape, strides, pads)
    monkeypatch.setattr(convolution, "BLOCK", 5 * 8 * 100 * features)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert images % g.block(images, 8) == 0
    assert (g.block(images, 8) == images) == (images == 31)  # a prime number is not cut
    same(outcome(partial(convolve, how=how), x, w, strides, pads), expected)


def test_float32_is_as_exact_as_xla() -> None:
    for size, channels in [((8, 8), 16), ((2, 2), 64), ((16, 16), 8)]:
        x, w = draw(16, size, channels, (3, 3), channels)
        x, w = x.astype(np.float32), w.astype(np.float32)
        args = (x, w, (1, 1), ((1, 1), (1, 1)))
        exact = outcome(xla, *args)
        own, theirs = (outcome(c, *args, dtype=np.float32) for c in (convolve, xla))
        for one, other, true in zip(own, theirs, exact, strict=True):
            assert one.dtype == np.float32
            assert np.abs(one - true).max() <= max(4 * np.abs(other - true).max(), 1e-6 * np.abs(true).max())


def primitives(*args, **options):
    """The names in the program of a convolution and its gradients."""
    x, w, strides, pads = args
    options = {"dimension_numbers": DIMENSIONS, **options}
    g = jax.grad(lambda x, w: convolve(x, w, strides, pads, **options).sum(), (0, 1))
    return str(jax.make_jaxpr(g)(jnp.asarray(x), jnp.asarray(w)))


def test_which_way_is_taken() -> None:
    pads = ((1, 1), (1, 1))
    large, small = (draw(4, (n, n), 4, (3, 3), 4) for n in (12, 2))
    large, small = ([a.astype(np.float32) for a in both] for both in (large, small))
    # On a large map the forward pass is XLA's, and neither gradient; on a small one, and in a loop, nothing is.
    assert primitives(*large, (1, 1), pads).count("conv_general_dilated[") == 1
    assert "conv_general_dilated[" not in primitives(*small, (1, 1), pads)
    # With oneDNN the gradient of the input is XLA's too.
    assert primitives(*large, (1, 1), pads, how="onednn").count("conv_general_dilated[") == 2
    assert "conv_general_dilated[" not in primitives(*small, (1, 1), pads, how="onednn")
    for strides in ((1, 1), (2, 2)):
        assert "conv_general_dilated[" not in primitives(*large, strides, pads, how="products")
        assert "dot_general[" not in primitives(*large, strides, pads, how="xla")
    grouped = [large[0], large[1][:, :, :2]]
    assert "dot_general[" not in primitives(*grouped, (1, 1), pads, feature_group_count=2)
    half = [a.astype(jnp.bfloat16) for a in small]
    assert "dot_general[" not in primitives(*half, (1, 1), pads)


def test_elsewhere_than_on_a_cpu_it_is_xlas(monkeypatch) -> None:
    x, w = (a.astype(np.float32) for a in draw(4, (2, 2), 4, (3, 3), 4))
    args = (x, w, (1, 1), ((1, 1), (1, 1)))
    assert "dot_general[" in primitives(*args)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for how in ("auto", "onednn"):
        assert "dot_general[" not in primitives(*args, how=how)
