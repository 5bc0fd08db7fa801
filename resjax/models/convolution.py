"""Convolutions as matrix products: what a CPU computes faster than XLA's own convolution.

On a CPU XLA's convolution falls behind in three places. Before a weight gradient it transposes both operands, in
loops that have the layers around them fused in. On small maps it falls back to plain loops, and so it does within
`lax.scan`. A product needs side by side what it sums over:

rows     of stride 1. With the kw neighbours of each pixel in its row side by side in X [P, kw C], and the kernel as
         a matrix K [kw C, kh O], one product does all taps, from kw C + kh O copied values a pixel. im2col, which
         copies kh kw C, is several times slower.

             Z = X K,    y[h] = sum_i Z_i[h + i],    dZ_i[h] = dy[h - i],    dK = X^T dZ,    dX = dZ K^T

columns  of other strides: im2col, Y = X K with X [P, kh kw C].

matrix   on maps of a few pixels. Input and output of an image are a vector each, and M [H W C, H' W' O] between
         them holds the tap that leads from every pixel to every other: y = x M, dM = x^T dy, dx = dy M^T.

Copies are made of a few images at a time, so that they stay in the cache.
"""

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from resjax.models import fold

BLOCK = 2**20  # bytes of input or output that a block of images has
FEW_PIXELS = 64  # of input times output: `matrix` multiplies all of them with each other
SMALL_MAP = 64  # pixels up to which `rows` is ahead of XLA in the forward pass too


