"""A convolution of stride s as one of stride 1 on cells of s x s pixels, with the channels of all of them.

Accelerators multiply by eight or sixteen channels at a time, and a photograph has three. Folded, ResNet-50's 7x7
stem of stride 2 is a 4x4 convolution of 12 channels, with the same products and some of zeros.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

FEW = 4  # channels


def pays(x: jax.Array, strides: Sequence[int]) -> bool:
    """Whether folding a convolution of [N, H, W, C] is faster on an accelerator."""
    return max(strides) > 1 and x.shape[-1] <= FEW


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> jax.Array:
    """`lax.conv_general_dilated` of [N, H, W, C] and [kh, kw, C, O], folded.

    The kernel is filled up with zeros to whole cells, and so is the map.
    """
    n, c, out = len(x), *kernel.shape[2:]
    x_edges, kernel_edges = [(0, 0)], []
    for axis, (s, (low, high)) in enumerate(zip(strides, padding, strict=True)):
        size, taps = x.shape[axis + 1], kernel.shape[axis]
        cells = (size + low + high - taps) // s + -(-taps // s)  # the outputs less one, and what the last one reads
        x_edges.append((low, cells * s - size - low))
        kernel_edges.append((0, -taps % s))
    (sh, sw), none = strides, jnp.zeros((), x.dtype)
    x = lax.pad(x, none, [(low, high, 0) for low, high in (*x_edges, (0, 0))])
    x = x.reshape(n, x.shape[1] // sh, sh, x.shape[2] // sw, sw, c).transpose(0, 1, 3, 2, 4, 5)
    kernel = jnp.pad(kernel, [*kernel_edges, (0, 0), (0, 0)])
    kernel = kernel.reshape(kernel.shape[0] // sh, sh, kernel.shape[1] // sw, sw, c, out).transpose(
        0, 2, 1, 3, 4, 5
    )
    return lax.conv_general_dilated(
        x.reshape(*x.shape[:3], sh * sw * c),
        kernel.reshape(*kernel.shape[:2], sh * sw * c, out),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
