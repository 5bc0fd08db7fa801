"""Folded convolutions against XLA's own in float64, and where they are taken."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resjax.models import convolution, fold

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
STEM = ((2, 2), ((3, 3), (3, 3)))


@pytest.mark.parametrize("kernel", [(7, 7), (3, 3), (1, 1), (2, 5)], ids=str)
@pytest.mark.parametrize("strides", [(2, 2), (3, 2), (4, 4), (1, 2)], ids=str)
def test_against_xla_in_float64(kernel: tuple[int, int], strides: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    sizes, paddings = [(16, 16), (15, 17), (9, 8)], [((3, 3), (3, 3)), ((0, 0), (0, 0)), ((1, 0), (0, 2))]
    for size, padding in [*itertools.product(sizes[1:2], paddings), *((size, paddings[0]) for size in sizes[::2])]:
        with jax.enable_x64(True):
            x, w = jnp.asarray(rng.normal(size=(2, *size, 3))), jnp.asarray(rng.normal(size=(*kernel, 3, 5)))

            def xla(x, w):
                return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=DIMENSIONS)  # noqa: B023

            expected, theirs = jax.vjp(xla, x, w)
            found, own = jax.vjp(lambda x, w: fold.convolve(x, w, strides, padding), x, w)  # noqa: B023
            dy = jnp.asarray(rng.normal(size=expected.shape))
            for one, other in zip((found, *own(dy)), (expected, *theirs(dy)), strict=True):
                assert (one.shape, one.dtype) == (other.shape, other.dtype)
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * abs(other).max())


@pytest.mark.parametrize(
    ("channels", "strides", "folds"), [(3, (2, 2), True), (64, (2, 2), False), (3, (1, 1), False)]
)
def test_only_few_channels_with_a_stride_on_an_accelerator(channels, strides, folds, monkeypatch) -> None:
    x, w = jnp.zeros((1, 16, 16, channels), jnp.bfloat16), jnp.zeros((7, 7, channels, 8), jnp.bfloat16)

    def kernels(how: str) -> bool:
        def convolve(x, w):
            return convolution.convolve(x, w, strides, STEM[1], how=how, dimension_numbers=DIMENSIONS)

        return f"[4,4,{4 * channels},8]" in str(jax.make_jaxpr(convolve)(x, w))

    assert not kernels("auto")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert kernels("auto") == folds
    assert not kernels("xla")


def test_groups_are_not_folded(monkeypatch) -> None:
    x, w = (np.random.default_rng(0).normal(size=shape).astype("f") for shape in ((2, 9, 9, 4), (3, 3, 2, 6)))
    options = {"dimension_numbers": DIMENSIONS, "feature_group_count": 2}
    pads = ((1, 1), (1, 1))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(
        convolution.convolve(x, w, (2, 2), pads, **options),
        lax.conv_general_dilated(x, w, (2, 2), pads, **options),
    )
