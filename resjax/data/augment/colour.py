"""Colours of training images on the device: float32 [B, H, W, 3] in the units of stored pixels, 0 ... 255.

Nothing is clipped, as in fb.resnet.torch. Draws come from the host, see `draw`.
"""

import jax
import jax.numpy as jnp

BRIGHTNESS, CONTRAST, SATURATION = range(3)
GREY = (0.299, 0.587, 0.114)


def jitter(images: jax.Array, kinds: jax.Array, alphas: jax.Array) -> jax.Array:
    """Blends images with black, with their mean grey and with themselves in grey, in any order.

    image <- alpha image + (1 - alpha) other, three times, as in fb.resnet.torch (datasets/transforms.lua,
    ColorJitter). The mean grey is that of the image as it is by then.

    Args:
        kinds: int32 [B, 3], BRIGHTNESS, CONTRAST and SATURATION in the order in which they come.
        alphas: float32 [B, 3], in the same order.
    """
    for k in range(3):
        kind = kinds[:, k][:, None, None, None]
        alpha = alphas[:, k][:, None, None, None]
        red, green, blue = (images[..., c : c + 1] * GREY[c] for c in range(3))
        grey = red + green + blue
        mean = grey.mean((1, 2), keepdims=True)
        other = jnp.where(kind == SATURATION, grey, jnp.where(kind == CONTRAST, mean, 0))
        images = alpha * images + (1 - alpha) * other
    return images


def light(images: jax.Array, shift: jax.Array) -> jax.Array:
    """Adds a colour to all pixels of an image: [B, 3], in their units."""
    return images + shift[:, None, None]
