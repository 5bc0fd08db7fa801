"""Pooling: the mean of windows, and the maximum with its own gradient: XLA scatters it, this gathers it."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

NOWHERE = 255  # no tap of a window


def average_pool(x: jax.Array, size: int, stride: int, dilation: int) -> jax.Array:
    """Means over size x size pixels, `dilation` apart, from every stride-th one on: [N, H, W, C] -> [N, H', W', C].

    H' is H / stride, rounded up. Where the map ends, the mean is over the pixels that it has.
    """
    reach = [(-(-n // stride) - 1) * stride + (size - 1) * dilation + 1 for n in x.shape[1:3]]
    edges = [(0, 0), *((0, max(0, end - n)) for end, n in zip(reach, x.shape[1:3], strict=True)), (0, 0)]

    def total(x: jax.Array) -> jax.Array:
        window, strides, dilations = ((1, each, each, 1) for each in (size, stride, dilation))
        return lax.reduce_window(x, 0.0, lax.add, window, strides, edges, window_dilation=dilations)

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1)))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
    """The maximum of every size x size window of [N, H, W, C] padded by size // 2: [N, H', W', C].

    Of equal maxima the first one of the window, row by row, has the gradient, as in XLA and in PyTorch. Kept for
    it is one byte for each output, the tap where the maximum was. A pixel then adds what windows that hold it have
    for it; windows overlap, so XLA's way, a scatter of every output, has to add atomically on a GPU.
    """
    return _forward(x, size, stride)[0]


def _forward(x: jax.Array, size: int, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    pad = size // 2
    padded = jnp.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)], constant_values=-jnp.inf)
    rows, cols = ((n + 2 * pad - size) // stride + 1 for n in x.shape[1:3])
    best = jnp.full((x.shape[0], rows, cols, x.shape[3]), -jnp.inf, x.dtype)
    where = jnp.zeros(best.shape, jnp.uint8)
    for tap, (i, j) in enumerate(taps(size)):
        value = padded[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (cols - 1) * stride + 1 : stride]
        where = jnp.where(value > best, jnp.uint8(tap), where)
        best = jnp.maximum(best, value)
    return best, (where, jnp.zeros((0, *x.shape[1:3]), jnp.uint8))


def _backward(size: int, stride: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array]:
    where, shape = saved
    pad, (height, width) = size // 2, shape.shape[1:]
    # Padded pixel (s a + r, s b + c) is tap (r + s p, c + s q) of window (a - p, b - q), for all p and q.
    reach = (size - 1) // stride
    edges = [(0, 0), (reach, reach), (reach, reach), (0, 0)]
    dy, where = jnp.pad(dy, edges), jnp.pad(where, edges, constant_values=NOWHERE)
    rows, cols = (n - reach for n in dy.shape[1:3])  # of stride x stride cells that cover the padded map

    def pixel(r: int, c: int) -> jax.Array:
        # of every cell, what its pixel (r, c) has from the windows that hold it: [N, rows, cols, C]
        total = jnp.zeros((), dy.dtype)
        for tap, (i, j) in enumerate(taps(size)):
            if (i % stride, j % stride) == (r, c):
                top, left = reach - i // stride, reach - j // stride
                part = slice(None), slice(top, top + rows), slice(left, left + cols)
                total = total + jnp.where(where[part] == tap, dy[part], 0)
        return jnp.broadcast_to(total, (len(dy), rows, cols, dy.shape[3]))

    pixels = jnp.stack([jnp.stack([pixel(r, c) for c in range(stride)], 3) for r in range(stride)], 2)
    whole = pixels.reshape(len(dy), rows * stride, cols * stride, -1)  # from [N, rows, s, cols, s, C]
    missing = [max(0, pad + n - have) for n, have in ((height, rows * stride), (width, cols * stride))]
    whole = jnp.pad(whole, [(0, 0), *((0, n) for n in missing), (0, 0)])
    return (whole[:, pad : pad + height, pad : pad + width],)


max_pool.defvjp(_forward, _backward)


def taps(size: int) -> Iterator[tuple[int, int]]:
    """Rows and columns of a window, in the order in which maxima are looked for."""
    return ((i, j) for i in range(size) for j in range(size))
