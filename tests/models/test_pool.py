"""Max-pooling and its gradient against XLA's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.models.pool import max_pool


def both(x: jax.Array, size: int, stride: int) -> list[tuple[jax.Array, jax.Array]]:
    """Output and gradient, ours and XLA's."""
    pad = (size // 2, size // 2)
    ways = (
        lambda x: max_pool(x, size, stride),
        lambda x: nn.max_pool(x, (size, size), (stride, stride), padding=(pad, pad)),
    )
    found = []
    for way in ways:
        y, backward = jax.vjp(way, x)
        dy = np.random.default_rng(1).normal(size=y.shape)
        found.append((y, backward(jnp.asarray(dy, y.dtype))[0]))
    return found


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (3, 1), (2, 2), (3, 3), (5, 2), (1, 1), (3, 4)])
def test_against_xla(size: int, stride: int) -> None:
    for shape in [(2, 8, 8, 4), (2, 7, 9, 4), (2, 1, 1, 3), (2, 5, 4, 3)]:
        x = np.random.default_rng(0).normal(size=shape)
        with jax.enable_x64(True):
            # Rounded, and no less than 0 as after a ReLU, so that most windows have equal maxima.
            (y, dx), (expected, exact) = both(jnp.maximum(jnp.round(jnp.asarray(x)), 0), size, stride)
            assert (y.dtype, dx.shape, dx.dtype) == (expected.dtype, exact.shape, exact.dtype)
            np.testing.assert_array_equal(y, expected)
            np.testing.assert_allclose(dx, exact, rtol=0, atol=1e-14)


def test_types_stay_and_nan_is_passed_on() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 6, 1)), jnp.bfloat16)
    (y, dx), (expected, exact) = both(x, 3, 2)
    assert y.dtype == dx.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(dx.astype(jnp.float32), exact.astype(jnp.float32), rtol=0.02)
    y = max_pool(x.at[0, 2, 2, 0].set(jnp.nan), 3, 2)
    assert np.isnan(np.asarray(y, np.float32)).sum() == 1  # (2, 2) is the centre of one window of stride 2