class Geometry(NamedTuple):
    """A convolution of [N, H, W, C] with [kh, kw, C, O]: its sizes, all but N, and `how` of `convolve`."""

    shape: tuple[int, int, int]  # H, W, C
    kernel: tuple[int, int, int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    how: str = "auto"

    @property
    def out(self) -> tuple[int, int, int]:
        """H', W', O."""
        h, w = ((self.shape[i] + sum(self.padding[i]) - self.kernel[i]) // self.strides[i] + 1 for i in range(2))
        return h, w, self.kernel[3]

    @property
    def few_pixels(self) -> bool:
        """Whether `matrix` is the way: its entries are few, and most of them are taps."""
        pixels = self.shape[0] * self.shape[1] * self.out[0] * self.out[1]
        return pixels <= FEW_PIXELS and 4 * math.prod(self.shape) * math.prod(self.out) <= BLOCK

    @property
    def in_rows(self) -> bool:
        """Whether it has stride 1."""
        return self.strides == (1, 1)

    @property
    def xla_forward(self) -> bool:
        """Whether XLA is ahead in the forward pass."""
        large = self.shape[0] * self.shape[1] > SMALL_MAP and self.kernel[:2] != (1, 1)
        return self.how != "products" and (large or not self.in_rows)

    @property
    def xla_input_gradient(self) -> bool:
        """Whether XLA is ahead in the gradient of the input, for which `rows` has made half of what it needs."""
        return self.xla_forward and (not self.in_rows or self.how == "onednn")

    def block(self, images: int, itemsize: int) -> int:
        """How many images are worked on at a time; all of them where they are few or lie on several devices."""
        most = BLOCK // (itemsize * max(math.prod(self.shape), math.prod(self.out)))
        if self.kernel[:2] == (1, 1) or images < 4 * most or jax.device_count() > 1:
            return images  # without copies, few, or over several devices
        best = max((n for n in range(1, most + 1) if images % n == 0), default=1)
        return best if 4 * best >= most else images  # a number with few divisors


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    how: str = "auto",
    feature_group_count: int = 1,
    rhs_dilation: Sequence[int] = (1, 1),
    **others: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` of [N, H, W, C] and [kh, kw, C, O], equal to it up to rounding.

    For `flax.linen.Conv(conv_general_dilated=convolve)`. It can be differentiated once, backwards. Groups,
    dilation and, on a CPU, half precision are XLA's.

    Args:
      how: `auto`, what is fastest on a CPU or elsewhere; `onednn`, what is fastest in programs that are compiled
        for it; `products`, for loops on a CPU; or `xla`.
    """
    wide = x.dtype in (jnp.float32, jnp.float64)
    elsewhere = jax.default_backend() != "cpu"
    plain = feature_group_count == 1 and max(rhs_dilation) == 1
    if how == "auto" and elsewhere and plain and fold.pays(x, strides):
        return fold.convolve(x, kernel, strides, padding)
    if how == "xla" or (how in ("auto", "onednn") and elsewhere) or not wide or not plain:
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            rhs_dilation=rhs_dilation,
            feature_group_count=feature_group_count,
            **others,
        )
    sh, sw = strides
    if kernel.shape[:2] == (1, 1) and not any(map(any, padding)):
        x, sh, sw = x[:, ::sh, ::sw], 1, 1  # the pixels that a 1x1 kernel skips never count
    sizes = (x.shape[1:], kernel.shape, (sh, sw), tuple(tuple(pads) for pads in padding))
    return products(Geometry(*sizes, how), x, kernel)  # type: ignore[arg-type]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def products(g: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, H', W', O]; both gradients are products."""
    if g.few_pixels:
        return (x.reshape(len(x), -1) @ matrix(g, kernel)).reshape(-1, *g.out)
    if g.xla_forward:
        return own(g, x, kernel)

    def block(x: jax.Array) -> tuple[None, jax.Array]:
        if g.in_rows:
            return None, collect(g, side_by_side(g, x) @ as_matrix(kernel))
        return None, (columns(g, x) @ kernel.reshape(-1, g.kernel[3])).reshape(-1, *g.out)

    return over_blocks(g.block(len(x), x.dtype.itemsize), block, x)[1]


def _forward(g: Geometry, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return products(g, x, kernel), (x, kernel)


def _backward(g: Geometry, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if g.few_pixels:
        flat, dflat = x.reshape(len(x), -1), dy.reshape(len(x), -1)
        m, to_kernel = jax.vjp(partial(matrix, g), kernel)
        return (dflat @ m.T).reshape(x.shape), to_kernel(flat.T @ dflat)[0]

    k, to_kernel = jax.vjp(as_matrix if g.in_rows else lambda w: w.reshape(-1, g.kernel[3]), kernel)

    def rows(x: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        dz = uncollect(g, dy)
        return side_by_side(g, x).T @ dz, None if g.xla_input_gradient else merge(g, dz @ k.T)

    def strided(x: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        dz = dy.reshape(-1, g.kernel[3])
        if g.xla_input_gradient:
            return columns(g, x).T @ dz, None
        side, to_x = jax.vjp(partial(columns, g), x)
        return side.T @ dz, to_x(dz @ k.T)[0]

    dk, dx = over_blocks(g.block(len(x), x.dtype.itemsize), rows if g.in_rows else strided, x, dy)
    if dx is None:
        (dx,) = jax.linear_transpose(lambda x: own(g, x, kernel), x)(dy)
    return dx, to_kernel(dk)[0]


products.defvjp(_forward, _backward)


def own(g: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's own convolution."""
    return lax.conv_general_dilated(x, kernel, g.strides, g.padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def over_blocks(size: int, work: Callable[..., tuple[Any, Any]], x: jax.Array, *dy: jax.Array) -> tuple[Any, Any]:
    """`work(x, *dy)`, which returns a sum over images and what each has, from `size` images at a time.

    Either of the two may be None. The loop reads its blocks where they lie: arrays of another shape would be made
    anew for it, with all that leads to them. What it writes takes the place of dy, which nothing else needs.
    """
    arrays = (x, *dy)
    if size == len(x):
        return work(*arrays)
    blocks = [jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype) for a in arrays]
    total, each = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(work, *blocks))
    in_place = bool(dy) and each is not None and each.shape[1:] == dy[0].shape[1:]
    out = None if each is None else dy[0] if in_place else jnp.zeros((len(x), *each.shape[1:]), each.dtype)

    def step(i: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        total, out = carry
        parts = (x, out) if in_place else arrays
        part, each = work(*(lax.dynamic_slice_in_dim(a, i * size, size) for a in parts))
        if each is not None:
            out = lax.dynamic_update_slice_in_dim(out, each, i * size, 0)
        return jax.tree.map(jnp.add, total, part), out

    return lax.fori_loop(0, len(x) // size, step, (total, out))


def side_by_side(g: Geometry, x: jax.Array) -> jax.Array:
    """X: [N, H, W, C] -> [N H W', kw C]."""
    left = g.padding[1][0]
    parts = [shift(x, 2, left - j, g.out[1]) for j in range(g.kernel[1])]
    return jnp.concatenate(parts, -1).reshape(-1, g.kernel[1] * g.shape[2])


def merge(g: Geometry, dx: jax.Array) -> jax.Array:
    """The transpose of `side_by_side`."""
    parts = dx.reshape(-1, g.shape[0], g.out[1], g.kernel[1], g.shape[2])
    left, width = g.padding[1][0], g.shape[1]
    return functools.reduce(jnp.add, [shift(parts[..., j, :], 2, j - left, width) for j in range(g.kernel[1])])


def collect(g: Geometry, z: jax.Array) -> jax.Array:
    """y from Z: [N H W', kh O] -> [N, H', W', O]."""
    parts = z.reshape(-1, g.shape[0], g.out[1], g.kernel[0], g.kernel[3])
    top, height = g.padding[0][0], g.out[0]
    return functools.reduce(jnp.add, [shift(parts[..., i, :], 1, top - i, height) for i in range(g.kernel[0])])


def uncollect(g: Geometry, dy: jax.Array) -> jax.Array:
    """The transpose of `collect`."""
    top = g.padding[0][0]
    parts = [shift(dy, 1, i - top, g.shape[0]) for i in range(g.kernel[0])]
    return jnp.concatenate(parts, -1).reshape(-1, g.kernel[0] * g.kernel[3])


def as_matrix(kernel: jax.Array) -> jax.Array:
    """K: [kh, kw, C, O] -> [kw C, kh O]."""
    kh, kw, c, o = kernel.shape
    return kernel.transpose(1, 2, 0, 3).reshape(kw * c, kh * o)


def matrix(g: Geometry, kernel: jax.Array) -> jax.Array:
    """M: [kh, kw, C, O] -> [H W C, H' W' O], zero where no tap leads from a pixel to another."""
    (top, _), (left, _) = g.padding
    (height, width, _), (rows, cols, _), (sh, sw) = g.shape, g.out, g.strides
    # What the pixels of the input give to one of the output: the kernel, placed on the map.
    placed = [
        shift(shift(kernel, 0, i * sh - top, height), 1, j * sw - left, width)
        for i in range(rows)
        for j in range(cols)
    ]
    return jnp.stack(placed, 3).reshape(math.prod(g.shape), math.prod(g.out))


def columns(g: Geometry, x: jax.Array) -> jax.Array:
    """im2col: [N, H, W, C] -> [N H' W', kh kw C]."""
    x = jnp.pad(x, ((0, 0), *g.padding, (0, 0)))
    (kh, kw, c, _), (rows, cols, _), (sh, sw) = g.kernel, g.out, g.strides
    parts = [
        x[:, i : i + (rows - 1) * sh + 1 : sh, j : j + (cols - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return jnp.concatenate(parts, -1).reshape(-1, kh * kw * c)


def shift(x: jax.Array, axis: int, by: int, size: int) -> jax.Array:
    """y[i] = x[i - by] along an axis, for i in [0, size): zeros come in, and what is shifted out is lost."""
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (by, size - x.shape[axis] - by, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), edges)
